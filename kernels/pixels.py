"""Products of 8-bit images with ±1 filters: the first layer of a net, exact in integers.

The paper's way (section 1, "first layer") is eight bit planes, s = sum over n of 2^(n-1) (x^n . w): `planes` does
it through the front door, on any backend. The CPU backend has it in C, in one pass over the image (csrc/pixels.c):
by planes again, or by products of bytes where the machine has AVX-512 VNNI. On a GPU it is products of bytes on
tensor cores (kernels.cuda.pixels), whatever the CUDA backend.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kernels
from kernels import build, cpu
from kernels.cuda import arrays
from kernels.cuda import pixels as on_gpu
from kernels.packed import Packed, check_plain, fixed, output, whole_number, words_for

MAX_WINDOW = 1 << 15
"""Elements of a filter, at most: eight planes of so many lie on a thread's stack."""

_FIELDS = (
    "pixels images height width channels taps_h taps_w pad out_h out_w panels n words start "
    "out bits bits_bytes level flip level_y level_x bytes isa threads"
)


class _Job(ctypes.Structure):
    """`pixels_t` of csrc/pixels.c; pointers travel as integers, 0 for none."""

    _fields_ = [(name, ctypes.c_int64) for name in _FIELDS.split()]


@dataclass(frozen=True, eq=False)
class LocalThresholds:
    """A rule for each unit and place: its bit is `dot <= level` where the unit is `below`, else `dot >= level`.

    level: int64 (Y, X, N), one row for each class of places; row: int64 (H',) and column: int64 (W',), the class
    of each output row and column; below: bool (N,). All are copied and read-only. Raises TypeError or
    ValueError where they do not fit.
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
        for name, places, classes in (("row", self.row, 0), ("column", self.column, 1)):
            if places.dtype != np.int64 or places.ndim != 1:
                raise TypeError(f"{name} must be int64 with one axis")
            if len(places) and not 0 <= places.min() <= places.max() < self.level.shape[classes]:
                raise ValueError(f"{name} names classes beyond the levels' {self.level.shape[classes]}")
        for name in ("level", "below", "row", "column"):
            copied = np.array(getattr(self, name), order="C")
            copied.flags.writeable = False
            object.__setattr__(self, name, copied)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles leave `derived` behind: it holds addresses."""
        return LocalThresholds, (self.level, self.below, self.row, self.column)

    def apply(self, dot: NDArray[Any]) -> NDArray[np.bool_]:
        """The bits of integer products (N, H', W', units)."""
        level = self.level[self.row[:, None], self.column]
        return np.where(self.below, dot <= level, dot >= level)


def planes(x: NDArray[np.uint8], w: Packed, padding: int = 0, backend: str = "auto") -> NDArray[np.int32]:
    """x (N, H, W, C) uint8 by w (Cout, kh, kw, C): int32 (N, H', W', Cout), a zero border, plane after plane.

    With a plane's bits as ±1, x^n . w = (product + sum of the weights inside the image) / 2. Raises what
    `xnor_conv2d` raises.
    """
    padding = whole_number("padding", padding)
    _check(x, w, padding)
    ones = kernels.pack(np.ones((1, *x.shape[1:]), np.int8), backend)
    inside = kernels.xnor_conv2d(ones, w, padding, 1, backend)
    total = np.zeros((len(x), *inside.shape[1:]), np.int32)
    for n in range(8):
        plane = kernels.pack((x >> n & 1).astype(np.bool_), backend)
        total += (kernels.xnor_conv2d(plane, w, padding, 1, backend) + inside) // 2 << n
    return total


