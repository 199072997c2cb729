"""Pooling of packed bits on a GPU, and the choice of a class from the integers of the last layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.cuda import launch
from kernels.cuda.arrays import kept_on_gpu
from kernels.operands import Packed


def maxpool2x2(x: Packed, falling: Packed) -> Any:
    """CuPy words of `kernels.maxpool2x2` for x on a GPU. If `falling` is in host memory, it is copied once."""
    import cupy

    words: Any = x.words  # CuPy's
    images, height, width, row = words.shape
    with words.device:
        mask = kept_on_gpu(falling)
        out = cupy.empty((images, height // 2, width // 2, row), cupy.uint64)
        if out.size:
            launch.rows("maxpool", out.size // 2, words, mask.words, out, images, height, width, row // 2)
    return out


def affine_table(*parts: NDArray[np.float64]) -> Any:
    """Bias, mean, factor and beta, float64 (N,) each, as `affine_argmax` takes them: on CuPy's current device."""
    import cupy

    table = cupy.asarray(np.stack(parts).astype(np.float64))
    cupy.cuda.get_current_stream().synchronize()
    return table


def affine_argmax(dot: Any, table: Any) -> Any:
    """The unit with the largest ((dot + bias) - mean) · factor + beta in float64, the first at a tie: int64
    (rows,).

    dot: CuPy int32 (rows, N), C-contiguous; table: `affine_table` of N units. Every step is rounded as in NumPy.
    ValueError if they do not fit.
    """
    import cupy

    if dot.ndim != 2 or table.shape != (4, dot.shape[1]) or dot.dtype != np.int32 or not dot.flags.c_contiguous:
        raise ValueError(
            f"int32 (rows, N) and a table (4, N) are needed, not {dot.dtype} {dot.shape}, {table.shape}"
        )
    with dot.device:
        out = cupy.empty(dot.shape[0], cupy.int64)
        if out.size:
            launch.rows("argmax_of", out.size, dot, table, out, *dot.shape)
    return out
