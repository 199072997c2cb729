"""Products of float32 arrays with ±1, as in a training step of a 1-bit net (arXiv 1602.02830, algorithm 1).

Arrays are in host memory. With AVX-512 (`available`) the CPU backend adds sums from tables; otherwise NumPy
computes the products. Sums of integers are exact below 2^24; other sums depend on the order.
"""

from __future__ import annotations

import numpy as np

from kernels import cpu
from kernels.arrays import Floats as Floats
from kernels.arrays import check_floats, whole_number
from kernels.backend import choose_host
from kernels.operands import Signs

MAX_WIDTH = 32
"""The largest number of pixels of an image row in `conv_gradient`: the signs of a row share one word."""


def available() -> bool:
    """Whether products go through tables here: the CPU backend's instruction set is AVX-512."""
    return cpu.has_tables()


def signs(x: Floats, transposed: bool = False, strict: bool = False, backend: str = "auto") -> Signs:
    """Signs of x (batch, k, n) or (k, n); `transposed`: x is (batch, n, k) or (n, k).

    +1 where x >= 0 (`strict`: where x > 0), else -1; NaN gives -1. Any strides. Raises TypeError or ValueError
    if x is not a float32 array of two or three axes, or k = 0.
    """
    check_floats("x", x, (2, 3))
    batched = x if x.ndim == 3 else x[None]
    if batched.shape[2 if transposed else 1] < 1:
        raise ValueError("signs need at least one row to sum over")
    return choose_host(backend).signs(batched, transposed, strict)


def ternary(x: Floats, backend: str = "auto") -> tuple[float, bool] | None:
    """(s, whether any element is 0) where every element of x is s, -s or 0 and 0 < s < inf; else None.

    None for arrays that are empty or not C-contiguous: they are not searched. TypeError if x is not a float32
    array.
    """
    check_floats("x", x, (np.ndim(x),))
    return choose_host(backend).ternary(x) if x.flags.c_contiguous and x.size else None


def real_matmul(
    x: Floats,
    b: Signs,
    b2: Signs | None = None,
    scale: float = 1.0,
    out: Floats | None = None,
    backend: str = "auto",
) -> Floats:
    """scale · x (M, K) by ±1 (K, N): float32 (M, N). With `b2`: scale · x · (b + b2).

    x may have any strides. A ternary operand t in {0, s, -s} is s/2 · (b + b2) with b = signs(t) and
    b2 = signs(t, strict=True). Raises TypeError or ValueError where shapes or dtypes do not fit.
    """
    check_floats("x", x, (2,))
    for one in (b, *([b2] if b2 else [])):
        if len(one.words) != 1 or one.k != x.shape[1] or one.n != b.n:
            raise ValueError(f"x {x.shape} and signs ({len(one.words)}, {one.k}, {one.n}) do not fit")
    return choose_host(backend).real_matmul(x, b, b2, scale, out)


def real_conv2d(
    x: Floats,
    w: Signs,
    taps: tuple[int, int] = (3, 3),
    padding: int = 1,
    out: Floats | None = None,
    backend: str = "auto",
) -> Floats:
    """x (N, H, W, C) by ±1 taps, zero border, stride 1: float32 (N, H', W', Cout).

    w: signs of (kh · kw, C, Cout), tap by tap. Raises TypeError or ValueError where shapes or dtypes do not fit.
    """
    check_floats("x", x, (4,))
    padding = whole_number("padding", padding)
    _, height, width, k = x.shape
    kh, kw = taps
    fits = min(padding, kh - 1, kw - 1) >= 0 and height + 2 * padding >= kh and width + 2 * padding >= kw
    if len(w.words) != kh * kw or w.k != k or not fits:
        raise ValueError(f"x {x.shape} and taps {taps} of signs ({len(w.words)}, {w.k}, {w.n}) do not fit")
    return choose_host(backend).real_conv2d(x, w, taps, padding, out)


def conv_gradient(g: Floats, a: Signs, out: Floats | None = None, backend: str = "auto") -> Floats:
    """Weight gradient of a 3×3 convolution with padding 1: float32 (Cout, 3, 3, C).

    g (N, H, W, Cout) is the gradient of the output, `a` the signs of the input as (N · H, W, C), W at most
    MAX_WIDTH: sum over positions of g(y, x) · a(y + ty - 1, x + tx - 1), a border of zeros. Raises TypeError or
    ValueError where shapes or dtypes do not fit.
    """
    check_floats("g", g, (4,))
    images, height, width, _ = g.shape
    if len(a.words) != images * height or a.k != width or not 1 <= width <= MAX_WIDTH or images * height < 1:
        raise ValueError(f"g {g.shape} and signs ({len(a.words)}, {a.k}, {a.n}) do not fit")
    return choose_host(backend).conv_gradient(g, a, out)
