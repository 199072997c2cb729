"""Exact products of {-1, 0, 1} by ±1 for the forward pass of training, by tables (csrc/lookup/ternary.c)
or, for convolutions with AMX, by products of bytes (ternary_amx.c).

The left operand is packed as codes of four values, the right one as panels of 64 columns. Every instruction set
gives the same integers. Needs the compiled library (`available`).
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.arrays import aligned
from kernels.cpu.runtime import call, compiled, fields, thread_count

COLUMNS = 64
"""Columns of a panel."""
MAX_K = 32767
"""The most values of a sum: results are int16."""


class _Codes(ctypes.Structure):
    _fields_ = fields("x images height width channels pad codes threads")


class _Ternary(ctypes.Structure):
    _fields_ = fields("codes images height width image line pixel segs seg panels n out isa threads")


class _PanelsOf(ctypes.Structure):
    _fields_ = fields("x k n at_least above threads")


@dataclass(frozen=True, eq=False)
class Panels:
    """A ±1 matrix (k, n) as uint8 (ceil(n / 64), ceil(k / 8), 64): bit b of byte (p, j, c) is set where
    row 8j + b, column 64p + c is +1. Bits beyond k and n are zero."""

    bytes: NDArray[np.uint8]
    k: int
    n: int


def available() -> bool:
    """Whether the compiled library is there and $KERNELS_ISA does not ask for NumPy."""
    return compiled() is not None


def isa() -> int:
    """The level of the instruction set in use. RuntimeError without compiled kernels."""
    if (found := compiled()) is None:
        raise RuntimeError("compiled kernels are needed")
    return found[1]


def room(k: int, n: int) -> Panels:
    """New panels, all bits zero."""
    shape = (-(-n // COLUMNS), -(-k // 8), COLUMNS)
    array = aligned(int(np.prod(shape)), np.uint8)[0]
    array[:] = 0
    return Panels(array.reshape(shape), k, n)


def code_shape(images: int, height: int, width: int, channels: int, pad: int) -> tuple[int, int, int, int]:
    """Shape of the codes of images (N, H, W, C) with a border of `pad` pixels."""
    return images, height + 2 * pad, width + 2 * pad, -(-channels // 8) * 2


def codes(x: NDArray[np.int8], pad: int, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """int8 x (N, H, W, C) of -1, 0 and 1 as codes (`code_shape`): uint8, four channels a byte, C padded to 8.

    `out` must have a border of zeros, which is not written. ValueError where shapes, dtypes or strides do not fit.
    """
    images, height, width, channels = x.shape
    shape = code_shape(images, height, width, channels, pad)
    if x.dtype != np.int8 or not x.flags.c_contiguous:
        raise ValueError("x must be a dense int8 array")
    out = np.zeros(shape, np.uint8) if out is None else out
    if out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise ValueError(f"out must be a dense uint8 array of shape {shape}")
    sizes: dict[str, Any] = dict(zip(("images", "height", "width", "channels"), x.shape, strict=True))
    job = _Codes(x=x.ctypes.data, **sizes, pad=pad, codes=out.ctypes.data, threads=thread_count())
    call("kernels_codes", job)
    return out


def planes(
    x: NDArray[np.int8], zeros: bool, out: tuple[Panels, Panels | None] | None = None
) -> tuple[Panels, Panels | None]:
    """int8 x (k, n) of -1, 0 and 1 as panels of x >= 0 and, if it has `zeros`, of x > 0: x is half their sum.

    ValueError where shapes, dtypes or strides do not fit.
    """
    k, n = x.shape
    if x.dtype != np.int8 or not x.flags.c_contiguous:
        raise ValueError("x must be a dense int8 array")
    low, high = out or (room(k, n), room(k, n) if zeros else None)
    if (high is not None) != zeros or any((p.k, p.n) != (k, n) for p in (low, high) if p):
        raise ValueError("the panels do not fit x")
    job = _PanelsOf(
        x=x.ctypes.data, k=k, n=n, at_least=low.bytes.ctypes.data,
        above=high.bytes.ctypes.data if high else 0, threads=thread_count(),
    )  # fmt: skip
    call("kernels_panels_of", job)
    return low, high


def matmul(x: NDArray[np.uint8], w: Panels, out: NDArray[np.int16] | None = None) -> NDArray[np.int16]:
    """Codes x (M, ...) of rows of k values by w (k, n): int16 (M, n). ValueError where they do not fit."""
    x = x.reshape(len(x), -1)
    if x.shape[1] != 2 * w.bytes.shape[1] or w.k > MAX_K:
        raise ValueError(f"codes {x.shape} and panels of ({w.k}, {w.n}) do not fit")
    shape = (len(x), w.n)
    rows = (len(x), 1, 1)
    return _product(x, rows, (x.shape[1], 0, 0), (1, x.shape[1]), w, shape, out)


def conv(x: NDArray[np.uint8], w: Panels, out: NDArray[np.int16] | None = None) -> NDArray[np.int16]:
    """3×3 convolution of codes x (N, H + 2, W + 2, c), a border of one pixel around them: int16 (N, H, W, n).

    w has k = 9 · 4c: tap by tap in reading order, the channels of each padded to 4c. ValueError for other shapes.
    """
    images, height, width, each = x.shape
    if w.k != 9 * 4 * each or w.k > MAX_K:
        raise ValueError(f"codes {x.shape} and panels of ({w.k}, {w.n}) do not fit")
    rows = (images, height - 2, width - 2)
    steps = (height * width * each, width * each, each)
    return _product(x, rows, steps, (3, 3 * each), w, (*rows, w.n), out)


def _product(
    x: NDArray[np.uint8],
    rows: tuple[int, int, int],
    steps: tuple[int, int, int],
    segs: tuple[int, int],
    w: Panels,
    shape: tuple[int, ...],
    out: NDArray[np.int16] | None,
) -> NDArray[np.int16]:
    out = np.empty(shape, np.int16) if out is None else out
    if out.shape != shape or out.dtype != np.int16 or not (out.flags.c_contiguous and x.flags.c_contiguous):
        raise ValueError(f"x must be dense, and out a dense int16 array of shape {shape}")
    job = _Ternary(
        codes=x.ctypes.data, images=rows[0], height=rows[1], width=rows[2], image=steps[0], line=steps[1],
        pixel=steps[2], segs=segs[0], seg=segs[1], panels=w.bytes.ctypes.data, n=w.n, out=out.ctypes.data,
        isa=isa(), threads=thread_count(),
    )  # fmt: skip
    if out.size:
        call("kernels_ternary_product", job)
    return out
