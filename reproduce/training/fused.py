"""What one layer computes in a step without autograd: its product forward, the gradient of its input, its update.

Layers with binary weights keep the signs of their latent weights as `ternary.Panels`; an update writes the new
ones. Latent weights, moments and everything else of a run's state stay in the net's parameters and the optimizer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from kernels.arrays import Floats
from kernels.cpu.step import first_layer, fixed, ternary
from reproduce.nets.layers import BinaryConv2d, BinaryLinear

FEW = 32
"""Fewer outputs than this: one thread computes the gradient of the weights, to the same bits for every number of
threads. Where two threads share ten outputs, MKL takes other instructions for five, which round otherwise."""

Room = Callable[[str, tuple[int, ...], type[np.generic]], NDArray[Any]]
"""Returns the array of a name, shape and dtype: the same array in every step."""


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """A block in which torch uses one CPU thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class Values:
    """A layer's input, (N, K) or (N, H, W, C): a value is scale · element. The dtype says what the elements are.

    int8: -1 and 1, with `zeros` also 0.
    int16: pixels. `shift`, () or (K,), is not yet added; batch norm removes such constants, so only its mean
    needs them.
    float32: any numbers. Images (`images`) are multiplied in float32, activations in 16-bit fixed point.
    """

    array: NDArray[Any]
    scale: float = 1.0
    zeros: bool = False
    shift: Floats | None = None
    images: bool = False

    def floats(self) -> Floats:
        """The values themselves, without the shift."""
        if self.array.dtype == np.float32 and self.scale == 1:
            return self.array
        return self.array.astype(np.float32) * np.float32(self.scale)


@dataclass
class Latent:
    """A parameter with its moments as arrays in memory order, and the rule of its update in this step."""

    w: Floats
    m: Floats
    v: Floats
    rule: fixed.Rule | None = None


