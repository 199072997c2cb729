"""Packed ±1 arrays: what every backend takes and gives, and how real arrays are brought to them."""

import math
import operator
import sys
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

LARGE = 1 << 25  # bytes of a result from which on it is stored past the caches (STREAM_BYTES of csrc/drive.c)
MAX_K = 2**31 - 2  # the product and a threshold one beyond it fit int32


ARRAYS = (np.ndarray, np.memmap)
"""The kinds of NumPy array that are taken; others may hold more than their numbers."""


def fixed(array: NDArray[Any]) -> NDArray[Any]:
    """The array itself, read-only from now on: for one that nobody else holds."""
    array.flags.writeable = False
    return array


def _unwritable(array: Any) -> bool:
    """Whether neither this array nor any that it is a view of can be written to."""
    while isinstance(array, np.ndarray):
        if array.flags.writeable:
            return False
        array = array.base
    return array is None or isinstance(array, bytes)


@dataclass(frozen=True, eq=False)
class Packed:
    """A ±1 array of shape (*lead, k) as bits along its last axis.

    `words` is uint64 of shape (*lead, ceil(k / 64)); bit i of word j is 1 where element 64 j + i is +1, bits
    beyond k are 0. The words are copied where they could still be written to, for backends keep layouts derived
    from them in `derived`, which lives as long as the array does; `fixed` says that nobody else holds them.

    Raises ValueError or TypeError where `words` does not hold exactly such bits.
    """

    words: NDArray[np.uint64]
    k: int
    derived: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        words = self.words
        if type(words) not in ARRAYS or words.dtype != np.uint64:
            what = words.dtype if type(words) in ARRAYS else type(words).__name__
            raise TypeError(f"packed words are a uint64 array, not {what}")
        object.__setattr__(self, "k", whole_number("K", self.k))
        if not 1 <= self.k <= MAX_K:
            raise ValueError(f"K must be between 1 and {MAX_K}, not {self.k}")
        if words.ndim < 1 or words.shape[-1] != words_for(self.k):
            raise ValueError(
                f"K = {self.k} takes {words_for(self.k)} words a row, not words of shape {words.shape}"
            )
        if not words.flags.c_contiguous:
            raise ValueError("packed words must be contiguous")
        if self.k % 64 and (words[..., -1] >> np.uint64(self.k % 64)).any():
            raise ValueError(f"packed words have bits set beyond K = {self.k}")
        if not _unwritable(words):
            object.__setattr__(self, "words", fixed(words.copy()))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles leave `derived` behind: it holds addresses."""
        return Packed, (self.words, self.k)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the ±1 array, K last."""
        return (*self.words.shape[:-1], self.k)

    @cached_property
    def address(self) -> int:
        """Where the words begin in memory (NumPy takes a microsecond to say so)."""
        return self.words.ctypes.data

    @cached_property
    def counts(self) -> NDArray[np.int32]:
        """Number of +1 in each row: int32 of shape `shape[:-1]`."""
        counts: NDArray[np.int32] = np.bitwise_count(self.words).sum(axis=-1, dtype=np.int32)
        return counts


@dataclass(frozen=True, eq=False)
class Thresholds:
    """A rule for each of N output units: its bit is `dot <= level` where `below`, else `dot >= level`.

    `level` is int64 (N,) and may lie outside the reachable range, so that a unit can be constant; `below` is
    bool (N,), all False by default. Both are copied and read-only.

    Raises TypeError where the dtypes are others (any signed integer will do for `level`), ValueError for
    other shapes.
    """

    level: NDArray[np.int64]
    below: NDArray[np.bool_]
    derived: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def __init__(self, level: ArrayLike, below: ArrayLike | None = None) -> None:
        for array in (level, below):
            check_plain(array)
        levels = np.array(level)
        under = np.zeros(levels.shape, np.bool_) if below is None else np.array(below)
        if levels.dtype.kind != "i" or under.dtype != np.bool_:
            raise TypeError(f"level must be signed integers, below bool, not {levels.dtype}, {under.dtype}")
        if levels.ndim != 1 or under.shape != levels.shape:
            raise ValueError(f"level and below need one length, not shapes {levels.shape}, {under.shape}")
        levels = levels.astype(np.int64)
        levels.flags.writeable = under.flags.writeable = False
        for name, value in (("level", levels), ("below", under), ("derived", {})):
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles leave `derived` behind: it holds addresses."""
        return Thresholds, (self.level, self.below)

    def apply(self, dot: NDArray[Any]) -> NDArray[np.bool_]:
        """The bits of integer products, units last."""
        return np.where(self.below, dot <= self.level, dot >= self.level)


class Rows(NamedTuple):
    """A real array as rows to pack: `values` (rows, K), unit stride along K; bfloat16 travels as uint16."""

    values: NDArray[Any]
    kind: str  # the NumPy name of the element type, or "bfloat16"


KINDS = ("float32", "float64", "float16", "bfloat16", "int8", "int16", "int32", "int64", "bool")


def words_for(k: int) -> int:
    """Number of 64-bit words that hold k bits."""
    return (k + 63) // 64


def conv2d_shape(x: Packed, w: Packed, padding: int, stride: int) -> tuple[int, int, int, int]:
    """Shape (N, H', W', Cout) of the convolution of x (N, H, W, C) with w (Cout, kh, kw, C)."""
    height, width = ((x.shape[i] + 2 * padding - w.shape[i]) // stride + 1 for i in (1, 2))
    return x.shape[0], height, width, w.shape[0]


def whole_number(name: str, value: Any) -> int:
    """Python's int of any whole number (NumPy's small ones wrap when they are doubled), else TypeError."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, not {value!r}") from None


