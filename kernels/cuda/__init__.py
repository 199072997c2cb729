"""The CUDA backends: they work on packed arrays on the GPU (`arrays`), on CuPy's current stream.

`cuda-naive` unpacks to float32 and runs the paper's unoptimized kernel (exact for K < 2^24); `cuda-xnor` counts
on CUDA cores; `cuda-bmma` uses the binary tensor cores of sm_80 to sm_90 through mma.sync, `cuda-wgmma` those
of sm_90a through wgmma. The sources in `src` describe the kernels; `tiles` has their sizes, `nvrtc` compiles
them on first use, `jobs` prepares operands and results.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kernels.cuda import between, jobs, launch, nvrtc, pixels, tensormap, tiles
from kernels.cuda.arrays import gpu_output, gpu_words_for
from kernels.cuda.launch import Job
from kernels.operands import LocalThresholds, Packed, Rows, Thresholds, conv2d_shape

EXACT_FLOAT_K = 1 << 24


@dataclass(frozen=True, eq=False)
class CudaBackend:
    """A `kernels.Backend` whose products are those of one kernel; pixels and pooling are the same for all."""

    name: str
    kernel: tiles.Kernel
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
        with jobs.device_of(a, b):
            out = gpu_output((a.shape[0], b.shape[0]), out)
            if out.size:
                self._product(jobs.matmul_job(self.kernel, a, b, None), out)
        return out

    def matmul_threshold(self, a: Packed, b: Packed, rule: Thresholds) -> Any:
        """CuPy words of the product's bits: (M, 2 ceil(N / 128))."""
        with jobs.device_of(a, b):
            bits = _bits(a.shape[0], b.shape[0])
            if bits.size:
                self._product(jobs.matmul_job(self.kernel, a, b, rule), bits)
        return bits

    def conv2d(self, x: Packed, w: Packed, padding: int, stride: int, out: Any) -> Any:
        """(N, H, W, C) by (Cout, kh, kw, C) to CuPy int32 (N, H', W', Cout); `out` as in `matmul`."""
        with jobs.device_of(x, w):
            shape = conv2d_shape(x, w, padding, stride)
            out = gpu_output(shape, out)
            flat = out.reshape(math.prod(shape[:3]), shape[3])
            for job, part in jobs.windows(self.kernel, x, w, None, padding, stride) if out.size else ():
                self._product(job, flat[part])
        return out

    def conv2d_threshold(self, x: Packed, w: Packed, rule: Thresholds, padding: int, stride: int) -> Any:
        """CuPy words of the convolution's bits: (N, H', W', 2 ceil(Cout / 128))."""
        with jobs.device_of(x, w):
            *lead, cout = conv2d_shape(x, w, padding, stride)
            bits = _bits(int(np.prod(lead)), cout)
            for job, part in jobs.windows(self.kernel, x, w, rule, padding, stride) if bits.size else ():
                self._product(job, bits[part])
        return bits.reshape(*lead, bits.shape[1])

    def maxpool2x2(self, x: Packed, falling: Packed) -> Any:
        """CuPy words (N, H // 2, W // 2, words) of pooled bits x (N, H, W, C); `falling` may be in host memory."""
        return between.maxpool2x2(x, falling)

    def describe_pixels(self) -> str:
        """What `pixel_conv2d` would run, in words."""
        return "bytes by ±1 (tensor cores)"

    def pixel_conv2d(self, x: Any, w: Packed, padding: int, out: Any) -> Any:
        """CuPy uint8 (N, H, W, C) by (Cout, kh, kw, C) of the host to CuPy int32 (N, H', W', Cout)."""
        return pixels.pixel_conv2d(x, w, padding, out)

    def pixel_conv2d_threshold(self, x: Any, w: Packed, rule: LocalThresholds, padding: int) -> Any:
        """CuPy words (N, H', W', words) of the bits of the convolution."""
        return pixels.pixel_conv2d_threshold(x, w, rule, padding)

    def _product(self, job: Job, target: Any) -> None:
        if job.turn is None:
            job.out = target
        else:
            job.bits = target
        self.run(self, job)


def _tiled(backend: CudaBackend, job: Job) -> None:
    """One block per tile."""
    kernel = backend.kernel
    blocks = -(-job.m // kernel["TILE_M"]) * -(-job.n // kernel["TILE_N"])
    launch.kernel(kernel, f"{kernel.name}_{job.form}", (blocks,), job.argument())


def _persistent(backend: CudaBackend, job: Job) -> None:
    """One block per multiprocessor, each over many tiles; operands through tensor maps."""
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


def _bits(rows: int, units: int) -> Any:
    import cupy

    return cupy.empty((rows, gpu_words_for(units)), cupy.uint64)


NAIVE = CudaBackend("cuda-naive", tiles.NAIVE, _float)
XNOR = CudaBackend("cuda-xnor", tiles.XNOR, _tiled)
BMMA = CudaBackend("cuda-bmma", tiles.BMMA, _tiled)
WGMMA = CudaBackend("cuda-wgmma", tiles.WGMMA, _persistent)
