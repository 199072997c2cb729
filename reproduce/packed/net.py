"""Packed nets: a trained net with one bit a weight and integers up to the last layer, run by `kernels`.

BN and sign become one integer threshold a unit (Algorithm 5 of the paper runs them as they are). It is found by
evaluating BN in float64, from the float32 parameters, on the integers the unit can reach, so every hidden bit is
settled exactly, ties (BN = 0 gives +1) included. A first layer that sees 8-bit images up to a scale and a shift is
an exact integer product too; one that sees real numbers (ZCA, GCN, LCN) is done in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

import kernels
from kernels import GpuPacked, Packed, Thresholds
from kernels.cuda import arrays, between
from kernels.maxpool import maxpool2x2
from kernels.pixels import LocalThresholds, pixel_conv2d_threshold
from reproduce import spec
from reproduce.training import nets
from reproduce.training.binarize import ap2
from reproduce.training.train import Classifier

Floats = NDArray[np.float64]
CHUNK = {"mlp": 1000, "convnet": 100}  # images that go through all layers together
GPU_CHUNK = {"mlp": 10000, "convnet": 1000}


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
    interval finds the very place.
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
    reach = 255 * int(np.prod(weights.shape[1:]))
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
            return kernels.xnor_matmul_threshold(_rows(x), weights, self.rule, backend)
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
            return kernels.xnor_matmul(_rows(x), weights, backend)
        return kernels.xnor_conv2d(x, weights, 0, 1, backend).reshape(len(x.words), -1)


def _beside(x: Packed, weights: Packed) -> Packed:
    """The weights, on the GPU if x is there; the copy is kept."""
    return arrays.kept_on_gpu(weights) if isinstance(x, GpuPacked) else weights


def _rows(x: Packed) -> Packed:
    """Images of one pixel as rows."""
    return x if len(x.shape) == 2 else type(x)(x.words.reshape(len(x.words), -1), x.k)


@dataclass(frozen=True, eq=False)
class PackedNet:
    """A net of `settings` in bits; `about` says where it comes from.

    Images are uint8 (N, *image), or, where `pixels` is False, real numbers of that shape, preprocessed as
    `settings.data` says. `backend` is one of `kernels.backends()` or "auto". With a "cuda-" backend, or images
    that are on a GPU already (CuPy, torch; 8-bit ones only), bits and integers stay on the GPU.
    """

    settings: spec.Settings
    first: PixelLayer | RealLayer
    hidden: tuple[BitLayer, ...]
    output: OutputLayer
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def pixels(self) -> bool:
        """Whether the net takes 8-bit images as they are."""
        return isinstance(self.first, PixelLayer)

    @property
    def image(self) -> tuple[int, ...]:
        """Shape of one image."""
        return self.settings.dataset.image

    @property
    def weights(self) -> int:
        """Number of weights."""
        layers = (self.first, *self.hidden, self.output)
        return sum(int(np.prod(layer.weights.shape)) for layer in layers)

    def predict(self, images: Any, backend: str = "auto") -> NDArray[np.int64]:
        """The class with the highest score (the first of them at a tie): int64 (N,). Raises as `scores` does."""
        images, there = self._placed(images, backend)
        if not there:
            best: NDArray[np.int64] = self.scores(images, backend).argmax(1)
            return best
        found = [
            self.output.classes(self._hidden(h, backend), backend) for h in self._first(images, backend, there)
        ]
        return np.concatenate([part.get() for part in found]) if found else np.empty(0, np.int64)

    def scores(self, images: Any, backend: str = "auto") -> Floats:
        """What the last batch norm gives: float64 (N, classes). ValueError for other shapes or kinds of image."""
        images, there = self._placed(images, backend)
        found = [self.from_bits(h, backend) for h in self._first(images, backend, there)]
        return np.concatenate(found) if found else np.empty((0, self.settings.dataset.classes))

    def _first(self, images: Any, backend: str, there: bool) -> Iterator[Packed]:
        """The first layer's bits, some images at a time."""
        step = (GPU_CHUNK if there else CHUNK)[self.settings.net.kind]
        for start in range(0, len(images), step):
            yield self.first(images[start : start + step], backend)

    def _hidden(self, h: Packed, backend: str) -> Any:
        for layer in self.hidden:
            h = layer(h, backend)
        return h

    def from_bits(self, h: Packed, backend: str = "auto") -> Floats:
        """Scores float64 (N, classes) from the first layer's bits, packed (N, H, W, channels)."""
        return self.output(self._hidden(h, backend), backend)

    def hidden_bits(self, images: Any, backend: str = "auto") -> Iterator[NDArray[np.int8]]:
        """Each hidden block's ±1, after its pooling: int8 (N, units) or (N, H, W, channels), block after block."""
        h = self.first(self._placed(images, backend)[0], backend)
        yield kernels.unpack(_rows(h) if self.settings.net.flat else h)
        for layer in self.hidden:
            h = layer(h, backend)
            yield kernels.unpack(_rows(h) if h.shape[1:3] == (1, 1) else h)

    def _placed(self, images: Any, backend: str) -> tuple[Any, bool]:
        """The images, checked, where the work will be done (NumPy's; CuPy's on a GPU), and whether it is one."""
        given = arrays.on_gpu(images)
        images = arrays.as_cupy(images)[0] if given else np.asarray(images)
        kind = "8-bit images" if self.pixels else "real numbers"
        fits = images.dtype == np.uint8 if self.pixels else images.dtype.kind == "f"
        if images.shape[1:] != self.image or not fits:
            raise ValueError(f"the net takes {kind} (N, {str(self.image)[1:]}, not {images.dtype} {images.shape}")
        if given and not self.pixels:
            raise ValueError("a net of real numbers takes images of the host, also for a GPU")
        there = given or kernels.takes_gpu(backend)
        if there and not given and self.pixels:
            kernels.describe(backend)  # or why it cannot run
            images = arrays.moved(images)
        return images, there

    def save(self, path: Path | str) -> None:
        """Write the net to one file, under a scratch name first (reproduce.packed.file). Raises OSError."""
        from reproduce.packed import file

        file.save(self, Path(path))

    @staticmethod
    def load(path: Path | str) -> PackedNet:
        """A net from its file. PackedError, one line, if the file is damaged, foreign or of a later version."""
        from reproduce.packed import file

        return file.load(path)