def aligned(count: int, dtype: type[np.generic]) -> tuple[NDArray[Any], int]:
    """An uninitialised array (count,) that starts on a cache line, and its address."""
    size = count * np.dtype(dtype).itemsize
    buffer = np.empty(size + 63, np.uint8)
    start = buffer.ctypes.data
    skip = -start % 64
    return buffer[skip : skip + size].view(dtype), start + skip


def output(shape: tuple[int, ...], out: NDArray[np.int32] | None) -> NDArray[np.int32]:
    """A new int32 array of this shape, or `out` where that can take it in place, else ValueError."""
    if out is None:
        count = math.prod(shape)
        large = 4 * count >= LARGE
        return aligned(count, np.int32)[0].reshape(shape) if large else np.empty(shape, np.int32)
    fits = isinstance(out, np.ndarray) and out.shape == shape and out.dtype == np.int32 and out.flags.carray
    if not fits:
        raise ValueError(f"out must be a writable C-contiguous int32 array of shape {shape}")
    return out


def rows_of(x: Any) -> tuple[Rows, tuple[int, ...]]:
    """A NumPy array or torch CPU tensor (*lead, K) as rows, and its leading shape.

    Copies only what has no unit stride along K, is misaligned or byte-swapped, or cannot be viewed as two
    axes. Raises TypeError for other kinds of array and element, ValueError for no axes and for K = 0.
    """
    array, kind = _as_numpy(x)
    if kind not in KINDS:
        hint = "; unsigned values would all be +1: give bool or ±1" if array.dtype.kind == "u" else ""
        raise TypeError(f"cannot pack {kind}: one of {', '.join(KINDS)} is needed{hint}")
    if array.ndim < 1:
        raise ValueError("cannot pack a scalar: the last axis is the packed one")
    k = array.shape[-1]
    if not 1 <= k <= MAX_K:
        raise ValueError(f"K, the length of the last axis, must be between 1 and {MAX_K}, not {k}")
    lead = array.shape[:-1]
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    rows = array.reshape(int(np.prod(lead)), k)
    if (k > 1 and rows.strides[1] != rows.itemsize) or not rows.flags.aligned:
        rows = np.array(rows, order="C")
    return Rows(rows, kind), lead


def check_plain(x: Any) -> None:
    """TypeError for a kind of NumPy or CuPy array or torch tensor that may hold more: a mask, a scale, a unit."""
    if type(x) in ARRAYS:
        return
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    plain: tuple[type, ...] = ARRAYS
    if cupy is not None:
        plain += (cupy.ndarray,)
    if torch is not None:
        plain += (torch.Tensor, torch.nn.Parameter)
        if isinstance(x, torch.Tensor) and (x.is_quantized or x.is_nested):
            raise TypeError(f"{'quantized' if x.is_quantized else 'nested'} tensors are not taken")
    if isinstance(x, plain) and type(x) not in plain:
        name = f"{type(x).__module__}.{type(x).__name__}"
        raise TypeError(f"{name} is not taken, it may hold more than its numbers: give a plain array of them")


def _as_numpy(x: Any) -> tuple[NDArray[Any], str]:
    check_plain(x)
    if isinstance(x, np.ndarray):
        return x, x.dtype.name
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        if x.device.type != "cpu" or x.layout != torch.strided:
            raise TypeError(f"cannot pack a {x.layout} tensor on {x.device}: a dense CPU tensor is needed")
        x = x.detach().resolve_neg()
        if x.dtype == torch.bfloat16:
            return x.view(torch.int16).numpy().view(np.uint16), "bfloat16"
        array: NDArray[Any] = x.numpy()
        return array, array.dtype.name
    raise TypeError(f"cannot pack {type(x).__name__}: a NumPy array or a torch CPU tensor is needed")
