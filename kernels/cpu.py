"""The CPU backend: C compiled on first use (kernels.build), called through ctypes, which lets go of the GIL.

Instruction sets, best first: `avx512` (with VPOPCNTDQ), `avx2`, `portable` (compiler vectors), and `numpy`
(`np.bitwise_count`, for machines without a compiler). The best one that runs here is taken unless `isa=` or
$KERNELS_ISA names another. Threads: one for each core that this process may use
(affinity, cgroup quota), unless `threads=` or $KERNELS_THREADS says.
"""

import ctypes
import re
import threading
import time
import warnings
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels import bitcount, build, reference
from kernels.environment import VariableError, cores, variable
from kernels.packed import KINDS, Packed, Rows, Thresholds, aligned, conv2d_shape, fixed, output, words_for

ISAS = ("portable", "avx2", "avx512")  # by level, as kernels_level counts them
LANES = 16  # columns of a panel (csrc/xnor.h)
CHUNK_WORDS = 64  # words of a long row taken at once, so that its panels stay in the first-level cache

_FIELDS = (
    "words lifted images height width pixel_words lifted_words pad stride out_h out_w segs pairs seg_words "
    "panels n start start_y start_x out bits bits_bytes level flip isa threads ready"
)


class _Held(NamedTuple):
    """An array and its address, which NumPy takes a microsecond to say."""

    array: NDArray[Any]
    at: int


_Starts = tuple[_Held, _Held, _Held]


class _Job(ctypes.Structure):
    """`job_t` of csrc/drive.c; pointers travel as integers, 0 for none."""

    _fields_ = [(name, ctypes.c_int64) for name in _FIELDS.split()]


_lock = threading.Lock()
_loaded: ctypes.CDLL | build.BuildError | None = None


def _library() -> ctypes.CDLL | build.BuildError:
    """The compiled library, or why there is none (warned about once)."""
    global _loaded
    if _loaded is None:
        with _lock:
            if _loaded is None:
                try:
                    _loaded = _declared(build.load())
                except build.BuildError as error:
                    warnings.warn(f"1-bit kernels run in NumPy: {error}", RuntimeWarning, stacklevel=2)
                    _loaded = error
    return _loaded


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    number, count, pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
    library.kernels_level.argtypes = ()
    library.kernels_pack.argtypes = (number, number, number, pointer, count, count, count, pointer)
    library.kernels_panels.argtypes = (number, pointer, count, count, count, pointer)
    library.kernels_product.argtypes = (ctypes.POINTER(_Job),)
    library.kernels_spin.argtypes = (number, number, count)
    library.kernels_spin.restype = count
    library.kernels_panels.restype = library.kernels_product.restype = None
    return library


def isas() -> tuple[str, ...]:
    """Instruction sets that run on this machine, best first; the last is `numpy`."""
    return _isas(_library())


@cache
def _isas(library: ctypes.CDLL | build.BuildError) -> tuple[str, ...]:
    if isinstance(library, build.BuildError):
        return ("numpy",)
    return (*ISAS[library.kernels_level() :: -1], "numpy")


def _choose(isa: str | None) -> str:
    usable, given = isas(), variable("KERNELS_ISA")
    chosen = isa or given or usable[0]
    if chosen in usable:
        return chosen
    if isa:
        raise ValueError(f"instruction set {isa!r} does not run here: one of {', '.join(usable)} does")
    raise VariableError(f"KERNELS_ISA={given!r} does not run here: one of {', '.join(usable)} does")


def _threads(threads: int | None) -> int:
    if threads is None:
        given = variable("KERNELS_THREADS")
        if given and not re.fullmatch(r"[1-9][0-9]{0,3}", given):
            raise VariableError(f"KERNELS_THREADS takes a number of threads from 1 to 9999, not {given!r}")
        threads = int(given or cores())
    if threads < 1:
        raise ValueError(f"the number of threads must be at least 1, not {threads}")
    return threads


def thread_count() -> int:
    """How many threads a call takes that does not say."""
    return _threads(None)


def unavailable() -> str | None:
    """Why this backend cannot run here: it always can."""
    return None


def describe() -> str:
    """What runs, in words."""
    return f"cpu ({_choose(None)}, {_threads(None)} threads)"


def pack(rows: Rows, *, isa: str | None = None, threads: int | None = None) -> NDArray[np.uint64]:
    """Words (rows, ceil(K / 64)) of rows; ValueError for NaN."""
    chosen, library = _choose(isa), _library()
    if chosen == "numpy" or isinstance(library, build.BuildError):
        return reference.pack(rows)
    count, k = rows.values.shape
    words = np.empty((count, words_for(k)), np.uint64)
    at, step = rows.values.ctypes.data, rows.values.strides[0]
    kind = KINDS.index(rows.kind)
    if library.kernels_pack(ISAS.index(chosen), _threads(threads), kind, at, step, count, k, words.ctypes.data):
        raise ValueError("cannot pack NaN: it has no sign")
    return fixed(words)


