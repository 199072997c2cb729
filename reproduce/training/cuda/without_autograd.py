"""A training step of the paper's nets on a GPU without autograd: matrix products with few passes between them.

It computes what autograd would: Algorithm 1's two passes with vanilla batch norm, signs, pooling, dropout and the
squared hinge loss. Products have the precision of `tensorcores`: those of ±1 or 0 by ±1 are exact. A gradient
enters a dense product as a high and a low bf16 part, and a convolution in TF32. A dense first layer takes images
as three bf16 parts, a convolution as float32. The gradient of a bias is 0, because batch normalization subtracts
the mean.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.cuda import passes
from reproduce import nets
from reproduce.nets import ways
from reproduce.nets.binarize import sign
from reproduce.nets.layers import BatchNorm, BinaryConv2d, BinaryLinear
from reproduce.nets.tensorcores import conv_backward, exact_in_fp16, precision, product, signs_of
from reproduce.training.preprocess import DeviceData

BF16_ONE, FP16_ONE = 0x3F80, 0x3C00
"""The bits of 1."""


def unknown(net: nn.Module, data: DeviceData, batch: int, loss: str) -> str | None:
    """Why this module cannot make the steps of a net, in a few words; None if it can."""
    if type(net) not in (nets.MLP, nets.ConvNet):
        return f"a net of the kind {type(net).__name__}"
    if not all(map(ways.uses, ("passes", "bf16", "tf32"))):
        return "a part of the step that is left out"
    if batch > passes.MOST_ROWS:
        return f"a batch of more than {passes.MOST_ROWS} images"
    if loss != "squared_hinge":
        return f"a loss of the kind {loss}"
    if type(net) is nets.MLP and (data.rows.dtype != torch.uint8 or data.shape):
        return "images that are not rows of bytes"
    blocks = [block for block in net.blocks if isinstance(block, nets.Block)]  # type: ignore[union-attr]
    for block in blocks:
        layer = block.layer
        if type(layer) not in (BinaryLinear, BinaryConv2d) or not layer.binary or layer.binarize is not None:
            return "weights that are not plain signs"
        if isinstance(layer, BinaryConv2d) and layer.border:
            return "a border of ones"
        if type(block.norm) is not BatchNorm:
            return f"a {type(block.norm).__name__}"
        if block.activation != (None if block is blocks[-1] else "sign"):
            return f"an activation of the kind {block.activation}"
        if block is not blocks[0] and not layer.signs_in:
            return "a dropout whose scale is no power of two"
    return None if len(blocks) > 1 else "a net without hidden layers"


class Dense:
    """A dense block of the net, with the arrays that its backward pass needs."""

    def __init__(self, block: nets.Block, last: bool) -> None:
        layer, norm = block.layer, block.norm
        assert isinstance(layer, BinaryLinear) and layer.bias is not None
        self.weight, self.bias, self.norm = layer.weight, layer.bias, norm
        self.drop, self.masked, self.last = float(block.dropout), block.ste_mask, last
        self.zeros = torch.zeros_like(layer.bias)
        self.plus = int(torch.full((), 1 / (1 - self.drop), dtype=torch.bfloat16).view(torch.int16))
        self.y = self.mean = self.inverse = self.out = torch.empty(0)

    def forward(self, x: Tensor, parts: int, stream: int) -> Tensor:
        """x (parts · B, in) bf16: parts whose sum is the input. Returns signs (2 B, out) bf16, the same matrix
        twice; for the last layer scores (B, out) float32.
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
        """grad (grads · B, out) float32: parts whose sum is the gradient of the result. Returns the gradient of
        the product, (2 B, out) bf16 as high and low parts, and if `whole` also (B, out) float32. Sets the
        gradients of bias, gamma and beta.
        """
        norm, units = self.norm, len(self.bias)
        rows = len(grad) // grads
        to_gamma, to_beta = torch.empty_like(norm.weight), torch.empty_like(norm.bias)
        halves = torch.empty(2 * rows, units, device=grad.device, dtype=torch.bfloat16)
        full = torch.empty(rows, units, device=grad.device) if whole else None
        job = passes.Backward(
            y=_at(self.y), grad=_at(grad), signs=0 if self.last else _at(self.out), mean=_at(self.mean),
            inverse=_at(self.inverse), gamma=_at(norm.weight), beta=_at(norm.bias), to_gamma=_at(to_gamma),
            to_beta=_at(to_beta), halves=_at(halves), whole=_at(full), parts=self.parts, grads=grads, rows=rows,
            units=units, masked=int(self.masked), kept=1 / (1 - self.drop),
        )  # fmt: skip
        passes.backward(job, stream)
        norm.weight.grad, norm.bias.grad, self.bias.grad = to_gamma, to_beta, self.zeros
        return halves, full


