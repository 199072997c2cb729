"""2×2 max pooling of packed signs, where the pooling stood before the threshold."""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

import kernels
from kernels import build, cpu
from kernels.cuda import between
from kernels.cuda.arrays import GpuPacked
from kernels.packed import Packed, fixed


def maxpool2x2(x: Packed, falling: Packed, backend: str = "auto") -> Packed:
    """The bits of thresholds applied to 2×2 maxima, from the bits of thresholds applied to each element.

    x: packed (N, H, W, C) -> packed (N, H // 2, W // 2, C), odd rows and columns left out as torch does. The
    largest of four integers is >= t where one is (OR), and <= t where all are (AND): `falling`, packed (C,), is +1
    for the units of the second kind. On a GPU where x is there. Raises ValueError where the shapes do not fit.
    """
    if len(x.shape) != 4 or falling.shape != x.shape[3:]:
        raise ValueError(f"x (N, H, W, C) and falling (C,) do not fit: {x.shape}, {falling.shape}")
    if isinstance(x, GpuPacked):
        return between.maxpool2x2(x, falling)
    library = cpu._library() if kernels._backend(backend, there=False) is cpu else None
    if library is None or isinstance(library, build.BuildError) or cpu._choose(None) == "numpy":
        return Packed(fixed(_plain(x.words, falling.words)), x.k)
    images, height, width, words = x.words.shape
    out = np.empty((images, height // 2, width // 2, words), np.uint64)
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    library.kernels_maxpool(
        cpu._threads(None), pointer(x.address), count(images), count(height), count(width), count(words),
        pointer(falling.address), pointer(out.ctypes.data),
    )  # fmt: skip
    return Packed(fixed(out), x.k)


def _plain(x: NDArray[np.uint64], falling: NDArray[np.uint64]) -> NDArray[np.uint64]:
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    corners = [x[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]
    some = corners[0] | corners[1] | corners[2] | corners[3]
    every = corners[0] & corners[1] & corners[2] & corners[3]
    return np.ascontiguousarray((some & ~falling) | (every & falling))
