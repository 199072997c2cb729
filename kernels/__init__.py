"""Exact arithmetic on ±1 arrays, one bit for each element, and products of bytes and real numbers with ±1.

    a, b = pack(x), pack(y)                 # real or ±1 arrays (M, K), (N, K); NumPy, torch or CuPy
    c = xnor_matmul(a, b)                   # int32 (M, N) = sign(x) @ sign(y).T
    h = xnor_matmul_threshold(a, b, rule)   # packed (M, N): +1 where c meets the threshold of its unit

sign(x) is +1 where x >= 0, so both zeros are +1, else -1; True is +1. Products take packed arrays or anything
that `pack` takes. Further operations are in `pixels` (8-bit images by ±1), `reals` (float32 by ±1) and `updates`
(of latent weights). The operations of a whole training step in fixed point are the CPU backend's (`cpu.step`).

Every operation is carried out by a backend (`backends`): by the first that runs on this machine, or by the one
that `backend=` names. Arrays on a GPU (CuPy arrays, torch CUDA tensors) are processed there by the CUDA
backends, and results are CuPy arrays; other arrays are processed in host memory. `to_gpu` and `to_host` move
packed arrays. `register` adds a backend of your own: a module with the functions of `HostBackend`.

The product of ±1 vectors as K - 2 popcount(a xor b) is from Binarized Neural Networks, arXiv 1602.02830,
algorithm 5 and section 4.
"""

from kernels.backend import Backend, HostBackend, backends, describe, register, takes_gpu
from kernels.cuda.arrays import GpuPacked, to_gpu, to_host
from kernels.operands import LocalThresholds, Packed, Rule, Thresholds
from kernels.xnor import (
    maxpool2x2,
    pack,
    unpack,
    xnor_conv2d,
    xnor_conv2d_threshold,
    xnor_matmul,
    xnor_matmul_threshold,
)

__all__ = [
    "Backend",
    "GpuPacked",
    "HostBackend",
    "LocalThresholds",
    "Packed",
    "Rule",
    "Thresholds",
    "backends",
    "describe",
    "maxpool2x2",
    "pack",
    "register",
    "takes_gpu",
    "to_gpu",
    "to_host",
    "unpack",
    "xnor_conv2d",
    "xnor_conv2d_threshold",
    "xnor_matmul",
    "xnor_matmul_threshold",
]