def matmul(
    a: Packed,
    b: Packed,
    out: NDArray[np.int32] | None = None,
    *,
    isa: str | None = None,
    threads: int | None = None,
) -> NDArray[np.int32]:
    """a (M, K) by b (N, K): int32 (M, N). Keeps layouts of both in their `derived` for the next call."""
    out = output((len(a.words), len(b.words)), out)
    if not _matmul(a, b, isa, threads, out=out.ctypes.data):
        out[:] = bitcount.matmul(a, b)
    return out


def matmul_threshold(
    a: Packed, b: Packed, rule: Thresholds, *, isa: str | None = None, threads: int | None = None
) -> NDArray[np.uint64]:
    """Packed bits of the product against a rule for each row of b: words (M, ceil(N / 64))."""
    bits = np.zeros((len(a.words), words_for(len(b.words))), np.uint64)
    level, flip = _lanes(rule, a.k)
    fused = {"bits": bits.ctypes.data, "bits_bytes": bits.shape[1] * 8}
    if not _matmul(a, b, isa, threads, **fused, level=level.at, flip=flip.at):
        return reference.pack(Rows(rule.apply(bitcount.matmul(a, b)), "bool"))
    return fixed(bits)


def conv2d(
    x: Packed,
    w: Packed,
    padding: int,
    stride: int,
    out: NDArray[np.int32] | None = None,
    *,
    isa: str | None = None,
    threads: int | None = None,
) -> NDArray[np.int32]:
    """x (N, H, W, C), w (Cout, kh, kw, C): int32 (N, H', W', Cout). Keeps w's panels in `w.derived`."""
    out = output(conv2d_shape(x, w, padding, stride), out)
    if not _conv2d(x, w, padding, stride, isa, threads, out=out.ctypes.data):
        out[:] = bitcount.conv2d(x, w, padding, stride)
    return out


def conv2d_threshold(
    x: Packed,
    w: Packed,
    rule: Thresholds,
    padding: int,
    stride: int,
    *,
    isa: str | None = None,
    threads: int | None = None,
) -> NDArray[np.uint64]:
    """Packed bits of the convolution against a rule for each filter: words (N, H', W', ceil(Cout / 64))."""
    bits = np.zeros((*conv2d_shape(x, w, padding, stride)[:3], words_for(len(w.words))), np.uint64)
    level, flip = _lanes(rule, w.shape[1] * w.shape[2] * w.k)
    fused = {"bits": bits.ctypes.data, "bits_bytes": bits.shape[3] * 8}
    if not _conv2d(x, w, padding, stride, isa, threads, **fused, level=level.at, flip=flip.at):
        dot = bitcount.conv2d(x, w, padding, stride)
        return reference.pack(Rows(rule.apply(dot).reshape(-1, len(w.words)), "bool")).reshape(bits.shape)
    return fixed(bits)


def roofline(seconds: float = 0.2, *, isa: str | None = None, threads: int | None = None) -> float | None:
    """One-bit operations a second (2 a multiply-add) of the avx512 tile in registers; None for the others."""
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        done = in_registers(isa=isa, threads=threads)
        if done is None:
            return None
        best = max(best, done / (time.perf_counter() - start))
    return best


def in_registers(*, isa: str | None = None, threads: int | None = None) -> float | None:
    """Does the avx512 tile's steps on registers alone, some milliseconds long; gives how many one-bit operations.

    None for the other instruction sets.
    """
    chosen, library, workers = _choose(isa), _library(), _threads(threads)
    if chosen != "avx512" or isinstance(library, build.BuildError):
        return None
    return float(library.kernels_spin(ISAS.index(chosen), workers, 500_000) * 32 * 2)