class Convolution:
    """A convolutional block of the net; `after` is the next block."""

    def __init__(self, block: nets.Block, after: nets.Block) -> None:
        layer = block.layer
        assert isinstance(layer, BinaryConv2d) and layer.bias is not None
        self.weight, self.bias, self.norm = layer.weight, layer.bias, block.norm
        self.pool, self.masked, self.signs_in = block.pool, block.ste_mask, layer.signs_in
        self.zeros = torch.zeros_like(layer.bias)
        self.half = _in_fp16(block)
        self.flat, self.signs_out = isinstance(after.layer, BinaryLinear), _in_fp16(after)
        self.x = self.y = torch.empty(0)

    def forward(self, x: Tensor, halves: Tensor | None, stream: int) -> tuple[Tensor, Tensor | None]:
        """x (B, Cin, H, W) float32, channels last, and the same in fp16 if this layer takes that. Returns such a
        pair for the result; before a dense layer (2 B, features) bf16, the same matrix twice, and None.
        """
        norm, device = self.norm, x.device
        if self.half:
            assert halves is not None
            y = F.conv2d(halves, signs_of(self.weight, torch.float16), padding=1)
        else:
            with precision(self.signs_in):
                y = F.conv2d(x, sign(self.weight), padding=1)
        y = y.contiguous(memory_format=torch.channels_last)
        images, units, height, width = y.shape
        if self.pool:
            height, width = height // 2, width // 2
        rows, signs, floats = images * height * width, None, None
        if self.flat:
            signs = torch.empty(2 * images, units * height * width, device=device, dtype=torch.bfloat16)
        else:
            floats = _channels_last(images, units, height, width, torch.float32, device)
            if self.signs_out:
                signs = _channels_last(images, units, height, width, torch.float16, device)
        room = torch.empty(2 + 2 * passes.chunks(rows), units, device=device)
        self.x, self.y, self.kept = x, y, (room, signs, floats)
        self.job = {
            "y": y.data_ptr(), "half": int(y.dtype == torch.float16), "pool": int(self.pool), "rows": rows,
            "units": units, "height": height, "width": width, "bias": _at(self.bias), "gamma": _at(norm.weight),
            "beta": _at(norm.bias), "moving_mean": _at(norm.mean),
            "moving_inverse": _at(norm.get_buffer("inv_std")), "mean": _at(room[0]), "inverse": _at(room[1]),
            "partial": _at(room[2]), "flat": int(self.flat), "masked": int(self.masked),
            "signs": 0 if signs is None else signs.data_ptr(),
            "floats": 0 if floats is None else floats.data_ptr(), "one": BF16_ONE if self.flat else FP16_ONE,
        }  # fmt: skip
        none = dict.fromkeys(("grad", "grads", "to_y", "to_gamma", "to_beta"), 0)
        passes.conv_forward(passes.Conv(**self.job, **none, eps=norm.eps, alpha=norm.alpha), stream)
        if floats is None:
            assert signs is not None
            return signs, None
        return floats, signs

    def backward(self, grad: Tensor, grads: int, stream: int, first: bool) -> Tensor | None:
        """grad: float32 in the layout of the result (`grads` matrices). Returns the gradient of x, except for the
        first layer. Sets the gradients of the parameters.
        """
        norm = self.norm
        to_y = torch.empty_like(self.y, dtype=torch.float32)
        to_gamma, to_beta = torch.empty_like(norm.weight), torch.empty_like(norm.bias)
        places = {
            "grad": grad.data_ptr(),
            "to_y": to_y.data_ptr(),
            "to_gamma": _at(to_gamma),
            "to_beta": _at(to_beta),
        }
        job = passes.Conv(**self.job, **places, grads=grads, eps=norm.eps, alpha=norm.alpha)
        passes.conv_backward(job, stream)
        norm.weight.grad, norm.bias.grad, self.bias.grad = to_gamma, to_beta, self.zeros
        signs = sign(self.weight)
        with precision(self.signs_in):
            self.weight.grad = conv_backward(to_y, self.x, signs, (False, True, False))[1]
        if first:
            return None
        with precision(True):
            return conv_backward(to_y, self.x, signs, (True, False, False))[0]