def freeze(module: Classifier) -> PackedNet:
    """The module's net, as its parameters now are, packed. PackedError if weights or activations are not ±1."""
    data = module.data["train"]
    affine = (data.scale, data.shift.cpu().numpy()) if data.rows.dtype == torch.uint8 else None
    return freeze_net(module.settings, module.net.state_dict(), affine)


def freeze_net(
    settings: spec.Settings,
    state: Mapping[str, Tensor],
    affine: tuple[float, NDArray[np.float32]] | None,
    about: dict[str, Any] | None = None,
) -> PackedNet:
    """The net of `settings` with the parameters `state` (a state_dict of nets.MLP or nets.ConvNet), packed.

    `affine`: scale and shift, () or (H · W · C,), that take 8-bit pixels to what the net was trained on, or None
    where that is not such a map. Raises PackedError.
    """
    net = packable(settings)
    every = shapes(settings)
    blocks = [_Block(state, i, net) for i in range(len(every))]
    kinds = [net.norm] * (len(every) - 1) + [net.output_norm]
    weights = [block.signs(shape) for block, shape in zip(blocks, every, strict=True)]
    norms = [
        block.norm(kind, shape.weights[0], block is not blocks[-1])
        for block, kind, shape in zip(blocks, kinds, every, strict=True)
    ]
    first: PixelLayer | RealLayer = RealLayer(every[0], weights[0], norms[0])
    if affine is not None:
        first = pixel_layer(every[0], weights[0], norms[0], *affine)
    hidden = [
        BitLayer(shape, w, Thresholds(*thresholds(norm, int(np.prod(w.shape[1:])))))
        for shape, w, norm in zip(every[1:-1], weights[1:-1], norms[1:-1], strict=True)
    ]
    output = OutputLayer(every[-1], weights[-1], norms[-1])
    return PackedNet(settings, first, tuple(hidden), output, about or {})


