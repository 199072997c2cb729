"""Operands of the backends: packed ±1 arrays, signs, thresholds, update rules, real arrays as rows to pack."""

import sys
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kernels.arrays import ARRAYS, Floats, check_plain, read_only, whole_number

MAX_K = 2**31 - 2  # so that a product, and a threshold larger by 1, fit into int32
MAX_WINDOW = 1 << 15  # elements of a filter for pixels: its eight bit planes must fit on a thread's stack


def _unwritable(array: Any) -> bool:
    """Whether neither this array nor any array that it is a view of is writable."""
    while isinstance(array, np.ndarray):
        if array.flags.writeable:
            return False
        array = array.base
    return array is None or isinstance(array, bytes)


@dataclass(frozen=True, eq=False)
class Packed:
    """A ±1 array of shape (*lead, k) as bits along its last axis.

    `words` is uint64 of shape (*lead, ceil(k / 64)); bit i of word j is 1 where element 64 j + i is +1, bits
    beyond k are 0. Words that can still be written to are copied (`arrays.read_only` avoids the copy), because
    backends keep other layouts of them in `derived` as long as the packed array lives.

    Raises ValueError or TypeError if `words` does not hold exactly such bits.
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
            object.__setattr__(self, "words", read_only(words.copy()))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles omit `derived`: it holds addresses."""
        return Packed, (self.words, self.k)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the ±1 array, K last."""
        return (*self.words.shape[:-1], self.k)

    @cached_property
    def address(self) -> int:
        """The address of the words (kept, because NumPy takes a microsecond to look it up)."""
        return self.words.ctypes.data


@dataclass(frozen=True, eq=False)
class Thresholds:
    """A rule for each of N output units: its bit is `dot <= level` if `below`, else `dot >= level`.

    `level` is int64 (N,) and may lie outside the reachable range, so that a unit can be constant; `below` is
    bool (N,), all False by default. Both are copied and read-only.

    Raises TypeError for other dtypes (`level` may be any signed integer), ValueError for other shapes.
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
        """Copies and pickles omit `derived`: it holds addresses."""
        return Thresholds, (self.level, self.below)

    def apply(self, dot: NDArray[Any]) -> NDArray[np.bool_]:
        """The bits of integer products, units last."""
        return np.where(self.below, dot <= self.level, dot >= self.level)


@dataclass(frozen=True, eq=False)
class LocalThresholds:
    """A rule for each unit and position: its bit is `dot <= level` where the unit is `below`, else `dot >= level`.

    Positions of one class share their levels. level: int64 (Y, X, N), by class of rows, class of columns and
    unit; row: int64 (H',) and column: int64 (W',), the class of each output row and column; below: bool (N,).
    All are copied and read-only. Raises TypeError or ValueError if they do not fit each other.
    """

    level: NDArray[np.int64]
    below: NDArray[np.bool_]
    row: NDArray[np.int64]
    column: NDArray[np.int64]
    derived: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for array in (self.level, self.below, self.row, self.column):
            check_plain(array)
        if self.level.dtype != np.int64 or self.below.dtype != np.bool_:
            raise TypeError(f"level must be int64, below bool, not {self.level.dtype}, {self.below.dtype}")
        if self.level.ndim != 3 or self.below.shape != self.level.shape[2:]:
            raise ValueError(f"level (Y, X, N) and below (N,) do not fit: {self.level.shape}, {self.below.shape}")
        for name, found, axis in (("row", self.row, 0), ("column", self.column, 1)):
            if found.dtype != np.int64 or found.ndim != 1:
                raise TypeError(f"{name} must be int64 with one axis")
            if len(found) and not 0 <= found.min() <= found.max() < self.level.shape[axis]:
                raise ValueError(f"{name} has classes beyond the levels' {self.level.shape[axis]}")
        for name in ("level", "below", "row", "column"):
            copied = np.array(getattr(self, name), order="C")
            copied.flags.writeable = False
            object.__setattr__(self, name, copied)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles omit `derived`: it holds addresses."""
        return LocalThresholds, (self.level, self.below, self.row, self.column)

    def apply(self, dot: NDArray[Any]) -> NDArray[np.bool_]:
        """The bits of integer products (N, H', W', units)."""
        level = self.level[self.row[:, None], self.column]
        return np.where(self.below, dot <= level, dot >= level)


@dataclass(frozen=True, eq=False)
class Signs:
    """±1 matrices (batch, k, n), 32 elements along k in a word: uint32 (batch, ceil(k / 32), n padded to 16).

    Bit b of word w is the sign of row 32w + b, set for +1; bits beyond k are zero.
    """

    words: NDArray[np.uint32]
    k: int
    n: int

    @classmethod
    def zeros(cls, batch: int, k: int, n: int) -> "Signs":
        """New signs with all bits zero, to be filled."""
        return cls(np.zeros((batch, -(-k // 32), -(-n // 16) * 16), np.uint32), k, n)

    def unpack(self) -> Floats:
        """The ±1 matrices (batch, k, n)."""
        bits = self.words[:, :, None, : self.n] >> np.arange(32, dtype=np.uint32)[:, None] & 1
        return np.where(bits, np.float32(1), np.float32(-1)).reshape(len(bits), -1, self.n)[:, : self.k]


@dataclass(frozen=True)
class Rule:
    """The update of latent weights w in one step: with gradient g, m = b1 m + (1 - b1) g and then

    adam: v = b2 v + (1 - b2) g²;  w -= rate · m / (sqrt(v) + eps).
    shift_adamax: v = AP2(max(b2 v, |g|)) + eps;  w -= rate · m / v.
    sgd: w -= rate · g; m and v stay as they are.

    Afterwards w is clipped to [-bound, bound]. The caller includes bias corrections in `rate` (and `eps`). AP2 is
    the nearest power of two (arXiv 1602.02830, section 1.3).
    """

    kind: Literal["adam", "shift_adamax", "sgd"]
    beta1: float
    beta2: float
    eps: float
    rate: float
    bound: float


class Rows(NamedTuple):
    """A real array as rows to pack: `values` (rows, K), unit stride along K; bfloat16 as the bits in uint16."""

    values: NDArray[Any]
    kind: str  # the NumPy name of the element type, or "bfloat16"


KINDS = ("float32", "float64", "float16", "bfloat16", "int8", "int16", "int32", "int64", "bool")


def words_for(k: int) -> int:
    """Number of 64-bit words that hold k bits."""
    return (k + 63) // 64


def conv2d_shape(
    x: Packed | NDArray[np.uint8], w: Packed, padding: int, stride: int = 1
) -> tuple[int, int, int, int]:
    """Shape (N, H', W', Cout) of the convolution of x (N, H, W, C) with w (Cout, kh, kw, C)."""
    height, width = ((x.shape[i] + 2 * padding - w.shape[i]) // stride + 1 for i in (1, 2))
    return x.shape[0], height, width, w.shape[0]


def rows_of(x: Any) -> tuple[Rows, tuple[int, ...]]:
    """A NumPy array or torch CPU tensor (*lead, K) as rows, and its leading shape.

    Copies only arrays that have no unit stride along K, are misaligned or byte-swapped, or cannot be viewed with
    two axes. Raises TypeError for other classes of array and elements, ValueError for no axes and for K = 0.
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
