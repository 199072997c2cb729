"""Products of real numbers with ±1 in 16-bit fixed point: the backward pass of training (csrc/lookup*.c).

Rows of the real operand are cut into blocks of at most `BLOCK` numbers along the axis that is summed (of a
convolution a pixel's channels; of its weight gradient the pixels of all images in their order). Each block has a
step of its own, its sum of magnitudes divided by `LIMIT`, and enters as whole multiples of it. A block's sum is then
exact whatever the signs; blocks are added in float32, one after the other. The error of a result, relative to its
root mean square, is about 5e-4, as on a GPU in TF32. Every instruction set and number of threads gives the same
bits. A block with a number that is not finite makes NaN of all results that it enters.

Needs the compiled library (`ternary.available`).
"""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from kernels import cpu
from kernels.reals import Floats, _call, _fields, _floats, _output
from kernels.ternary import COLUMNS, Panels, isa

BLOCK = 128
LIMIT = 65400


class _Matmul(ctypes.Structure):
    _fields_ = [*_fields("x x_row x_k m k panels n out isa threads"), ("scale", ctypes.c_double)]


class _Conv(ctypes.Structure):
    _fields_ = [*_fields("x images height width channels panels n out isa threads"), ("scale", ctypes.c_double)]


class _Gradient(ctypes.Structure):
    _fields_ = [*_fields("g images height width m a n out isa threads"), ("scale", ctypes.c_double)]


def matmul(x: Floats, b: Panels, scale: float = 1.0, out: Floats | None = None) -> Floats:
    """scale · x (M, K), any strides, by ±1 (K, N): float32 (M, N).

    Raises TypeError or ValueError where shapes or dtypes do not fit.
    """
    _floats("x", x, (2,))
    if b.k != x.shape[1] or not b.k:
        raise ValueError(f"x {x.shape} and panels of ({b.k}, {b.n}) do not fit")
    out = _output((len(x), b.n), out)
    if any(stride % 4 for stride in x.strides):
        x = np.ascontiguousarray(x)
    if out.size:
        job = _Matmul(
            x=x.ctypes.data, x_row=x.strides[0] // 4, x_k=x.strides[1] // 4, m=x.shape[0], k=b.k,
            panels=b.bytes.ctypes.data, n=b.n, out=out.ctypes.data,
            isa=isa(), threads=cpu._threads(None), scale=scale,
        )  # fmt: skip
        _call("kernels_lookup_matmul", job)
    return out


def conv(x: Floats, w: Panels, scale: float = 1.0, out: Floats | None = None) -> Floats:
    """scale · the 3×3 convolution of x (N, H, W, C) by w, a border of zeros: float32 (N, H, W, n).

    w has k = 9 · C, C filled up to a multiple of 8: tap by tap in reading order. Raises TypeError or ValueError
    where shapes or dtypes do not fit.
    """
    _floats("x", x, (4,))
    images, height, width, channels = x.shape
    if w.k != 9 * filled(channels) or not x.size:
        raise ValueError(f"x {x.shape} and panels of ({w.k}, {w.n}) do not fit")
    out = _output((images, height, width, w.n), out)
    x = np.ascontiguousarray(x)
    if out.size:
        job = _Conv(
            x=x.ctypes.data, images=images, height=height, width=width, channels=channels,
            panels=w.bytes.ctypes.data, n=w.n, out=out.ctypes.data,
            isa=isa(), threads=cpu._threads(None), scale=scale,
        )  # fmt: skip
        _call("kernels_lookup_conv", job)
    return out


def conv_gradient(g: Floats, a: NDArray[np.int8], scale: float = 1.0, out: Floats | None = None) -> Floats:
    """scale · the weight gradient of a 3×3 convolution with a border of zeros: float32 (Cout, 3, 3, Cin).

    g (N, H, W, Cout) is the output's gradient, a (N, H, W, Cin) the ±1 input. Raises TypeError or ValueError where
    shapes or dtypes do not fit.
    """
    _floats("g", g, (4,))
    images, height, width, m = g.shape
    if a.dtype != np.int8 or a.shape[:3] != g.shape[:3] or not g.size or not a.size:
        raise ValueError(f"g {g.shape} and a {a.dtype} {a.shape} do not fit")
    n = a.shape[3]
    out = _output((m, 3, 3, n), out)
    g, a = np.ascontiguousarray(g), np.ascontiguousarray(a)
    if n % COLUMNS:
        a = np.pad(a, ((0, 0), (0, 0), (0, 0), (0, -n % COLUMNS)))
    whole = out if a.shape[3] == n else np.empty((m, 3, 3, a.shape[3]), np.float32)
    job = _Gradient(
        g=g.ctypes.data, images=images, height=height, width=width, m=m, a=a.ctypes.data, n=a.shape[3],
        out=whole.ctypes.data, isa=isa(), threads=cpu._threads(None), scale=scale,
    )  # fmt: skip
    _call("kernels_lookup_gradient", job)
    if whole is not out:
        out[:] = whole[..., :n]
    return out


def filled(channels: int) -> int:
    """Channels of a tap in panels of signs."""
    return -(-channels // 8) * 8
