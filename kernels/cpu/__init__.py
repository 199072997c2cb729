"""The CPU backend: C compiled on first use (`build`), called through ctypes.

Instruction sets, best first: `amx` (`avx512`, with tiles of bytes for products of training), `avx512` (with
VPOPCNTDQ), `avx2`, `portable` (compiler vectors), and `numpy` (the reference backend, for machines without a
compiler). The best that runs here is taken unless $KERNELS_ISA names another. Threads: one for each core that this
process may use (affinity, cgroup quota), unless $KERNELS_THREADS says. The operations of a training step in fixed
point are in `step`.
"""

from kernels.cpu.pixels import describe_pixels, pixel_conv2d, pixel_conv2d_threshold
from kernels.cpu.products import conv2d, conv2d_threshold, matmul, matmul_threshold, maxpool2x2, pack
from kernels.cpu.reals import conv_gradient, has_tables, real_conv2d, real_matmul, signs, ternary, update
from kernels.cpu.runtime import chosen_isa, compiled, has_avx512, isas, library, thread_count

__all__ = [
    "chosen_isa",
    "compiled",
    "conv2d",
    "conv2d_threshold",
    "conv_gradient",
    "describe",
    "describe_pixels",
    "has_avx512",
    "has_tables",
    "isas",
    "library",
    "matmul",
    "matmul_threshold",
    "maxpool2x2",
    "pack",
    "pixel_conv2d",
    "pixel_conv2d_threshold",
    "real_conv2d",
    "real_matmul",
    "signs",
    "ternary",
    "thread_count",
    "unavailable",
    "update",
]


def unavailable() -> str | None:
    """None: this backend runs on every machine."""
    return None


def describe() -> str:
    """What runs, in words."""
    return f"cpu ({chosen_isa()}, {thread_count()} threads)"
