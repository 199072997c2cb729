"""Packed nets: a trained net with one bit a weight and integers up to the last layer, run by `kernels`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kernels
from kernels import Packed
from kernels.cuda import arrays
from reproduce.packed import file
from reproduce.packed.blocks import Floats, Layers, PixelLayer, rows

CHUNK = {"mlp": 1000, "convnet": 100}  # images that go through all layers together
GPU_CHUNK = {"mlp": 10000, "convnet": 1000}


@dataclass(frozen=True, eq=False)
class PackedNet(Layers):
    """A net of `settings` in bits; `about` says where it comes from.

    Images are uint8 (N, *image), or, where `pixels` is False, real numbers of that shape, preprocessed as
    `settings.data` says. `backend` is one of `kernels.backends()` or "auto". With a "cuda-" backend, or images
    that are on a GPU already (CuPy, torch; 8-bit ones only), bits and integers stay on the GPU.
    """

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
        """The output of the last batch norm, float64 (N, classes). ValueError for other images than the net's."""
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
        yield kernels.unpack(rows(h) if self.settings.net.flat else h)
        for layer in self.hidden:
            h = layer(h, backend)
            yield kernels.unpack(rows(h) if h.shape[1:3] == (1, 1) else h)

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
        """Write the net to one file, under a scratch name first (`packed.file`). Raises OSError."""
        file.save(self, Path(path))

    @staticmethod
    def load(path: Path | str) -> PackedNet:
        """A net from its file. PackedError, one line, if the file is damaged, foreign or of a later version."""
        return PackedNet(**vars(file.load(path)))