def pixel_conv2d(
    x: NDArray[np.uint8],
    w: Packed,
    padding: int = 0,
    backend: str = "auto",
    *,
    way: str | None = None,
    out: NDArray[np.int32] | None = None,
) -> NDArray[np.int32]:
    """What `planes` gives, by the fastest way of the backend; `way`: one of `ways()`, on the CPU backend only.

    x on a GPU (CuPy, torch): a CuPy array there. The filters are the host's.
    """
    padding = whole_number("padding", padding)
    if arrays.on_gpu(x):
        there = _on_gpu(x, way)
        made: NDArray[np.int32] = on_gpu.pixel_conv2d(there, w, padding, _check(there, w, padding), out)
        return made
    shape = _check(x, w, padding)
    result = output(shape, out)
    if not _run(x, w, padding, shape, backend, way, out=result.ctypes.data):
        result[:] = planes(x, w, padding, backend)
    return result


def pixel_conv2d_threshold(
    x: NDArray[np.uint8],
    w: Packed,
    rule: LocalThresholds,
    padding: int = 0,
    backend: str = "auto",
    *,
    way: str | None = None,
) -> Packed:
    """`pixel_conv2d` against a threshold for each filter and place: packed (N, H', W', Cout).

    Raises ValueError where the rule is not for as many filters and places.
    """
    padding = whole_number("padding", padding)
    x = _on_gpu(x, way) if (there := arrays.on_gpu(x)) else x
    shape = _check(x, w, padding)
    if shape[1:] != (len(rule.row), len(rule.column), len(rule.below)):
        raise ValueError(f"an output of shape {shape} and a rule for another")
    if there:
        return on_gpu.pixel_conv2d_threshold(x, w, rule, padding, shape)
    bits = np.zeros((*shape[:3], words_for(shape[3])), np.uint64)
    level, flip, row, column = _lanes(rule)
    fused = {"bits": bits.ctypes.data, "bits_bytes": bits.shape[3] * 8, "level": level.at, "flip": flip.at}
    if _run(x, w, padding, shape, backend, way, **fused, level_y=row.at, level_x=column.at):
        return Packed(fixed(bits), shape[3])
    return kernels.pack(rule.apply(planes(x, w, padding, backend)), backend)


def ways() -> tuple[str, ...]:
    """How the CPU backend can do it here, the fastest first: `bytes`, `planes`; none without a compiler."""
    return _ways(cpu._library(), cpu._choose(None))


@cache
def _ways(library: ctypes.CDLL | build.BuildError, isa: str) -> tuple[str, ...]:
    if isinstance(library, build.BuildError) or isa == "numpy":
        return ()
    return ("bytes", "planes") if isa == "avx512" and library.kernels_has_bytes() else ("planes",)


def describe(backend: str = "auto") -> str:
    """What `pixel_conv2d` would do, in words."""
    if kernels.takes_gpu(backend):
        return "bytes by ±1 (tensor cores)"
    found = ways() if _is_cpu(backend) else ()
    return {"bytes": "bytes by ±1 (VNNI)", "planes": "bit planes, fused"}[found[0]] if found else "bit planes"


def _is_cpu(backend: str) -> bool:
    return kernels._backend(backend, there=False) is cpu


def _on_gpu(x: Any, way: str | None) -> Any:
    """x as a CuPy array. RuntimeError where the GPU's kernel cannot run."""
    if way is not None:
        raise ValueError(f"way {way!r} is not for arrays on a GPU")
    if reason := on_gpu.unavailable():
        raise RuntimeError(f"pixels on a GPU: {reason}")
    return arrays.as_cupy(x)[0]


def _check(x: NDArray[np.uint8], w: Packed, padding: int) -> tuple[int, int, int, int]:
    check_plain(x)
    if not (isinstance(x, np.ndarray) or arrays.on_gpu(x)) or x.dtype != np.uint8:
        raise TypeError(f"pixels are a uint8 array, not {getattr(x, 'dtype', type(x).__name__)}")
    if x.ndim != 4 or len(w.shape) != 4 or x.shape[3] != w.k:
        raise ValueError(f"pixels (N, H, W, C) and filters (Cout, kh, kw, C) do not fit: {x.shape}, {w.shape}")
    height, width = (x.shape[i] + 2 * padding - w.shape[i] + 1 for i in (1, 2))
    if padding < 0 or height < 1 or width < 1:
        raise ValueError(f"{w.shape[1]}x{w.shape[2]} taps do not fit {x.shape[1:3]} with padding {padding}")
    if not 1 <= w.shape[1] * w.shape[2] * w.k <= MAX_WINDOW:
        raise ValueError(f"a filter of shape {w.shape[1:]} has more than {MAX_WINDOW} elements")
    return x.shape[0], height, width, w.shape[0]


