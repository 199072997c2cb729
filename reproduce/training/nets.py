"""The paper's two nets: the MNIST MLP and the CIFAR-10/SVHN ConvNet (section 2; sizes in the experiment files)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reproduce import spec
from reproduce.training.binarize import sign_ste, stochastic_sign_ste
from reproduce.training.layers import (
    BatchNorm,
    BinaryConv2d,
    BinaryLinear,
    Norm,
    ShiftBatchNorm,
    StdBatchNorm,
    dropout,
)

CLASSES = 10
NORMS = {"vanilla": BatchNorm, "std": StdBatchNorm, "shift": ShiftBatchNorm}


class Block(nn.Module):
    """linear or conv -> [2×2 max pooling] -> batch norm -> [activation] -> [dropout], in that order.

    Pooling acts on pre-activations: after a sign it would be an OR.
    """

    def __init__(
        self,
        layer: BinaryLinear | BinaryConv2d,
        norm: Norm,
        activation: spec.Activation | None,
        pool: bool = False,
        dropout: float = 0.0,
        ste_mask: bool = True,
    ) -> None:
        super().__init__()
        self.layer, self.norm, self.pool, self.dropout = layer, norm, pool, dropout
        self.activation, self.ste_mask = activation, ste_mask
        binary = partial(sign_ste, masked=ste_mask)
        noisy = partial(stochastic_sign_ste, masked=ste_mask)
        self._train: Callable[[Tensor], Tensor] | None
        self._eval: Callable[[Tensor], Tensor] | None
        match activation:
            case "sign":
                self._train = self._eval = binary
            case "stochastic_sign":
                self._train, self._eval = noisy, binary
            case "relu":
                self._train = self._eval = F.relu
            case None:
                self._train = self._eval = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        if self.pool:
            x = F.max_pool2d(x, 2)
        x = self.norm(x)
        activation = self._train if self.training else self._eval
        if activation is not None:
            x = activation(x)
        return dropout(x, self.dropout) if self.dropout and self.training else x


class MLP(nn.Module):
    """x (N, inputs) float -> scores (N, 10); the output layer has BN but no sign."""

    def __init__(self, net: spec.MLPNet, inputs: int = 784) -> None:
        super().__init__()
        self.dropout_in = net.dropout_in
        sizes = [inputs, *net.hidden]
        self.blocks = nn.ModuleList(
            _dense(net, n_in, n_out, net.dropout_hidden) for n_in, n_out in pairwise(sizes)
        )
        self.blocks.append(_output(net, sizes[-1]))
        _init(self, net)

    def forward(self, x: Tensor) -> Tensor:
        if self.dropout_in and self.training:
            x = dropout(x, self.dropout_in)
        for block in self.blocks:
            x = block(x)
        return x


class ConvNet(nn.Module):
    """x (N, 3, 32, 32) float -> scores (N, 10): two 3×3 convolutions and a pooling a stage, then dense layers."""

    def __init__(self, net: spec.ConvNet, size: int = 32, colours: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        binary, channels = net.weights == "binary", colours
        for width in net.channels:
            for pool in (False, True):
                self.blocks.append(
                    Block(
                        BinaryConv2d(channels, width, binary),
                        _norm(net.norm, width),
                        net.activation,
                        pool=pool,
                        ste_mask=net.ste_mask,
                    )
                )
                channels = width
            size //= 2
        sizes = [channels * size * size, *net.dense]
        self.convolutions = len(self.blocks)
        for n_in, n_out in pairwise(sizes):
            self.blocks.append(_dense(net, n_in, n_out))
        self.blocks.append(_output(net, sizes[-1]))
        _init(self, net)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.blocks):
            x = block(x.flatten(1) if i == self.convolutions else x)
        return x


def build(net: spec.MLPNet | spec.ConvNet) -> MLP | ConvNet:
    """The net of a spec, initialised from torch's global generator."""
    made = MLP(net) if isinstance(net, spec.MLPNet) else ConvNet(net)
    dropout_hidden = net.dropout_hidden if isinstance(net, spec.MLPNet) else 0.0
    exact = math.log2(1 - dropout_hidden).is_integer()  # what dropout leaves over is scaled by a power of two
    for block in list(made.blocks)[1:]:
        assert isinstance(block, Block)
        block.layer.signs_in = exact and net.activation in ("sign", "stochastic_sign")
    return made


def _norm(norm: spec.Norm, n: int) -> Norm:
    return NORMS[norm.kind](n, norm.eps, norm.alpha)


def _dense(net: spec.MLPNet | spec.ConvNet, n_in: int, n_out: int, dropout: float = 0.0) -> Block:
    layer = BinaryLinear(n_in, n_out, net.weights == "binary")
    return Block(layer, _norm(net.norm, n_out), net.activation, dropout=dropout, ste_mask=net.ste_mask)


def _output(net: spec.MLPNet | spec.ConvNet, n_in: int) -> Block:
    return Block(BinaryLinear(n_in, CLASSES, net.weights == "binary"), _norm(net.output_norm, CLASSES), None)


@torch.no_grad()
def _init(module: nn.Module, net: spec.MLPNet | spec.ConvNet) -> None:
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


def macs(net: spec.MLPNet | spec.ConvNet) -> int:
    """Multiply-adds of one image's forward pass."""
    if isinstance(net, spec.MLPNet):
        sizes = [784, *net.hidden, CLASSES]
        return sum(a * b for a, b in pairwise(sizes))
    total, channels, size = 0, 3, 32
    for width in net.channels:
        total += 9 * size * size * (channels * width + width * width)
        channels, size = width, size // 2
    sizes = [channels * size * size, *net.dense, CLASSES]
    return total + sum(a * b for a, b in pairwise(sizes))
