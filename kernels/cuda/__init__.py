"""The CUDA backends: they take packed arrays on the GPU (`arrays`) and queue work on CuPy's current stream.

`cuda-naive` unpacks to float32 and runs the paper's unoptimized kernel (exact for K < 2^24); `cuda-xnor` counts
on CUDA cores; `cuda-bmma` uses the binary tensor cores of sm_80 to sm_90 through mma.sync, `cuda-wgmma` those
of sm_90a through wgmma. The sources in `src` say how; `tiles` holds their sizes, `nvrtc` compiles them on first
use. Convolutions gather their windows into rows, WINDOW_BYTES of them at a time.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import bitcount, reference
from kernels.cuda import launch, nvrtc, tensormap, tiles
from kernels.cuda.arrays import gpu_words_for, to_host
from kernels.cuda.launch import Job
from kernels.packed import Packed, Rows, Thresholds, conv2d_shape

WINDOW_BYTES = 256 << 20  # windows of a convolution held at once
EXACT_FLOAT_K = 1 << 24
FUSED_K = 1 << 30


@dataclass(frozen=True, eq=False)
class CudaBackend:
    """One kind of product behind the front door (see `kernels.Backend`).

    `and_form` says which count the kernel gives, and with it what the base is (src/common.cuh).
    """

    name: str
    kernel: tiles.Kernel
    and_form: bool
    run: Callable[["CudaBackend", Job], None]

    def unavailable(self) -> str | None:
        """Why the backend cannot run on this machine, or None."""
        if reason := launch.no_gpu():
            return reason
        if launch.architecture(self.kernel) is None:
            capability = launch.capability()
            return f"{self.name} is for sm_{', sm_'.join(self.kernel.architectures)}; this GPU is sm_{capability}"
        try:
            nvrtc.compiler()
        except nvrtc.CompileError as error:
            return str(error)
        return None

    def describe(self) -> str:
        """What would run, in words."""
        return f"{self.name} (sm_{launch.architecture(self.kernel)} on {launch.gpu_name()})"

    def pack(self, rows: Rows) -> Any:
        """CuPy uint64 words (rows, 2 ceil(K / 128)) of CuPy rows; ValueError for NaN. Waits for the GPU."""
        import cupy

        count, k = rows.values.shape
        values: Any = rows.values  # CuPy's
        with values.device:
            words = cupy.empty((count, gpu_words_for(k)), cupy.uint64)
            nan = cupy.zeros(1, cupy.int32)
            if count:
                pieces = count * -(-words.shape[1] // 16)
                launch.rows(f"pack_{rows.kind}", pieces * 32, values, words, nan, count, k, words.shape[1] * 2)
            if nan.get()[0]:
                raise ValueError("cannot pack NaN: it has no sign")
        return words

    def matmul(self, a: Packed, b: Packed, out: Any) -> Any:
        """(M, K) by (N, K) to CuPy int32 (M, N); into `out` if it is given and fits, else ValueError."""
        with _device(a, b):
            out = _output((a.shape[0], b.shape[0]), out)
            if out.size:
                self._product(_matmul_job(self, a, b, None), out)
        return out

    def matmul_threshold(self, a: Packed, b: Packed, rule: Thresholds) -> Any:
        """CuPy words of the product's bits: (M, 2 ceil(N / 128))."""
        with _device(a, b):
            bits = _bits(a.shape[0], b.shape[0])
            if bits.size:
                self._product(_matmul_job(self, a, b, rule), bits)
        return bits

    def conv2d(self, x: Packed, w: Packed, padding: int, stride: int, out: Any) -> Any:
        """(N, H, W, C) by (Cout, kh, kw, C) to CuPy int32 (N, H', W', Cout); `out` as in `matmul`."""
        with _device(x, w):
            shape = conv2d_shape(x, w, padding, stride)
            out = _output(shape, out)
            flat = out.reshape(math.prod(shape[:3]), shape[3])
            for job, part in _windows(self, x, w, None, padding, stride) if out.size else ():
                self._product(job, flat[part])
        return out

    def conv2d_threshold(self, x: Packed, w: Packed, rule: Thresholds, padding: int, stride: int) -> Any:
        """CuPy words of the convolution's bits: (N, H', W', 2 ceil(Cout / 128))."""
        with _device(x, w):
            *lead, cout = conv2d_shape(x, w, padding, stride)
            bits = _bits(int(np.prod(lead)), cout)
            for job, part in _windows(self, x, w, rule, padding, stride) if bits.size else ():
                self._product(job, bits[part])
        return bits.reshape(*lead, -1)

    def _product(self, job: Job, target: Any) -> None:
        if job.turn is None:
            job.out = target
        else:
            job.bits = target
        self.run(self, job)