class Linear:
    """y = x · Wᵀ of a BinaryLinear. The caller adds the bias."""

    def __init__(self, layer: BinaryLinear) -> None:
        self.binary = layer.binary
        self.n_out, self.n_in = layer.weight.shape
        self.latent: Latent
        if self.binary:
            self.to_out = ternary.room(self.n_in, self.n_out)
            self.to_in = ternary.room(self.n_out, self.n_in)

    def refresh(self, latent: Latent) -> None:
        """Use these weights and moments from now on."""
        self.latent = latent
        if self.binary:
            fixed.signs(latent.w, self.to_in)
            fixed.signs(latent.w.T, self.to_out)

    def forward(self, x: Values, room: Room) -> tuple[NDArray[Any], float]:
        """y / scale as an array (N, out), int16 or float32, and the scale."""
        rows = len(x.array)
        if not self.binary:
            y = room("y", (rows, self.n_out), np.float32)
            torch.mm(torch.from_numpy(x.floats()), torch.from_numpy(self.latent.w).T, out=torch.from_numpy(y))
            return y, 1.0
        if x.array.dtype == np.int8:
            shape = ternary.code_shape(rows, 1, 1, self.n_in, 0)
            codes = ternary.codes(x.array.reshape(rows, 1, 1, -1), 0, room("codes", shape, np.uint8))
            return ternary.matmul(codes, self.to_out, room("y", (rows, self.n_out), np.int16)), x.scale
        y = room("y", (rows, self.n_out), np.float32)
        if x.images and x.array.dtype == np.float32:
            signs = torch.where(torch.from_numpy(self.latent.w) >= 0, 1.0, -1.0)
            torch.mm(torch.from_numpy(x.array), signs.T, out=torch.from_numpy(y))
            return y, x.scale
        return fixed.matmul(x.array, self.to_out, out=y), x.scale

    def of_shift(self, x: Values) -> Floats | float:
        """The amount (out,) that the pixels' shift adds to each row of y."""
        if x.shift is None:
            return 0.0
        found: Floats = fixed.matmul(np.full((1, self.n_in), x.shift, np.float32), self.to_out)[0]
        return found

    def to_input(self, grad: Floats, room: Room) -> Floats:
        """The gradient of x from that of y."""
        out = room("to_input", (len(grad), self.n_in), np.float32)
        if self.binary:
            return fixed.matmul(grad, self.to_in, out=out)
        torch.mm(torch.from_numpy(grad), torch.from_numpy(self.latent.w), out=torch.from_numpy(out))
        return out

    def update(self, grad: Floats, x: Values, room: Room) -> None:
        """Update the weights and their signs from the gradient of y."""
        own, rule = self.latent, self.latent.rule
        assert rule is not None
        if self.binary and x.array.dtype == np.int8:
            held = self._planes(x, room)
            low, high = ternary.planes(x.array, x.zeros, held)
            scale = x.scale / 2 if x.zeros else x.scale
            fixed.update(grad, low, high, scale, own.w, own.m, own.v, rule, self.to_in, self.to_out)
        elif self.binary and x.array.dtype == np.int16:
            first_layer.update(grad, x.array, x.scale, own.w, own.m, own.v, rule, self.to_out)
        else:
            to_weight = room("to_weight", own.w.shape, np.float32)
            with one_thread() if self.n_out < FEW else contextlib.nullcontext():
                torch.mm(torch.from_numpy(grad).T, torch.from_numpy(x.floats()), out=torch.from_numpy(to_weight))
            fixed.update_from(to_weight, own.w, own.m, own.v, rule)
            if self.binary:
                fixed.signs(own.w, self.to_in)
                fixed.signs(own.w.T, self.to_out)

    def _planes(self, x: Values, room: Room) -> tuple[ternary.Panels, ternary.Panels | None]:
        rows, n_in = x.array.shape
        shape = (-(-n_in // ternary.COLUMNS), -(-rows // 8), ternary.COLUMNS)
        low = ternary.Panels(room("low", shape, np.uint8), rows, n_in)
        return low, ternary.Panels(room("high", shape, np.uint8), rows, n_in) if x.zeros else None


class Convolution:
    """y = x * W of a BinaryConv2d (3×3, a border of zeros), channels last. The caller adds the bias."""

    def __init__(self, layer: BinaryConv2d) -> None:
        self.binary = layer.binary
        self.n_out, self.n_in = layer.weight.shape[:2]
        self.latent: Latent
        if self.binary:
            self.forwards = ternary.room(9 * 8 * -(-self.n_in // 8), self.n_out)
            self.backwards = ternary.room(9 * 8 * -(-self.n_out // 8), self.n_in)

    def refresh(self, latent: Latent) -> None:
        """Use these weights and moments (Cout, 3, 3, Cin) from now on."""
        self.latent = latent
        if self.binary:
            fixed.conv_signs(latent.w, self.forwards, self.backwards)

    def forward(self, x: Values, room: Room) -> tuple[NDArray[Any], float]:
        """y / scale as an array (N, H, W, Cout), int16 or float32, and the scale."""
        images, height, width, channels = x.array.shape
        shape = (images, height, width, self.n_out)
        if self.binary and x.array.dtype == np.int8:
            padded = ternary.code_shape(images, height, width, channels, 1)
            codes = ternary.codes(x.array, 1, room("codes", padded, np.uint8))
            return ternary.conv(codes, self.forwards, room("y", shape, np.int16)), x.scale
        if self.binary and not x.images:
            return fixed.conv(x.array, self.forwards, out=room("y", shape, np.float32)), x.scale
        y = F.conv2d(_nchw(x.floats()), self._weight(), padding=1)
        return np.ascontiguousarray(y.permute(0, 2, 3, 1).numpy()), 1.0

    def of_shift(self, x: Values) -> float:
        assert x.shift is None
        return 0.0

    def to_input(self, grad: Floats, room: Room) -> Floats:
        """The gradient of x from that of y."""
        if self.binary:
            out = room("to_input", (*grad.shape[:3], self.n_in), np.float32)
            return fixed.conv(grad, self.backwards, out=out)
        turned = self._weight().flip(2, 3).transpose(0, 1)
        return np.ascontiguousarray(F.conv2d(_nchw(grad), turned, padding=1).permute(0, 2, 3, 1).numpy())

    def update(self, grad: Floats, x: Values, room: Room) -> None:
        """Update the weights and their signs from the gradient of y."""
        own = self.latent
        assert own.rule is not None
        if self.binary and x.array.dtype == np.int8:
            to_weight = fixed.conv_gradient(grad, x.array, x.scale, room("to_weight", own.w.shape, np.float32))
        else:
            shape = (self.n_out, self.n_in, 3, 3)
            found = conv2d_weight(_nchw(x.floats()), shape, _nchw(grad), padding=1)
            to_weight = np.ascontiguousarray(found.permute(0, 2, 3, 1).numpy())
        fixed.update_from(to_weight, own.w, own.m, own.v, own.rule)
        if self.binary:
            fixed.conv_signs(own.w, self.forwards, self.backwards)

    def _weight(self) -> Tensor:
        w = torch.from_numpy(self.latent.w).permute(0, 3, 1, 2)
        return torch.where(w >= 0, 1.0, -1.0) if self.binary else w


def _nchw(x: Floats) -> Tensor:
    return torch.from_numpy(x).permute(0, 3, 1, 2)
