"""The paper's two nets: the MNIST MLP and the CIFAR-10/SVHN ConvNet (section 2; sizes in the experiment files)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reproduce import spec
from reproduce.nets.binarize import sign_ste, stochastic_sign_ste
from reproduce.nets.layers import Binarizer, BinaryConv2d, BinaryLinear, Norm, dropout
from reproduce.shapes import Layer


class Activation(nn.Module):
    """Base class of the activations: x (N, units) or (N, units, H, W) -> the same shape.

    `masked`: no gradient where |x| > 1.
    """

    def __init__(self, units: int, masked: bool) -> None:
        super().__init__()
        self.masked = masked


@spec.ACTIVATIONS.add("sign")
class Sign(Activation):
    """±1. In evaluation a subclass must be sign(x + p), p (units,) the parameter named by `added`, 0 if None."""

    added: str | None = None

    def forward(self, x: Tensor) -> Tensor:
        return sign_ste(x, self.masked)


@spec.ACTIVATIONS.add("stochastic_sign")
class StochasticSign(Sign):
    """The stochastic sign in training, the deterministic one in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        return stochastic_sign_ste(x, self.masked) if self.training else sign_ste(x, self.masked)


@spec.ACTIVATIONS.add("sign_with_zero")
class SignWithZero(Activation):
    """The sign with sign(0) = 0, as in Torch7's own function; the gradient is that of `Sign`."""

    def forward(self, x: Tensor) -> Tensor:
        return sign_ste(x, self.masked) - (x.detach() == 0).to(x.dtype)


@spec.ACTIVATIONS.add("relu")
class ReLU(Activation):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class Block(nn.Module):
    """linear or conv -> [2×2 max pooling] -> batch norm -> [activation] -> [dropout], in that order.

    Pooling acts on pre-activations: after a sign it would be an OR. `activation` is the name of a registered
    activation; `act` is its module.
    """

    def __init__(
        self,
        layer: BinaryLinear | BinaryConv2d,
        norm: Norm,
        activation: str | None,
        pool: bool = False,
        dropout: float = 0.0,
        ste_mask: bool = True,
    ) -> None:
        super().__init__()
        self.layer, self.norm, self.pool, self.dropout = layer, norm, pool, dropout
        self.activation, self.ste_mask = activation, ste_mask
        self.act = None if activation is None else spec.ACTIVATIONS[activation](len(norm.weight), ste_mask)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        if self.pool:
            x = F.max_pool2d(x, 2)
        x = self.norm(x)
        if self.act is not None:
            x = self.act(x)
        return dropout(x, self.dropout) if self.dropout and self.training else x


@spec.NETS.add(spec.MLPNet)
class MLP(nn.Module):
    """x (N, pixels) float -> scores (N, classes); the output layer has BN but no sign."""

    def __init__(self, net: spec.MLPNet, image: spec.Image, classes: int) -> None:
        super().__init__()
        self.dropout_in = net.dropout_in
        self.blocks = _blocks(net, image, classes, net.dropout_hidden)
        _init(self, net)

    def forward(self, x: Tensor) -> Tensor:
        if self.dropout_in and self.training:
            x = dropout(x, self.dropout_in)
        for block in self.blocks:
            x = block(x)
        return x


@spec.NETS.add(spec.ConvNet)
class ConvNet(nn.Module):
    """x (N, C, H, W) -> scores (N, classes): stages of two 3×3 convolutions and a pooling, then dense layers."""

    def __init__(self, net: spec.ConvNet, image: spec.Image, classes: int) -> None:
        super().__init__()
        self.blocks = _blocks(net, image, classes)
        self.convolutions = sum(layer.kernel > 1 for layer in net.layers(image, classes))
        _init(self, net)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.blocks):
            x = block(x.flatten(1) if i == self.convolutions else x)
        return x


def build(settings: spec.Settings) -> nn.Module:
    """The net of a run, initialised from torch's global generator."""
    net, data = settings.net, settings.dataset
    made: nn.Module = spec.NETS[net.kind](net, data.planes, data.classes)
    if isinstance(made, MLP | ConvNet):
        assert isinstance(net, spec.PaperNet)
        dropout_hidden = net.dropout_hidden if isinstance(net, spec.MLPNet) else 0.0
        exact = math.log2(1 - dropout_hidden).is_integer()  # dropout multiplies by a power of two
        for block in list(made.blocks)[1:]:
            assert isinstance(block, Block)
            block.layer.signs_in = exact and net.activation in ("sign", "stochastic_sign")
    return made


def _weights(net: spec.PaperNet, first: bool = False) -> tuple[bool, Binarizer | None]:
    """Whether weights are binarized by their sign; if not, their binarizer, or None for float weights."""
    if first and net.first_weights == "float":
        return False, None
    return net.weights == "binary", None if net.weights in ("binary", "float") else spec.WEIGHTS[net.weights]


def _norm(norm: spec.Norm, n: int) -> Norm:
    made: Norm = spec.NORMS[norm.kind](n, norm.eps, norm.alpha)
    return made


def _blocks(net: spec.PaperNet, image: spec.Image, classes: int, dropout: float = 0.0) -> nn.ModuleList:
    """A block for each of the net's layers; the last one has the output norm and no activation."""
    *hidden, last = net.layers(image, classes)
    blocks = nn.ModuleList()
    for layer in hidden:
        product, norm = _product(net, layer, not blocks), _norm(net.norm, layer.outputs)
        blocks.append(Block(product, norm, net.activation, layer.pool, dropout, net.ste_mask))
    blocks.append(Block(_product(net, last), _norm(net.output_norm, last.outputs), None))
    return blocks


def _product(net: spec.PaperNet, layer: Layer, first: bool = False) -> BinaryLinear | BinaryConv2d:
    weights = _weights(net, first)
    if layer.kernel == 1:
        return BinaryLinear(layer.inputs, layer.outputs, *weights)
    border = net.border if isinstance(net, spec.ConvNet) and not first else 0
    return BinaryConv2d(layer.inputs, layer.outputs, *weights, border=border)


@torch.no_grad()
def _init(module: nn.Module, net: spec.PaperNet) -> None:
    for layer in module.modules():
        if isinstance(layer, BinaryLinear | BinaryConv2d):
            bound = {"uniform": 1.0, "uniform_2": 2.0, "glorot": math.sqrt(6 / sum(layer.fans))}[net.init]
            layer.weight.uniform_(-bound, bound)
            assert layer.bias is not None
            layer.bias.zero_()
            if net.bias_init == "uniform":
                layer.bias.uniform_(-1, 1).div_(math.sqrt(layer.fans[0]))


def weight_count(module: nn.Module) -> int:
    """Number of (binary) weights, without biases and batch norm."""
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, BinaryLinear | BinaryConv2d))