def _tiled(backend: CudaBackend, job: Job) -> None:
    """One block a tile."""
    kernel = backend.kernel
    blocks = -(-job.m // kernel["TILE_M"]) * -(-job.n // kernel["TILE_N"])
    launch.kernel(kernel, f"{kernel.name}_{job.form}", (blocks,), job.argument())


def _persistent(backend: CudaBackend, job: Job) -> None:
    """One block a multiprocessor, each over many tiles; operands by tensor maps."""
    kernel, tile_m = backend.kernel, 64 * backend.kernel["CONSUMERS"]
    blocks = min(launch.multiprocessors(), -(-job.m // tile_m) * -(-job.n // tiles.WGMMA_N))
    maps = (
        tensormap.encode(job.a.data.ptr, job.m, job.pitch, tile_m),
        tensormap.encode(job.b.data.ptr, job.n, job.pitch, tiles.WGMMA_N),
    )
    launch.kernel(kernel, f"{kernel.name}_{job.form}", (blocks,), job.argument(), *maps)


def _float(backend: CudaBackend, job: Job) -> None:
    """Floats of both operands, the naive product, and integers (and bits) of it.

    Plain products multiply ±1. The rows of a convolution have zeros in their border: they multiply {0, 1}.
    """
    import cupy

    plain = job.cls is None
    k = job.k if plain else job.pitch * 8
    if k >= EXACT_FLOAT_K:
        raise ValueError(f"cuda-naive sums in float32, which is exact for K < 2^24, not {k}")
    a, b, low = cupy.empty((job.m, k), cupy.float32), cupy.empty((k, job.n), cupy.float32), -1 if plain else 0
    words = job.pitch // 4
    launch.rows("unpack_float", a.size, job.a, a, job.m, k, words, 0, low)
    launch.rows("unpack_float", b.size, job.b, b, job.n, k, words, 1, low)
    product = naive_product(a, b)
    target = job.out if job.bits is None else cupy.empty((job.m, job.n), cupy.int32)
    finish = Job(job.a, job.b, job.m, job.n, job.pitch, job.k, None if plain else job.base)
    finish.cls, finish.cnt, finish.out = job.cls, job.cnt, target
    launch.rows("finish_float", target.size, finish.argument(), product)
    if job.bits is not None:
        words = job.bits.shape[1] * 2
        rule = (job.level, job.turn)
        launch.rows("threshold_rows", job.m * words * 32, target, job.bits, *rule, job.m, job.n, words)


def naive_product(a: Any, b: Any) -> Any:
    """The paper's unoptimized kernel (section 4): CuPy float32 (M, K) by (K, N) to (M, N), all C-contiguous.

    Raises ValueError for other arrays, and for more columns than a grid has rows of blocks.
    """
    import cupy

    fits = a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0] and a.dtype == b.dtype == cupy.float32
    if not (fits and a.flags.c_contiguous and b.flags.c_contiguous):
        raise ValueError(f"contiguous float32 (M, K) and (K, N) are needed, not {a.shape} and {b.shape}")
    (m, k), n, side = a.shape, b.shape[1], tiles.NAIVE["TILE_SIDE"]
    out = cupy.empty((m, n), cupy.float32)
    if out.size:
        grid = (-(-m // side), -(-n // side))
        if grid[1] > 65535:
            raise ValueError(f"the naive kernel takes {65535 * side:,} columns at most, not {n:,}")
        launch.kernel(tiles.NAIVE, "naive_product", grid, a, b, out, m, n, k, block=(side, side))
    return out


def _device(a: Packed, b: Packed) -> Any:
    """The device both are on, to run there; TypeError where there are two."""
    words: tuple[Any, Any] = (a.words, b.words)  # CuPy's
    first, second = (each.device for each in words)
    if first != second:
        raise TypeError(f"the operands are on GPUs {first.id} and {second.id}")
    return first


def _output(shape: tuple[int, ...], out: Any) -> Any:
    import cupy

    if out is None:
        return cupy.empty(shape, cupy.int32)
    fits = isinstance(out, cupy.ndarray) and out.shape == shape and out.dtype == cupy.int32
    if not (fits and out.flags.c_contiguous and out.device.id == cupy.cuda.Device().id):
        raise ValueError(f"out must be a C-contiguous CuPy int32 array of shape {shape} beside the operands")
    return out


def _bits(rows: int, units: int) -> Any:
    import cupy

    return cupy.empty((rows, gpu_words_for(units)), cupy.uint64)


def _matmul_job(backend: CudaBackend, a: Packed, b: Packed, rule: Thresholds | None) -> Job:
    job = Job(a.words, b.words, a.shape[0], b.shape[0], a.words.shape[1] * 8, a.k, None)
    _set_tables(backend, job, b, rule, b.k, lambda: np.full((1, b.shape[0]), b.k, np.int32), ())
    if backend.and_form and backend.kernel is not tiles.NAIVE:
        job.cnt = _kept_counts(a)
    return job


def _set_tables(
    backend: CudaBackend,
    job: Job,
    b: Packed,
    rule: Thresholds | None,
    k: int,
    starts: Callable[[], Any],
    place: tuple[int, ...],
) -> None:
    """Sets what counts are added to or compared with (common.cuh), kept in `b.derived` for the next call.

    It is finished before it is kept, so that any stream may use it. `starts` gives int32 (classes, N), which
    `place` tells apart; `k` bounds the products.
    """
    import cupy

    fused = rule is not None and backend.kernel is not tiles.NAIVE
    key = ("cuda", backend.and_form, *place, id(rule) if fused else None)
    kept = b.derived.get(key)
    if kept is None:
        given = cupy.asarray(starts())
        classes, n = given.shape
        table = cupy.empty((classes, -(-n // tiles.TABLE_COLUMNS) * tiles.TABLE_COLUMNS), cupy.int32)
        counts = _counts(b.words, n) if backend.and_form else None
        level = _levels(rule, k)[0] if rule is not None and fused else None
        launch.rows("table_of", table.size, given, counts, level, table, classes, n, table.shape[1])
        cupy.cuda.get_current_stream().synchronize()
        kept = b.derived[key] = (table, rule)  # the rule too, so that its id stays its own
    job.base = kept[0]
    if rule is not None:
        job.level, job.turn = _levels(rule, k)


def _kept_counts(p: Packed) -> Any:
    """Ones of each row, kept for later products on the same stream, which come after the counting."""
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
    """A rule for |dot| <= k as the kernels take it: dot >= level (int32 (N,)), turned where its bit is set.

    Levels are clipped to what dot can meet. dot <= t is the opposite of dot >= t + 1. Raises ValueError for
    k >= 2^30, where the comparison would leave int32.
    """
    if k >= FUSED_K:
        raise ValueError(f"the CUDA backends apply thresholds for K < 2^30, not {k}")
    level = (np.clip(rule.level, -k - 1, k + 1) + rule.below).astype(np.int32)
    words = np.zeros(gpu_words_for(len(level)), np.uint64)
    below = reference.pack(Rows(rule.below[None], "bool"))[0]
    words[: len(below)] = below
    return level, words


def _windows(
    backend: CudaBackend, x: Packed, w: Packed, rule: Thresholds | None, padding: int, stride: int
) -> Iterator[tuple[Job, slice]]:
    """Jobs whose products, one after the other, are the rows of the convolution, and which rows they are."""
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
        _set_tables(backend, job, w, rule, w.k * taps, lambda: starts.reshape(-1, cout), place)
        if backend.and_form:
            job.cnt = _counts(gathered, rows)
        yield job, slice(first * out_h * out_w, first * out_h * out_w + rows)


def _border(x: Packed, w: Packed, padding: int, stride: int) -> tuple[Any, Any, Any]:
    """`bitcount.starts`: (row classes, column classes, Cout) on the host, each row's and column's class there."""
    import cupy

    key = ("cuda border", *x.shape[1:3], padding, stride)
    made: tuple[Any, Any, Any] | None = w.derived.get(key)
    if made is None:
        starts, rows, columns = bitcount.starts(to_host(w), x.shape[1:3], padding, stride)
        made = (starts, cupy.asarray(rows.astype(np.int32)), cupy.asarray(columns.astype(np.int32)))
        cupy.cuda.get_current_stream().synchronize()
        w.derived[key] = made
    return made


NAIVE = CudaBackend("cuda-naive", tiles.NAIVE, True, _float)
XNOR = CudaBackend("cuda-xnor", tiles.XNOR, False, _tiled)
BMMA = CudaBackend("cuda-bmma", tiles.BMMA, True, _tiled)
WGMMA = CudaBackend("cuda-wgmma", tiles.WGMMA, True, _persistent)