class NetStep:
    """Forward and backward of a net on images of `data`. `loss_sum`: a float64 scalar, to which each cost is
    added.
    """

    def __init__(self, net: nets.MLP | nets.ConvNet, data: DeviceData, loss_sum: Tensor) -> None:
        self.data, self.loss_sum = data, loss_sum
        self.drop_in = float(net.dropout_in) if isinstance(net, nets.MLP) else 0.0
        blocks = [block for block in net.blocks if isinstance(block, nets.Block)]
        pairs = itertools.pairwise(blocks)
        self.convolutions = [Convolution(a, b) for a, b in pairs if isinstance(a.layer, BinaryConv2d)]
        self.dense = [Dense(block, block is blocks[-1]) for block in blocks[len(self.convolutions) :]]

    @torch.no_grad()
    def __call__(self, index: Tensor) -> None:
        """The images at `index` (B,) int64: adds their cost, and sets the gradient of every parameter."""
        stream = torch.cuda.current_stream(index.device).cuda_stream if index.is_cuda else 0
        batch, images, parts, halves = len(index), torch.empty(0), 1, None
        if self.convolutions:
            x = self.data.images(index).contiguous(memory_format=torch.channels_last)
        else:
            images, x = self._images(index, stream)
            parts = 3
        for convolution in self.convolutions:
            x, halves = convolution.forward(x, halves, stream)
        inputs = []
        for dense in self.dense:
            inputs.append(x)
            x = dense.forward(x[:batch] if parts == 1 else x, parts, stream)
            parts = 1
        grad, grads = torch.empty_like(x), 1
        job = passes.Hinge(
            scores=_at(x), labels=_at(self.data.labels), index=_at(index), grad=_at(grad),
            loss_sum=_at(self.loss_sum), rows=batch, classes=x.shape[1],
        )  # fmt: skip
        passes.hinge(job, stream)
        for dense, given in zip(reversed(self.dense), reversed(inputs), strict=True):
            first = given is inputs[0] and not self.convolutions
            both, whole = dense.backward(grad, grads, stream, whole=first)
            if whole is not None:
                with precision(False):
                    dense.weight.grad = whole.T @ images
                return
            dense.weight.grad = product(both.T, given)
            grad, grads = product(both, signs_of(dense.weight, torch.bfloat16)), 2
        for convolution in reversed(self.convolutions):
            below = convolution.backward(grad, grads, stream, convolution is self.convolutions[0])
            if below is not None:
                grad, grads = below.contiguous(memory_format=torch.channels_last), 1

    def _images(self, index: Tensor, stream: int) -> tuple[Tensor, Tensor]:
        """Images with dropout: float32 (B, pixels), and (3 B, pixels) bf16, three parts with the same sum."""
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


def _in_fp16(block: nets.Block) -> bool:
    """Whether a block's product is a convolution that takes fp16."""
    layer = block.layer
    taken = isinstance(layer, BinaryConv2d) and layer.signs_in and ways.uses("fp16")
    return taken and exact_in_fp16(layer.weight.shape[1])


def _channels_last(
    images: int, units: int, height: int, width: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    return torch.empty(images, height, width, units, dtype=dtype, device=device).permute(0, 3, 1, 2)


def _at(tensor: Tensor | None) -> int:
    """The address of a C-contiguous tensor; 0 for none."""
    assert tensor is None or tensor.is_contiguous()
    return 0 if tensor is None else tensor.data_ptr()
