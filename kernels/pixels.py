"""Products of 8-bit images with ±1 filters, exact in integers: the first layer of a net.

(arXiv 1602.02830, section 1, "first layer".)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.arrays import check_plain, whole_number
from kernels.backend import choose, takes_gpu
from kernels.cuda import arrays as gpu
from kernels.cuda.arrays import GpuPacked
from kernels.operands import MAX_WINDOW, LocalThresholds, Packed, conv2d_shape


def describe(backend: str = "auto") -> str:
    """What `pixel_conv2d` with this `backend` runs on this machine, in words."""
    return choose(backend, takes_gpu(backend)).describe_pixels()


def pixel_conv2d(
    x: NDArray[np.uint8],
    w: Packed,
    padding: int = 0,
    backend: str = "auto",
    *,
    out: NDArray[np.int32] | None = None,
) -> NDArray[np.int32]:
    """uint8 x (N, H, W, C) by w (Cout, kh, kw, C), stride 1: int32 (N, H', W', Cout).

    H' = H + 2 padding - kh + 1, W' likewise; taps outside the image count as 0. A filter has at most MAX_WINDOW
    elements. x is a NumPy array, or a CuPy array or torch CUDA tensor, for which the result is a CuPy array; w is
    in host memory. Written to `out` where one is given. Raises TypeError or ValueError where shapes, dtypes,
    padding, `out` or the backend do not fit.
    """
    x, padding, _ = _checked(x, w, padding)
    return choose(backend, gpu.on_gpu(x)).pixel_conv2d(x, w, padding, out)


def pixel_conv2d_threshold(
    x: NDArray[np.uint8], w: Packed, rule: LocalThresholds, padding: int = 0, backend: str = "auto"
) -> Packed:
    """`pixel_conv2d` against a threshold for each filter and position: packed (N, H', W', Cout), on a GPU if x is.

    Raises as `pixel_conv2d` does, and ValueError if the rule is for another number of filters or positions.
    """
    x, padding, shape = _checked(x, w, padding)
    if shape[1:] != (len(rule.row), len(rule.column), len(rule.below)):
        raise ValueError(f"an output of shape {shape} and a rule for another")
    there = gpu.on_gpu(x)
    words = choose(backend, there).pixel_conv2d_threshold(x, w, rule, padding)
    return (GpuPacked if there else Packed)(words, shape[3])


def _checked(x: Any, w: Packed, padding: int) -> tuple[NDArray[np.uint8], int, tuple[int, int, int, int]]:
    """x as a NumPy or CuPy array, padding as an int, the shape of the product."""
    padding = whole_number("padding", padding)
    check_plain(x)
    x = gpu.as_cupy(x)[0] if gpu.on_gpu(x) else x
    if not (isinstance(x, np.ndarray) or gpu.on_gpu(x)) or x.dtype != np.uint8:
        kind = f"{type(x).__name__} of {x.dtype}" if hasattr(x, "dtype") else type(x).__name__
        raise TypeError(f"pixels are a NumPy array of uint8, or on a GPU a CuPy array or torch tensor, not {kind}")
    if isinstance(w, GpuPacked) and not gpu.on_gpu(x):
        raise TypeError("the pixels are on the host and the filters on a GPU: move them with to_host")
    if x.ndim != 4 or len(w.shape) != 4 or x.shape[3] != w.k:
        raise ValueError(f"pixels (N, H, W, C) and filters (Cout, kh, kw, C) do not fit: {x.shape}, {w.shape}")
    shape = conv2d_shape(x, w, padding)
    if padding < 0 or min(shape[1:3]) < 1:
        raise ValueError(f"{w.shape[1]}x{w.shape[2]} taps do not fit {x.shape[1:3]} with padding {padding}")
    if not 1 <= w.shape[1] * w.shape[2] * w.k <= MAX_WINDOW:
        raise ValueError(f"a filter has 1 to {MAX_WINDOW} elements, not {w.shape[1:]}")
    return x, padding, shape