def _matmul(a: Packed, b: Packed, isa: str | None, threads: int | None, **target: int) -> bool:
    """Runs the product into `target`; False where it is NumPy's to do."""
    chosen, library, workers = _choose(isa), _library(), _threads(threads)
    if chosen == "numpy" or isinstance(library, build.BuildError):
        return False
    rows, words = a.words.shape
    segs = -(-words // CHUNK_WORDS)
    pairs = -(-words // segs)
    panels = _panels(library, b, segs * pairs, workers)
    ready: _Held | None = a.derived.get(("cpu lifted", segs * pairs))
    lifted = ready or _aligned(rows * segs * pairs, np.uint64)
    start, start_y, start_x = _matmul_starts(b)
    job = _Job(
        words=a.address, lifted=lifted.at, images=rows, height=1, width=1,
        pixel_words=words, lifted_words=segs * pairs, pad=0, stride=1, out_h=1, out_w=1,
        segs=segs, pairs=pairs, seg_words=pairs, panels=panels.at, n=len(b.words),
        start=start.at, start_y=start_y.at, start_x=start_x.at,
        isa=ISAS.index(chosen), threads=workers, ready=ready is not None, **target,
    )  # fmt: skip
    library.kernels_product(job)
    if len(b.words):  # else nothing was done
        a.derived["cpu lifted", segs * pairs] = lifted
    return True


def _conv2d(
    x: Packed, w: Packed, padding: int, stride: int, isa: str | None, threads: int | None, **target: int
) -> bool:
    """Runs the convolution into `target`; False where it is NumPy's to do."""
    chosen, library, workers = _choose(isa), _library(), _threads(threads)
    if chosen == "numpy" or isinstance(library, build.BuildError):
        return False
    images, height, width, words = x.words.shape
    cout, kh, kw, _ = w.words.shape
    _, out_h, out_w, _ = conv2d_shape(x, w, padding, stride)
    padded_w = width + 2 * padding
    panels = _panels(library, w, kh * kw * words, workers)
    lifted = _aligned(images * (height + 2 * padding) * padded_w * words, np.uint64)
    start, start_y, start_x = _conv2d_starts(x, w, padding, stride)
    job = _Job(
        words=x.address, lifted=lifted.at, images=images, height=height, width=width,
        pixel_words=words, lifted_words=words, pad=padding, stride=stride, out_h=out_h, out_w=out_w,
        segs=kh, pairs=kw * words, seg_words=padded_w * words, panels=panels.at, n=cout,
        start=start.at, start_y=start_y.at, start_x=start_x.at,
        isa=ISAS.index(chosen), threads=workers, **target,
    )  # fmt: skip
    library.kernels_product(job)
    return True


def _panels(library: ctypes.CDLL, b: Packed, pairs: int, threads: int) -> _Held:
    """b's rows as panels of `pairs` words; two threads may build them at once, to the same end."""
    panels: _Held | None = b.derived.get("cpu panels")
    if panels is None:
        n = len(b.words)
        panels = _aligned(_padded(n) * pairs * 2, np.uint32)
        library.kernels_panels(threads, b.address, n, b.words.size // max(n, 1), pairs, panels.at)
        b.derived["cpu panels"] = panels
    return panels


def _matmul_starts(b: Packed) -> _Starts:
    made: _Starts | None = b.derived.get("cpu starts")
    if made is None:
        none = _held(np.zeros(1, np.int64))
        made = b.derived["cpu starts"] = (_held(np.full(_padded(len(b.words)), b.k, np.int32)), none, none)
    return made


def _conv2d_starts(x: Packed, w: Packed, padding: int, stride: int) -> _Starts:
    """`bitcount.starts` with Cout padded to whole panels, and classes as offsets."""
    key = ("cpu starts", *x.shape[1:3], padding, stride)
    made: _Starts | None = w.derived.get(key)
    if made is None:
        start, row, column = bitcount.starts(w, x.shape[1:3], padding, stride)
        cout = _padded(len(w.words))
        start = np.pad(start, ((0, 0), (0, 0), (0, cout - start.shape[2])))
        made = (_held(start), _held(row * (start.shape[1] * cout)), _held(column * cout))
        w.derived[key] = made
    return made


def _lanes(rule: Thresholds, k: int) -> tuple[_Held, _Held]:
    """A rule as (dot ^ flip) >= level: dot <= t is ~dot >= ~t. Lanes without a unit never fire."""
    made: tuple[_Held, _Held] | None = rule.derived.get(("cpu lanes", k))
    if made is None:
        n = len(rule.level)
        level = np.full(_padded(n), np.iinfo(np.int32).max, np.int32)
        flip = np.zeros_like(level)
        flip[:n] = -rule.below.astype(np.int32)
        level[:n] = np.clip(rule.level, -k - 1, k + 1) ^ flip[:n]
        made = rule.derived["cpu lanes", k] = (_held(level), _held(flip))
    return made


def _padded(n: int) -> int:
    return -(-n // LANES) * LANES


def _held(array: NDArray[Any]) -> _Held:
    return _Held(array, array.ctypes.data)


def _aligned(count: int, dtype: type[np.generic]) -> _Held:
    """An uninitialised array that starts on a cache line."""
    return _Held(*aligned(count, dtype))