def packable(settings: spec.Settings) -> spec.PaperNet:
    """The net's settings. PackedError, which names the layer, if it is not the paper's chain of ±1 layers."""
    net = settings.net
    if not isinstance(net, spec.MLPNet | spec.ConvNet):
        with torch.device("meta"):
            layers = nets.build(settings).named_children()
        name, layer = next(((n, m) for n, m in layers if not isinstance(m, nets.Block)), (net.kind, None))
        raise PackedError(f"{name} ({type(layer).__name__}): only a chain of the paper's blocks can be packed")
    if settings.dataset.planes[0] != settings.dataset.planes[1]:
        raise PackedError(f"blocks.0: images of {settings.data.name} are not square")
    plain = net.weights == "binary"
    if net.weights == "float" or not (plain or hasattr(spec.WEIGHTS[net.weights], "scales")):
        raise PackedError(f"blocks.0.layer: {net.weights} weights: only ±1, times a scale a unit, can be packed")
    if not issubclass(spec.ACTIVATIONS[net.activation], nets.Sign):
        raise PackedError(f"blocks.0.act: {net.activation} activations: only ±1 can be packed")
    for where, norm in (("blocks.0", net.norm), ("the last block", net.output_norm)):
        if norm.kind not in ("vanilla", "std", "shift"):
            raise PackedError(f"{where}: a norm of the kind {norm.kind} cannot be packed")
    return net


class _Block:
    """The parameters of `blocks.<i>` in a state_dict, each checked for its size."""

    def __init__(self, state: Mapping[str, Tensor], i: int, net: spec.PaperNet) -> None:
        self.state, self.prefix, self.net = state, f"blocks.{i}.", net

    def _get(self, name: str, count: int) -> Tensor:
        value = self.state.get(self.prefix + name)
        if value is None or value.dtype != torch.float32 or value.numel() != count:
            raise PackedError(f"weights of another net: {self.prefix}{name} should be {count} float32 numbers")
        return value.detach().cpu()

    def signs(self, shape: Shape) -> Packed:
        weight = self._get("layer.weight", int(np.prod(shape.weights)))
        if len(shape.weights) == 4:
            units, taps, _, inputs = shape.weights
            weight = weight.reshape(units, inputs, taps, taps).permute(0, 2, 3, 1)
        if not bool(weight.isfinite().all()):
            raise PackedError(f"{self.prefix}layer.weight has numbers that are not finite")
        return kernels.pack(weight)

    def norm(self, kind: spec.Norm, units: int, hidden: bool) -> Norm:
        """Batch norm on the sums of ±1, with the weights' scale and what the activation adds before its sign."""
        gamma = self._get("norm.weight", units)
        if kind.kind == "std":
            factor = gamma.double() / (self._get("norm.std", units).double() + kind.eps)
        else:
            inv_std = self._get("norm.inv_std", units)
            if kind.kind == "shift":
                inv_std, gamma = ap2(inv_std), ap2(gamma)
            factor = inv_std.double() * gamma.double()
        rest = [self._get(name, units) for name in ("layer.bias", "norm.mean", "norm.bias")]
        bias, mean, beta = (value.double() for value in rest)
        if hidden and (added := spec.ACTIVATIONS[self.net.activation].added):
            beta = beta + self._get(f"act.{added}", units).double()
        if self.net.weights != "binary":  # scale · s takes the place of s
            weight = self.state[f"{self.prefix}layer.weight"]
            scale = spec.WEIGHTS[self.net.weights].scales(weight).double().cpu()
            bias, mean, factor = bias / scale, mean / scale, factor * scale
        return Norm(*(value.numpy() for value in (bias, mean, factor, beta)))
