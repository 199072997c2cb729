"""The layers of a packed net: bits and integers, and what turns a layer's sums into the next layer's bits.

BN and sign become one integer threshold a unit (Algorithm 5 of the paper runs them as they are). It is found by
evaluating BN in float64, from the float32 parameters, on the integers the unit can reach, so every hidden bit is
settled exactly, ties (BN = 0 gives +1) included. A first layer that sees 8-bit images up to a scale and a shift is
an exact integer product too; one that sees real numbers (ZCA, GCN, LCN) is done in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

import kernels
from kernels import GpuPacked, LocalThresholds, Packed, Thresholds, maxpool2x2
from kernels.cuda import arrays, between
from kernels.operands import MAX_WINDOW
from kernels.pixels import pixel_conv2d_threshold
from reproduce import spec

Floats = NDArray[np.float64]


class PackedError(ValueError):
    """A net that cannot be packed, or a file that is no sound packed net; the message is one line."""


@dataclass(frozen=True)
class Shape:
    """One block of a net: filters (units, taps, taps, inputs) over a `size` × `size` image, or (units, inputs)."""

    weights: tuple[int, ...]
    size: int = 1
    padding: int = 0
    pool: bool = False


def shapes(settings: spec.Settings) -> list[Shape]:
    """The blocks of an MLP or a ConvNet, first to last.

    Dense layers after a convolution are filters as large as the image, so that bits need no new order.
    """
    first, *rest = settings.layers()
    found = [_shape(first) if first.kernel > 1 else Shape((first.outputs, 1, 1, first.inputs))]
    for before, layer in pairwise([first, *rest]):
        if before.kernel > 1 and layer.kernel == 1:
            size = before.height // 2 if before.pool else before.height
            found.append(Shape((layer.outputs, size, size, before.outputs), size))
        else:
            found.append(_shape(layer))
    return found


def _shape(layer: spec.Layer) -> Shape:
    if layer.kernel == 1:
        return Shape((layer.outputs, layer.inputs))
    taps = layer.kernel
    return Shape((layer.outputs, taps, taps, layer.inputs), layer.height, taps // 2, layer.pool)


@dataclass(frozen=True, eq=False)
class Norm:
    """Batch norm in testing and the bias before it: y = ((s + bias) - mean) · factor + beta; float64 (N,)."""

    bias: Floats
    mean: Floats
    factor: Floats
    beta: Floats

    def __post_init__(self) -> None:
        for name in ("bias", "mean", "factor", "beta"):
            if not np.isfinite(getattr(self, name)).all():
                raise PackedError(f"batch norm has a {name} that is not finite")

    def __call__(self, s: NDArray[Any]) -> Floats:
        y: Floats = ((s + self.bias) - self.mean) * self.factor + self.beta
        return y


def thresholds(
    norm: Norm, reach: int, scale: float = 1.0, offset: Floats | float = 0.0
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where sign(norm(scale · s + offset)) changes, over the integers -reach <= s <= reach.

    `offset` (..., N) may differ from place to place. Gives `level` int64 (..., N) and `below` bool (N,): the sign
    is + where s >= level, or where s <= level for the units `below`, whose BN falls. A unit that never changes has
    its level just in or out of reach. Every step of the float64 evaluation rises or falls with s, so halving the
    interval finds the exact place.
    """
    below = norm.factor < 0
    shape = np.broadcast_shapes(np.shape(offset), below.shape)
    low, high = np.full(shape, -reach, np.int64), np.full(shape, reach + 1, np.int64)
    while (low < high).any():
        middle = (low + high) >> 1
        reached = (norm(scale * middle + offset) >= 0) != below
        low, high = np.where(reached, low, np.minimum(middle + 1, high)), np.where(reached, middle, high)
    return low - below, below


@dataclass(frozen=True, eq=False)
class PixelLayer:
    """The first layer over 8-bit images: integers to bits, by a threshold for each unit and class of places."""

    shape: Shape
    weights: Packed
    rule: LocalThresholds

    def __call__(self, x: Any, backend: str) -> Packed:
        """x: uint8 (N, …) of NumPy, or of CuPy for bits on the GPU."""
        images = x.reshape(len(x), self.shape.size, self.shape.size, self.weights.k)
        return pixel_conv2d_threshold(images, self.weights, self.rule, self.shape.padding, backend)


def places(size: int, classes: int) -> NDArray[np.int64]:
    """The class of each of `size` places: its own, or one of 3: the first, the inner ones, the last."""
    every = np.arange(size)
    return every if classes == size else np.minimum(every, 1) + (every == size - 1)


