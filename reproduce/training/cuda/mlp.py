"""A training step of the paper's MLP on a GPU without autograd: bf16 products, and one pass between two of them.

It computes what autograd would: Algorithm 1's two passes with vanilla batch norm, signs, dropout and the squared
hinge loss. A product of ±1 or 0 by ±1 is exact; gradients enter products as a high and a low bf16 part, and the
first layer's images as three (`tensorcores`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kernels.cuda import passes
from reproduce import nets
from reproduce.nets import ways
from reproduce.nets.layers import BatchNorm, BinaryLinear
from reproduce.nets.tensorcores import precision, product, signs_of
from reproduce.training.preprocess import DeviceData


def unknown(net: nn.Module, data: DeviceData, batch: int, loss: str) -> str | None:
    """Why a step cannot be made here, in a few words; None if it can."""
    if type(net) is not nets.MLP:
        return f"a net of the kind {type(net).__name__}"
    if not (ways.uses("passes") and ways.uses("bf16")):
        return "a part of the step that is left out"
    if batch > passes.MOST_ROWS:
        return f"a batch of more than {passes.MOST_ROWS} images"
    if loss != "squared_hinge":
        return f"a loss of the kind {loss}"
    if data.rows.dtype != torch.uint8 or data.shape:
        return "images that are not rows of bytes"
    *hidden, last = net.blocks
    for block in net.blocks:
        assert isinstance(block, nets.Block)
        layer = block.layer
        if type(layer) is not BinaryLinear or not layer.binary or layer.binarize is not None:
            return "weights that are not plain signs"
        if type(block.norm) is not BatchNorm:
            return f"a {type(block.norm).__name__}"
        if block.activation != (None if block is last else "sign"):
            return f"an activation of the kind {block.activation}"
        if block is not net.blocks[0] and not layer.signs_in:
            return "a dropout whose scale is no power of two"
    return None if hidden else "a net without hidden layers"


class Layer:
    """What a block of the net keeps from its forward to its backward pass."""

    def __init__(self, block: nets.Block, last: bool) -> None:
        layer, norm = block.layer, block.norm
        assert isinstance(layer, BinaryLinear) and layer.bias is not None
        self.weight, self.bias, self.norm = layer.weight, layer.bias, norm
        self.drop, self.masked, self.last = float(block.dropout), block.ste_mask, last
        self.plus = int(torch.full((), 1 / (1 - self.drop), dtype=torch.bfloat16).view(torch.int16))
        self.y = self.mean = self.inverse = self.out = torch.empty(0)

    def forward(self, x: Tensor, parts: int, stream: int) -> Tensor:
        """x (parts · B, in) bf16, the sum of whose parts is the input -> signs (2 B, out) bf16, twice the same; of
        the last layer scores (B, out) float32.
        """
        device, norm = x.device, self.norm
        y = product(x, signs_of(self.weight, torch.bfloat16).T)
        rows, units = len(y) // parts, y.shape[1]
        mean, inverse = torch.empty(units, device=device), torch.empty(units, device=device)
        noise = torch.rand(rows, units, device=device) if self.drop else None
        if self.last:
            out = torch.empty(rows, units, device=device)
        else:
            out = torch.empty(2 * rows, units, device=device, dtype=torch.bfloat16)
        job = passes.Forward(
            y=_at(y), bias=_at(self.bias), gamma=_at(norm.weight), beta=_at(norm.bias), moving_mean=_at(norm.mean),
            moving_inverse=_at(norm.get_buffer("inv_std")), mean=_at(mean), inverse=_at(inverse), noise=_at(noise),
            signs=0 if self.last else _at(out), out=_at(out) if self.last else 0, parts=parts, rows=rows,
            units=units, one=self.plus, eps=norm.eps, alpha=norm.alpha, drop=self.drop,
        )  # fmt: skip
        passes.forward(job, stream)
        self.y, self.mean, self.inverse, self.out, self.parts = y, mean, inverse, out, parts
        return out

    def backward(self, grad: Tensor, grads: int, stream: int, whole: bool) -> tuple[Tensor, Tensor | None]:
        """grad (grads · B, out) float32, whose parts' sum is the gradient of the result -> that of the product,
        (2 B, out) bf16, high and low parts, and if `whole` (B, out) float32. Sets those of bias, gamma and beta.
        """
        norm, units = self.norm, len(self.bias)
        rows = len(grad) // grads
        to_gamma, to_beta, to_bias = (torch.empty_like(p) for p in (norm.weight, norm.bias, self.bias))
        halves = torch.empty(2 * rows, units, device=grad.device, dtype=torch.bfloat16)
        full = torch.empty(rows, units, device=grad.device) if whole else None
        job = passes.Backward(
            y=_at(self.y), grad=_at(grad), signs=0 if self.last else _at(self.out), mean=_at(self.mean),
            inverse=_at(self.inverse), gamma=_at(norm.weight), beta=_at(norm.bias), to_gamma=_at(to_gamma),
            to_beta=_at(to_beta), to_bias=_at(to_bias), halves=_at(halves), whole=_at(full), parts=self.parts,
            grads=grads, rows=rows, units=units, masked=int(self.masked), kept=1 / (1 - self.drop),
        )  # fmt: skip
        passes.backward(job, stream)
        norm.weight.grad, norm.bias.grad, self.bias.grad = to_gamma, to_beta, to_bias
        return halves, full


class MLPStep:
    """Forward and backward of a net on images of `data`. `loss_sum`: a float64 scalar, to which each cost is
    added."""

    def __init__(self, net: nets.MLP, data: DeviceData, loss_sum: Tensor) -> None:
        self.data, self.loss_sum, self.drop_in = data, loss_sum, float(net.dropout_in)
        blocks = list(net.blocks)
        self.layers = [Layer(block, block is blocks[-1]) for block in blocks]  # type: ignore[arg-type]

    @torch.no_grad()
    def __call__(self, index: Tensor) -> None:
        """The images at `index` (B,) int64: adds their cost, and sets the gradient of every parameter."""
        stream = torch.cuda.current_stream(index.device).cuda_stream if index.is_cuda else 0
        images, x = self._images(index, stream)
        inputs, parts = [x], 3
        for layer in self.layers:
            x = layer.forward(x[: len(index)] if parts == 1 else x, parts, stream)
            inputs.append(x)
            parts = 1
        scores = inputs.pop()
        grad = torch.empty_like(scores)
        job = passes.Hinge(
            scores=_at(scores), labels=_at(self.data.labels), index=_at(index), grad=_at(grad),
            loss_sum=_at(self.loss_sum), rows=len(index), classes=scores.shape[1],
        )  # fmt: skip
        passes.hinge(job, stream)
        grads = 1
        for k in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[k]
            halves, whole = layer.backward(grad, grads, stream, whole=k == 0)
            if whole is not None:
                with precision(False):
                    layer.weight.grad = whole.T @ images
                return
            layer.weight.grad = product(halves.T, inputs[k])
            grad, grads = product(halves, signs_of(layer.weight, torch.bfloat16)), 2

    def _images(self, index: Tensor, stream: int) -> tuple[Tensor, Tensor]:
        """Images with dropout: float32 (B, pixels), and (3 B, pixels) bf16, three parts whose sum they are."""
        data, device = self.data, index.device
        size = (len(index), data.rows.shape[1])
        noise = torch.rand(size, device=device) if self.drop_in else None
        whole = torch.empty(size, device=device)
        parts = torch.empty(3 * size[0], size[1], device=device, dtype=torch.bfloat16)
        shift = data.shift.reshape(-1)
        job = passes.Images(
            images=_at(data.rows), index=_at(index), shift=_at(shift), noise=_at(noise), whole=_at(whole),
            parts=_at(parts), rows=size[0], pixels=size[1], shifts=len(shift), scale=data.scale, drop=self.drop_in,
        )  # fmt: skip
        passes.images(job, stream)
        return whole, parts


def _at(tensor: Tensor | None) -> int:
    """The address of a C-contiguous tensor; 0 for none."""
    assert tensor is None or tensor.is_contiguous()
    return 0 if tensor is None else tensor.data_ptr()
