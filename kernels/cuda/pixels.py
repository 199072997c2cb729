"""Products of 8-bit images with ±1 filters on a GPU (see kernels.pixels): bytes by bytes on tensor cores.

Windows of an image are gathered as rows of bytes, WINDOW_BYTES at a time. An image that is a single window is
a row already. Products and thresholds are in src/mma.cuh, tables as in src/common.cuh.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from kernels import reference
from kernels.cuda import launch, tiles
from kernels.cuda.arrays import gpu_output, gpu_words_for
from kernels.cuda.launch import Job
from kernels.operands import LocalThresholds, Packed, Rows, conv2d_shape

WINDOW_BYTES = 256 << 20  # windows held at once
GRANULE = 16
MOST = np.iinfo(np.int32).max


def pixel_conv2d(x: Any, w: Packed, padding: int, out: Any = None) -> Any:
    """CuPy uint8 x (N, H, W, C) by w of the host: CuPy int32 (N, H', W', Cout), in `out` if given."""
    import cupy

    shape = conv2d_shape(x, w, padding)
    with x.device:
        out = gpu_output(shape, out)
        flat = out.reshape(math.prod(shape[:3]), shape[3])
        zeros = cupy.asarray(np.zeros((1, _padded(shape[3])), np.int32))
        for job, part in _jobs(x, w, padding, shape, None) if out.size else ():
            job.base, job.out = zeros, flat[part]
            _launch(job)
    return out


def pixel_conv2d_threshold(x: Any, w: Packed, rule: LocalThresholds, padding: int) -> Any:
    """`pixel_conv2d` against a threshold for each filter and position: CuPy words (N, H', W', words)."""
    import cupy

    shape = conv2d_shape(x, w, padding)
    with x.device:
        bits = cupy.empty((int(np.prod(shape[:3])), gpu_words_for(shape[3])), cupy.uint64)
        cut, turn, *_ = _cuts(rule)
        for job, part in _jobs(x, w, padding, shape, rule) if bits.size else ():
            job.base, job.turn, job.bits = cut, turn, bits[part]
            _launch(job)
        return bits.reshape(*shape[:3], bits.shape[1])


def _launch(job: Job) -> None:
    kernel = tiles.BYTES
    blocks = -(-job.m // kernel["TILE_M"]) * -(-job.n // kernel["TILE_N"])
    launch.kernel(kernel, f"{kernel.name}_{job.form}", (blocks,), job.argument())


def _jobs(
    x: Any, w: Packed, padding: int, shape: tuple[int, ...], rule: LocalThresholds | None
) -> Iterator[tuple[Job, slice]]:
    """The jobs of a convolution, each with the slice of result rows that it computes."""
    import cupy

    images, out_h, out_w, units = shape
    height, width, channels = x.shape[1:]
    filters, pitch = _filters(w)
    k = int(np.prod(w.shape[1:]))
    places = rule is not None and rule.level.shape[:2] != (1, 1)
    whole = padding == 0 and x.shape[1:3] == w.shape[1:3] and k == pitch
    if not places and whole and x.data.ptr % GRANULE == 0:
        yield Job(x, filters, images, units, pitch, k, None), slice(0, images)
        return
    class_y, class_x = (cupy.asarray(np.zeros(size, np.int32)) for size in (out_h, out_w))
    if rule is not None:
        class_y, class_x = _cuts(rule)[2:]
    at_once = max(1, WINDOW_BYTES // (out_h * out_w * pitch))
    for first in range(0, images, at_once):
        part = x[first : first + at_once]
        count = part.shape[0] * out_h * out_w
        gathered, cls = cupy.empty((count, pitch // 8), cupy.uint64), cupy.empty(count, cupy.int32)
        launch.rows(
            "pixel_windows", count * pitch // GRANULE,
            launch.structure(
                part, gathered, cls, class_y, class_x, part.shape[0], height, width, channels, *w.shape[1:3],
                padding, out_h, out_w, pitch // GRANULE, 1 if rule is None else rule.level.shape[1],
            ),
        )  # fmt: skip
        job = Job(gathered, filters, count, units, pitch, k, None, cls if places else None)
        yield job, slice(first * out_h * out_w, first * out_h * out_w + count)


def _padded(units: int) -> int:
    return -(-units // tiles.TABLE_COLUMNS) * tiles.TABLE_COLUMNS


def _filters(w: Packed) -> tuple[Any, int]:
    """The filters as rows of ±1 bytes on the current GPU, zeros up to the pitch, kept in w; and the pitch."""
    import cupy

    k = int(np.prod(w.shape[1:]))
    pitch = -(-k // GRANULE) * GRANULE
    key = ("cuda bytes", cupy.cuda.Device().id)
    made = w.derived.get(key)
    if made is None:
        rows = np.zeros((w.shape[0], pitch), np.int8)
        rows[:, :k] = reference.unpack(w).reshape(w.shape[0], k)
        made = cupy.asarray(rows)
        cupy.cuda.get_current_stream().synchronize()
        w.derived[key] = made
    return made, pitch


def _cuts(rule: LocalThresholds) -> tuple[Any, ...]:
    """A rule on the current GPU, kept in it: levels (classes, padded units), which units' bits are inverted, the
    classes of rows and of columns. dot <= t is the inverse of dot >= t + 1."""
    import cupy

    key = ("cuda", cupy.cuda.Device().id)
    made: tuple[Any, ...] | None = rule.derived.get(key)
    if made is None:
        units = len(rule.below)
        level = np.full((*rule.level.shape[:2], _padded(units)), MOST, np.int32)
        level[..., :units] = np.clip(rule.level, -MOST, MOST - 1) + rule.below
        turn = np.zeros(gpu_words_for(units), np.uint64)
        below = reference.pack(Rows(rule.below[None], "bool"))[0]
        turn[: len(below)] = below
        places = (place.astype(np.int32) for place in (rule.row, rule.column))
        made = tuple(cupy.asarray(each) for each in (level.reshape(-1, level.shape[2]), turn, *places))
        cupy.cuda.get_current_stream().synchronize()
        rule.derived[key] = made
    return made
