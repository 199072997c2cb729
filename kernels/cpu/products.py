"""±1 by ±1 in C (csrc/xnor): packing, products, convolutions, pooling of bits. In NumPy without a compiler.

ctypes releases the GIL during a call.
"""

import ctypes

import numpy as np
from numpy.typing import NDArray

from kernels import reference
from kernels.arrays import output, read_only
from kernels.cpu.panels import Held, conv2d_starts, lanes, matmul_starts, panels, room
from kernels.cpu.runtime import compiled, fields, thread_count
from kernels.operands import KINDS, Packed, Rows, Thresholds, conv2d_shape, words_for

CHUNK_WORDS = 64  # words of a long row processed together, so that its panels stay in the first-level cache


class _Job(ctypes.Structure):
    """`job_t` of csrc/xnor/drive.c; pointers travel as integers, 0 for none."""

    _fields_ = fields(
        "words lifted images height width pixel_words lifted_words pad stride out_h out_w segs pairs seg_words "
        "panels n start start_y start_x out bits bits_bytes level flip isa threads ready"
    )


def pack(rows: Rows) -> NDArray[np.uint64]:
    """Words (rows, ceil(K / 64)) of rows; ValueError for NaN."""
    if (found := compiled()) is None:
        return reference.pack(rows)
    library, level = found
    count, k = rows.values.shape
    words = np.empty((count, words_for(k)), np.uint64)
    at, step = rows.values.ctypes.data, rows.values.strides[0]
    kind = KINDS.index(rows.kind)
    if library.kernels_pack(level, thread_count(), kind, at, step, count, k, words.ctypes.data):
        raise ValueError("cannot pack NaN: it has no sign")
    return read_only(words)


def matmul(a: Packed, b: Packed, out: NDArray[np.int32] | None = None) -> NDArray[np.int32]:
    """a (M, K) by b (N, K): int32 (M, N). Keeps layouts of both in their `derived` for the next call."""
    out = output((len(a.words), len(b.words)), out)
    if not _matmul(a, b, out=out.ctypes.data):
        reference.matmul(a, b, out)
    return out


def matmul_threshold(a: Packed, b: Packed, rule: Thresholds) -> NDArray[np.uint64]:
    """Packed bits of the product against a rule for each row of b: words (M, ceil(N / 64))."""
    bits = np.zeros((len(a.words), words_for(len(b.words))), np.uint64)
    level, flip = lanes(rule, a.k)
    fused = {"bits": bits.ctypes.data, "bits_bytes": bits.shape[1] * 8}
    if not _matmul(a, b, **fused, level=level.at, flip=flip.at):
        return reference.matmul_threshold(a, b, rule)
    return read_only(bits)


def conv2d(
    x: Packed, w: Packed, padding: int, stride: int, out: NDArray[np.int32] | None = None
) -> NDArray[np.int32]:
    """x (N, H, W, C), w (Cout, kh, kw, C): int32 (N, H', W', Cout). Keeps w's panels in `w.derived`."""
    out = output(conv2d_shape(x, w, padding, stride), out)
    if not _conv2d(x, w, padding, stride, out=out.ctypes.data):
        reference.conv2d(x, w, padding, stride, out)
    return out


def conv2d_threshold(x: Packed, w: Packed, rule: Thresholds, padding: int, stride: int) -> NDArray[np.uint64]:
    """Packed bits of the convolution against a rule for each filter: words (N, H', W', ceil(Cout / 64))."""
    bits = np.zeros((*conv2d_shape(x, w, padding, stride)[:3], words_for(len(w.words))), np.uint64)
    level, flip = lanes(rule, w.shape[1] * w.shape[2] * w.k)
    fused = {"bits": bits.ctypes.data, "bits_bytes": bits.shape[3] * 8}
    if not _conv2d(x, w, padding, stride, **fused, level=level.at, flip=flip.at):
        return reference.conv2d_threshold(x, w, rule, padding, stride)
    return read_only(bits)


def maxpool2x2(x: Packed, falling: Packed) -> NDArray[np.uint64]:
    """Words (N, H // 2, W // 2, ceil(C / 64)) of pooled bits x (N, H, W, C); see `kernels.maxpool2x2`."""
    if (found := compiled()) is None:
        return reference.maxpool2x2(x, falling)
    images, height, width, words = x.words.shape
    out = np.empty((images, height // 2, width // 2, words), np.uint64)
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    found[0].kernels_maxpool(
        thread_count(), pointer(x.address), count(images), count(height), count(width), count(words),
        pointer(falling.address), pointer(out.ctypes.data),
    )  # fmt: skip
    return read_only(out)


def _matmul(a: Packed, b: Packed, **target: int) -> bool:
    """Computes the product into `target`; False if NumPy has to compute it."""
    if (found := compiled()) is None:
        return False
    (library, level), workers = found, thread_count()
    rows, words = a.words.shape
    segs = -(-words // CHUNK_WORDS)
    pairs = -(-words // segs)
    filters = panels(library, b, segs * pairs, workers)
    ready: Held | None = a.derived.get(("cpu lifted", segs * pairs))
    lifted = ready or room(rows * segs * pairs, np.uint64)
    start, start_y, start_x = matmul_starts(b)
    job = _Job(
        words=a.address, lifted=lifted.at, images=rows, height=1, width=1,
        pixel_words=words, lifted_words=segs * pairs, pad=0, stride=1, out_h=1, out_w=1,
        segs=segs, pairs=pairs, seg_words=pairs, panels=filters.at, n=len(b.words),
        start=start.at, start_y=start_y.at, start_x=start_x.at,
        isa=level, threads=workers, ready=ready is not None, **target,
    )  # fmt: skip
    library.kernels_product(ctypes.byref(job))
    if len(b.words):  # otherwise the C code has done nothing
        a.derived["cpu lifted", segs * pairs] = lifted
    return True


def _conv2d(x: Packed, w: Packed, padding: int, stride: int, **target: int) -> bool:
    """Computes the convolution into `target`; False if NumPy has to compute it."""
    if (found := compiled()) is None:
        return False
    (library, level), workers = found, thread_count()
    images, height, width, words = x.words.shape
    cout, kh, kw, _ = w.words.shape
    _, out_h, out_w, _ = conv2d_shape(x, w, padding, stride)
    padded_w = width + 2 * padding
    filters = panels(library, w, kh * kw * words, workers)
    lifted = room(images * (height + 2 * padding) * padded_w * words, np.uint64)
    start, start_y, start_x = conv2d_starts(x, w, padding, stride)
    job = _Job(
        words=x.address, lifted=lifted.at, images=images, height=height, width=width,
        pixel_words=words, lifted_words=words, pad=padding, stride=stride, out_h=out_h, out_w=out_w,
        segs=kh, pairs=kw * words, seg_words=padded_w * words, panels=filters.at, n=cout,
        start=start.at, start_y=start_y.at, start_x=start_x.at,
        isa=level, threads=workers, **target,
    )  # fmt: skip
    library.kernels_product(ctypes.byref(job))
    return True
