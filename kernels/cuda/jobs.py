"""Operands and results of the products as the kernels take them: jobs, tables, windows of a convolution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import border, reference
from kernels.cuda import launch, tiles
from kernels.cuda.arrays import gpu_words_for, to_host
from kernels.cuda.launch import Job
from kernels.operands import Packed, Rows, Thresholds, conv2d_shape

WINDOW_BYTES = 256 << 20  # windows of a convolution held at once
FUSED_K = 1 << 30


def device_of(a: Packed, b: Packed) -> Any:
    """A context that selects the device of both operands; TypeError if they are on different devices."""
    words: tuple[Any, Any] = (a.words, b.words)  # CuPy's
    first, second = (each.device for each in words)
    if first != second:
        raise TypeError(f"the operands are on GPUs {first.id} and {second.id}")
    return first


def matmul_job(kernel: tiles.Kernel, a: Packed, b: Packed, rule: Thresholds | None) -> Job:
    """The job of a (M, K) by b (N, K); the caller sets where the result goes."""
    job = Job(a.words, b.words, a.shape[0], b.shape[0], a.words.shape[1] * 8, a.k, None)
    _set_tables(kernel, job, b, rule, b.k, lambda: np.full((1, b.shape[0]), b.k, np.int32), ())
    if kernel.and_form and kernel is not tiles.NAIVE:
        job.cnt = _kept_counts(a)
    return job


def _set_tables(
    kernel: tiles.Kernel,
    job: Job,
    b: Packed,
    rule: Thresholds | None,
    k: int,
    starts: Callable[[], Any],
    place: tuple[int, ...],
) -> None:
    """Sets the tables that counts are added to or compared with (common.cuh); they are kept in `b.derived`.

    The GPU finishes them before they are kept, so that any stream may use them. `starts` returns int32 (classes,
    N); `place` identifies it among the kept tables; `k` bounds the products.
    """
    import cupy

    fused = rule is not None and kernel is not tiles.NAIVE
    key = ("cuda", kernel.and_form, *place, id(rule) if fused else None)
    kept = b.derived.get(key)
    if kept is None:
        given = cupy.asarray(starts())
        classes, n = given.shape
        table = cupy.empty((classes, -(-n // tiles.TABLE_COLUMNS) * tiles.TABLE_COLUMNS), cupy.int32)
        counts = _counts(b.words, n) if kernel.and_form else None
        level = _levels(rule, k)[0] if rule is not None and fused else None
        launch.rows("table_of", table.size, given, counts, level, table, classes, n, table.shape[1])
        cupy.cuda.get_current_stream().synchronize()
        kept = b.derived[key] = (table, rule)  # the rule is kept alive, so that no other rule can get its id
    job.base = kept[0]
    if rule is not None:
        job.level, job.turn = _levels(rule, k)


def _kept_counts(p: Packed) -> Any:
    """The number of ones of each row, kept for later products on the same stream, which run after the counting."""
    import cupy

    key = ("cuda counts", cupy.cuda.get_current_stream().ptr)
    kept = p.derived.get(key)
    if kept is None:
        kept = p.derived[key] = _counts(p.words, p.shape[0])
    return kept


def _counts(words: Any, rows: int) -> Any:
    import cupy

    counts = cupy.empty(rows, cupy.int32)
    launch.rows("count_rows", rows * 32, words, counts, rows, words.size // rows * 2)
    return counts


def _levels(rule: Thresholds, k: int) -> tuple[Any, Any]:
    """`levels` on the current GPU, kept in the rule."""
    import cupy

    key = ("cuda", cupy.cuda.Device().id, k)
    made: tuple[Any, Any] | None = rule.derived.get(key)
    if made is None:
        level, turn = levels(rule, k)
        made = cupy.asarray(level), cupy.asarray(turn)
        cupy.cuda.get_current_stream().synchronize()
        rule.derived[key] = made
    return made


def levels(rule: Thresholds, k: int) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
    """A rule for |dot| <= k as the kernels take it: dot >= level, int32 (N,), inverted for units whose bit is set.

    Levels are clipped to the range of dot. dot <= t is the inverse of dot >= t + 1. Raises ValueError for k >=
    2^30, where the comparison would overflow int32.
    """
    if k >= FUSED_K:
        raise ValueError(f"the CUDA backends apply thresholds for K < 2^30, not {k}")
    level = (np.clip(rule.level, -k - 1, k + 1) + rule.below).astype(np.int32)
    words = np.zeros(gpu_words_for(len(level)), np.uint64)
    below = reference.pack(Rows(rule.below[None], "bool"))[0]
    words[: len(below)] = below
    return level, words


def windows(
    kernel: tiles.Kernel, x: Packed, w: Packed, rule: Thresholds | None, padding: int, stride: int
) -> Iterator[tuple[Job, slice]]:
    """The jobs of a convolution, products of gathered windows, each with its slice of the result rows."""
    import cupy

    images, out_h, out_w, cout = conv2d_shape(x, w, padding, stride)
    row_words = int(np.prod(w.words.shape[1:]))
    starts, class_y, class_x = _border(x, w, padding, stride)
    taps = w.shape[1] * w.shape[2]
    image_bytes = out_h * out_w * row_words * 8
    if image_bytes >= 16 << 32:
        raise ValueError(f"an image's windows take {image_bytes} bytes; CUDA backends gather up to 64 GiB")
    at_once = max(1, WINDOW_BYTES // image_bytes)
    for first in range(0, images, at_once):
        part = x.words[first : first + at_once]
        rows = part.shape[0] * out_h * out_w
        gathered, cls = cupy.empty((rows, row_words), cupy.uint64), cupy.empty(rows, cupy.int32)
        launch.rows(
            "windows", gathered.size // 2,
            launch.structure(
                part, gathered, cls, class_y, class_x, part.shape[0], *x.shape[1:3], part.shape[3] // 2,
                *w.shape[1:3], padding, stride, out_h, out_w, starts.shape[1],
            ),
        )  # fmt: skip
        job = Job(gathered, w.words, rows, cout, row_words * 8, x.k, None, cls)
        place = (*x.shape[1:3], padding, stride)
        _set_tables(kernel, job, w, rule, w.k * taps, lambda: starts.reshape(-1, cout), place)
        if kernel.and_form:
            job.cnt = _counts(gathered, rows)
        yield job, slice(first * out_h * out_w, first * out_h * out_w + rows)


def _border(x: Packed, w: Packed, padding: int, stride: int) -> tuple[Any, Any, Any]:
    """`border.starts`: the starts in host memory, the classes of rows and of columns on the GPU."""
    import cupy

    key = ("cuda border", *x.shape[1:3], padding, stride)
    made: tuple[Any, Any, Any] | None = w.derived.get(key)
    if made is None:
        starts, rows, columns = border.starts(to_host(w), x.shape[1:3], padding, stride)
        made = (starts, cupy.asarray(rows.astype(np.int32)), cupy.asarray(columns.astype(np.int32)))
        cupy.cuda.get_current_stream().synchronize()
        w.derived[key] = made
    return made