def pixel_layer(shape: Shape, weights: Packed, norm: Norm, scale: float, shift: NDArray[np.float32]) -> PixelLayer:
    """The first layer where pixels x are preprocessed as scale · x + shift, shift () or (H · W · C,).

    Zero padding acts on what is preprocessed: outside the image neither pixel nor shift counts, so a shift moves
    the thresholds by the weights inside times it, place by place. Raises PackedError.
    """
    size, inputs = shape.size, weights.k
    if (window := int(np.prod(weights.shape[1:]))) > MAX_WINDOW:
        raise PackedError(f"a unit of the first layer takes at most {MAX_WINDOW} pixels, not {window}")
    if not (0 < scale < np.inf and np.isfinite(shift).all()):
        raise PackedError("the images' scale must be positive, scale and shift finite")
    if shift.size not in (1, size * size * inputs):
        raise PackedError(f"a shift of {shift.size} numbers, for {size * size * inputs} pixels")
    signs = kernels.unpack(weights).astype(np.float64)
    image = np.broadcast_to(shift.astype(np.float64).reshape(-1), size * size * inputs)
    offset = convolved(image.reshape(size, size, inputs), signs, shape.padding)
    classes = size
    if shift.size == 1 and size > 3:  # then what lies outside decides alone
        classes, offset = 3, offset[[0, 1, -1]][:, [0, 1, -1]]
    reach = 255 * window
    level, below = thresholds(norm, reach, scale, offset)
    where = places(size, classes)
    return PixelLayer(shape, weights, LocalThresholds(level, below, where, where))


def convolved(image: Floats, signs: Floats, padding: int) -> Floats:
    """image (H, W, C) by filters (N, kh, kw, C) over a zero border: (H', W', N)."""
    image = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    height, width = (image.shape[i] - signs.shape[i + 1] + 1 for i in (0, 1))
    total = np.zeros((height, width, len(signs)))
    for i in range(signs.shape[1]):
        for j in range(signs.shape[2]):
            total += image[i : i + height, j : j + width] @ signs[:, i, j].T
    return total


@dataclass(frozen=True, eq=False)
class RealLayer:
    """The first layer over real inputs, in float64, by torch; batch norm and signs on the host, also for a GPU."""

    shape: Shape
    weights: Packed
    norm: Norm

    @cached_property
    def _filters(self) -> Tensor:
        return torch.from_numpy(kernels.unpack(self.weights)).double().permute(0, 3, 1, 2)

    def __call__(self, x: NDArray[Any], backend: str) -> Packed:
        size, there = self.shape.size, kernels.takes_gpu(backend)
        x = np.array(x, np.float64, order="C")  # torch takes no negative strides and no other byte order
        images = torch.from_numpy(x.reshape(len(x), size, size, self.weights.k)).permute(0, 3, 1, 2)
        device = torch.device("cuda" if there and torch.cuda.is_available() else "cpu")
        with torch.no_grad():
            s = F.conv2d(images.to(device), self._filters.to(device), padding=self.shape.padding)
        sums = s.permute(0, 2, 3, 1).cpu().numpy()
        if not np.isfinite(sums).all():
            raise ValueError("images have numbers that are not finite")
        bits = kernels.pack(self.norm(sums) >= 0, "auto" if there else backend)
        return kernels.to_gpu(bits) if there else bits


@dataclass(frozen=True, eq=False)
class BitLayer:
    """A hidden layer: bits to bits."""

    shape: Shape
    weights: Packed
    rule: Thresholds

    @cached_property
    def _falling(self) -> Packed:
        return kernels.pack(self.rule.below)

    def __call__(self, x: Packed, backend: str) -> Packed:
        weights = _beside(x, self.weights)
        if len(weights.shape) == 2:
            return kernels.xnor_matmul_threshold(rows(x), weights, self.rule, backend)
        h = kernels.xnor_conv2d_threshold(x, weights, self.rule, self.shape.padding, 1, backend)
        return maxpool2x2(h, self._falling, backend) if self.shape.pool else h


@dataclass(frozen=True, eq=False)
class OutputLayer:
    """The last layer: bits to scores, batch norm in float64, no sign."""

    shape: Shape
    weights: Packed
    norm: Norm

    def __call__(self, x: Packed, backend: str) -> Floats:
        dot = self._dot(x, backend)
        return self.norm(dot.get() if isinstance(x, GpuPacked) else dot)

    def classes(self, x: GpuPacked, backend: str) -> Any:
        """The class with the highest score, the first at a tie, decided on the GPU: CuPy int64 (N,)."""
        return between.affine_argmax(self._dot(x, backend), self._table)

    @cached_property
    def _table(self) -> Any:
        return between.affine_table(self.norm.bias, self.norm.mean, self.norm.factor, self.norm.beta)

    def _dot(self, x: Packed, backend: str) -> Any:
        """The integers, int32 (N, classes), where x is."""
        weights = _beside(x, self.weights)
        if len(weights.shape) == 2:
            return kernels.xnor_matmul(rows(x), weights, backend)
        return kernels.xnor_conv2d(x, weights, 0, 1, backend).reshape(len(x.words), -1)


def _beside(x: Packed, weights: Packed) -> Packed:
    """The weights, on the GPU if x is there; the copy is kept."""
    return arrays.kept_on_gpu(weights) if isinstance(x, GpuPacked) else weights


def rows(x: Packed) -> Packed:
    """Images of one pixel as rows."""
    return x if len(x.shape) == 2 else type(x)(x.words.reshape(len(x.words), -1), x.k)


@dataclass(frozen=True, eq=False)
class Layers:
    """The content of a packed net's file: the layers of a net of `settings`; `about` says where it comes from."""

    settings: spec.Settings
    first: PixelLayer | RealLayer
    hidden: tuple[BitLayer, ...]
    output: OutputLayer
    about: dict[str, Any] = field(default_factory=dict)
