"""8-bit images by ±1 filters in C (csrc/xnor/pixels.c), in one pass over the image.

Two ways: eight bit planes, s = sum over n of 2^(n-1) (x^n . w) (arXiv 1602.02830, section 1, "first layer"), or,
with AVX-512 VNNI, products of bytes. Without a compiler NumPy computes the result.
"""

from __future__ import annotations

import ctypes
import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from kernels import reference
from kernels.arrays import output, read_only
from kernels.cpu.panels import Held, held, padded, panels, room
from kernels.cpu.runtime import ISAS, compiled, fields, thread_count
from kernels.operands import MAX_WINDOW, LocalThresholds, Packed, Rows, conv2d_shape, words_for


class _Job(ctypes.Structure):
    """`pixels_t` of csrc/xnor/pixels.c; pointers travel as integers, 0 for none."""

    _fields_ = fields(
        "pixels images height width channels taps_h taps_w pad out_h out_w panels n words start "
        "out bits bits_bytes level flip level_y level_x bytes isa threads"
    )


def describe_pixels() -> str:
    """What `pixel_conv2d` runs here, in words."""
    if (found := compiled()) is None:
        return reference.describe_pixels()
    return "bytes by ±1 (VNNI)" if _has_bytes(*found) else "bit planes, fused"


@cache
def _has_bytes(library: ctypes.CDLL, level: int) -> bool:
    return ISAS[level] in ("avx512", "amx") and bool(library.kernels_has_bytes())


def pixel_conv2d(
    x: NDArray[np.uint8], w: Packed, padding: int, out: NDArray[np.int32] | None = None
) -> NDArray[np.int32]:
    """x (N, H, W, C) by w (Cout, kh, kw, C), zero border: int32 (N, H', W', Cout)."""
    result = output(conv2d_shape(x, w, padding), out)
    if not _run(x, w, padding, out=result.ctypes.data):
        reference.pixel_conv2d(x, w, padding, result)
    return result


def pixel_conv2d_threshold(
    x: NDArray[np.uint8], w: Packed, rule: LocalThresholds, padding: int
) -> NDArray[np.uint64]:
    """`pixel_conv2d` against a threshold for each filter and position: words (N, H', W', ceil(Cout / 64))."""
    shape = conv2d_shape(x, w, padding)
    bits = np.zeros((*shape[:3], words_for(shape[3])), np.uint64)
    level, flip, row, column = _lanes(rule)
    fused = {"bits": bits.ctypes.data, "bits_bytes": bits.shape[3] * 8, "level": level.at, "flip": flip.at}
    if _run(x, w, padding, **fused, level_y=row.at, level_x=column.at):
        return read_only(bits)
    return reference.pixel_conv2d_threshold(x, w, rule, padding)


def _run(x: NDArray[np.uint8], w: Packed, padding: int, **target: int) -> bool:
    """Runs the C code into `target`; False if NumPy has to compute the result."""
    if (found := compiled()) is None:
        return False
    library, level = found
    in_bytes, workers = _has_bytes(library, level), thread_count()
    flat, start = _flat(w)
    filters = _byte_panels(library, flat) if in_bytes else panels(library, flat, flat.words.shape[1], workers)
    _, out_h, out_w, n = conv2d_shape(x, w, padding)
    x = np.ascontiguousarray(x)
    job = _Job(
        pixels=x.ctypes.data, images=x.shape[0], height=x.shape[1], width=x.shape[2], channels=x.shape[3],
        taps_h=w.shape[1], taps_w=w.shape[2], pad=padding, out_h=out_h, out_w=out_w,
        panels=filters.at, n=n, words=flat.words.shape[1], start=start.at,
        bytes=in_bytes, isa=level, threads=workers, **target,
    )  # fmt: skip
    library.kernels_pixels(ctypes.byref(job))
    return True


def _flat(w: Packed) -> tuple[Packed, Held]:
    """The filters as rows of kh kw C bits, and twice the number of ones of each row, padded to whole panels."""
    made: tuple[Packed, Held] | None = w.derived.get("pixel rows")
    if made is None:
        k = math.prod(w.shape[1:])
        flat = Packed(reference.pack(Rows(reference.unpack(w).reshape(w.shape[0], k), "int8")), k)
        start = np.zeros(padded(w.shape[0]), np.int32)
        start[: w.shape[0]] = 2 * np.bitwise_count(flat.words).sum(axis=1)
        made = w.derived["pixel rows"] = (flat, held(start))
    return made


def _byte_panels(library: ctypes.CDLL, flat: Packed) -> Held:
    n, words = flat.words.shape
    made: Held | None = flat.derived.get("byte panels")
    if made is None:
        made = room(padded(n) * words, np.uint64)
        pointer, count = ctypes.c_void_p, ctypes.c_int64
        library.kernels_byte_panels(pointer(flat.address), count(n), count(words), pointer(made.at))
        flat.derived["byte panels"] = made
    return made


def _lanes(rule: LocalThresholds) -> tuple[Held, ...]:
    """The rule as (dot ^ flip) >= level, classes as offsets; lanes without a unit are never set."""
    made: tuple[Held, ...] | None = rule.derived.get("pixel lanes")
    if made is None:
        rows, columns, n = rule.level.shape
        level = np.full((rows, columns, padded(n)), np.iinfo(np.int32).max, np.int32)
        flip = np.zeros(padded(n), np.int32)
        flip[:n] = -rule.below.astype(np.int32)
        beyond = 255 * MAX_WINDOW + 1
        level[:, :, :n] = np.clip(rule.level, -beyond, beyond) ^ flip[:n]
        offsets = (rule.row * (columns * padded(n)), rule.column * padded(n))
        made = tuple(held(np.ascontiguousarray(array)) for array in (level, flip, *offsets))
        rule.derived["pixel lanes"] = made
    return made
