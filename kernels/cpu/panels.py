"""Layouts that the C products read: made from packed arrays and rules, and kept in their `derived`."""

import ctypes
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels import border
from kernels.arrays import aligned
from kernels.operands import Packed, Thresholds

LANES = 16  # number of columns of a panel (csrc/xnor.h)


class Held(NamedTuple):
    """An array and its address (NumPy takes a microsecond to look it up)."""

    array: NDArray[Any]
    at: int


def held(array: NDArray[Any]) -> Held:
    """The array with its address."""
    return Held(array, array.ctypes.data)


def room(count: int, dtype: type[np.generic]) -> Held:
    """An uninitialised array that starts on a cache line."""
    return Held(*aligned(count, dtype))


def padded(n: int) -> int:
    """n rounded up to whole panels."""
    return -(-n // LANES) * LANES


def panels(library: ctypes.CDLL, b: Packed, pairs: int, threads: int) -> Held:
    """b's rows as panels of `pairs` words. Two threads may build them at once; the contents are the same."""
    made: Held | None = b.derived.get("cpu panels")
    if made is None:
        n = len(b.words)
        made = room(padded(n) * pairs * 2, np.uint32)
        library.kernels_panels(threads, b.address, n, b.words.size // max(n, 1), pairs, made.at)
        b.derived["cpu panels"] = made
    return made


def matmul_starts(b: Packed) -> tuple[Held, Held, Held]:
    """The start value of each product, which is K, and the offsets of the single class."""
    made: tuple[Held, Held, Held] | None = b.derived.get("cpu starts")
    if made is None:
        none = held(np.zeros(1, np.int64))
        made = b.derived["cpu starts"] = (held(np.full(padded(len(b.words)), b.k, np.int32)), none, none)
    return made


def conv2d_starts(x: Packed, w: Packed, padding: int, stride: int) -> tuple[Held, Held, Held]:
    """`border.starts` with Cout padded to whole panels, and classes as offsets."""
    key = ("cpu starts", *x.shape[1:3], padding, stride)
    made: tuple[Held, Held, Held] | None = w.derived.get(key)
    if made is None:
        start, row, column = border.starts(w, x.shape[1:3], padding, stride)
        cout = padded(len(w.words))
        start = np.pad(start, ((0, 0), (0, 0), (0, cout - start.shape[2])))
        made = (held(start), held(row * (start.shape[1] * cout)), held(column * cout))
        w.derived[key] = made
    return made


def lanes(rule: Thresholds, k: int) -> tuple[Held, Held]:
    """A rule as (dot ^ flip) >= level: dot <= t is ~dot >= ~t. Lanes without a unit are never set."""
    made: tuple[Held, Held] | None = rule.derived.get(("cpu lanes", k))
    if made is None:
        n = len(rule.level)
        level = np.full(padded(n), np.iinfo(np.int32).max, np.int32)
        flip = np.zeros_like(level)
        flip[:n] = -rule.below.astype(np.int32)
        level[:n] = np.clip(rule.level, -k - 1, k + 1) ^ flip[:n]
        made = rule.derived["cpu lanes", k] = (held(level), held(flip))
    return made