def _run(
    x: NDArray[np.uint8],
    w: Packed,
    padding: int,
    shape: tuple[int, ...],
    backend: str,
    way: str | None,
    **target: int,
) -> bool:
    """Runs the C of the CPU backend into `target`; False where there is none."""
    possible = ways() if _is_cpu(backend) else ()
    if way is not None and way not in possible:
        raise ValueError(f"way {way!r} does not run here: {', '.join(possible) or 'none'} would")
    library = cpu._library()
    if not possible or isinstance(library, build.BuildError):
        return False
    chosen = way or possible[0]
    flat, start = _flat(w)
    panels = _panels(library, flat, chosen)
    x = np.ascontiguousarray(x)
    job = _Job(
        pixels=x.ctypes.data, images=x.shape[0], height=x.shape[1], width=x.shape[2], channels=x.shape[3],
        taps_h=w.shape[1], taps_w=w.shape[2], pad=padding, out_h=shape[1], out_w=shape[2],
        panels=panels.at, n=shape[3], words=flat.words.shape[1], start=start.at,
        bytes=chosen == "bytes", isa=cpu.ISAS.index(cpu._choose(None)), threads=cpu._threads(None), **target,
    )  # fmt: skip
    library.kernels_pixels(ctypes.byref(job))
    return True


def _flat(w: Packed) -> tuple[Packed, cpu._Held]:
    """The filters as rows of kh kw C bits, and twice each row's number of ones, padded to whole panels."""
    made: tuple[Packed, cpu._Held] | None = w.derived.get("pixel rows")
    if made is None:
        flat = kernels.pack(kernels.unpack(w).reshape(w.shape[0], math.prod(w.shape[1:])))
        start = np.zeros(cpu._padded(w.shape[0]), np.int32)
        start[: w.shape[0]] = 2 * flat.counts
        made = w.derived["pixel rows"] = (flat, cpu._held(start))
    return made


def _panels(library: ctypes.CDLL, flat: Packed, way: str) -> cpu._Held:
    n, words = flat.words.shape
    if way == "planes":
        return cpu._panels(library, flat, words, cpu._threads(None))
    made: cpu._Held | None = flat.derived.get("byte panels")
    if made is None:
        made = cpu._aligned(cpu._padded(n) * words, np.uint64)
        pointer, count = ctypes.c_void_p, ctypes.c_int64
        library.kernels_byte_panels(pointer(flat.address), count(n), count(words), pointer(made.at))
        flat.derived["byte panels"] = made
    return made


def _lanes(rule: LocalThresholds) -> tuple[cpu._Held, ...]:
    """The rule as (dot ^ flip) >= level, classes as offsets; lanes without a unit never fire."""
    made: tuple[cpu._Held, ...] | None = rule.derived.get("pixel lanes")
    if made is None:
        rows, columns, n = rule.level.shape
        level = np.full((rows, columns, cpu._padded(n)), np.iinfo(np.int32).max, np.int32)
        flip = np.zeros(cpu._padded(n), np.int32)
        flip[:n] = -rule.below.astype(np.int32)
        beyond = 255 * MAX_WINDOW + 1
        level[:, :, :n] = np.clip(rule.level, -beyond, beyond) ^ flip[:n]
        places = (rule.row * (columns * cpu._padded(n)), rule.column * cpu._padded(n))
        made = tuple(cpu._held(np.ascontiguousarray(array)) for array in (level, flip, *places))
        rule.derived["pixel lanes"] = made
    return made
