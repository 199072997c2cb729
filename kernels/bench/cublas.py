"""Comparators of the binary products: the same ±1 product by NVIDIA's libraries, through torch.

    left, right = operands(a, b, "int8")    # once: conversion is not part of the comparison
    c = matmul(left, right, "int8")

The paper compares with cuBLAS in float32 (section 4); the others use the tensor cores of later GPUs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# element type of the operands, and torch's precision of float32 products
WAYS = {
    "float32": ("float32", "ieee"),
    "tf32": ("float32", "tf32"),
    "bfloat16": ("bfloat16", None),
    "int8": ("int8", None),
}


def operands(a: Tensor, b: Tensor, way: str) -> tuple[Tensor, Tensor]:
    """a (M, K) and b (N, K) of ±1 as `matmul` takes them: b transposed, (K, N). `way`: a key of WAYS."""
    import torch

    element = getattr(torch, WAYS[way][0])
    return a.to(element).contiguous(), b.to(element).contiguous().t()


def matmul(a: Tensor, b: Tensor, way: str) -> Tensor:
    """a (M, K) @ b (K, N) by cuBLAS, both K-major.

    Exact in float32 ("float32": CUDA cores, "tf32": tensor cores) and int32 ("int8", where torch wants M > 16
    and K, N multiples of 8); "bfloat16" rounds its result to 8 bits.
    """
    import torch

    _, precision = WAYS[way]
    if way == "int8":
        return torch._int_mm(a, b)
    if precision is None:
        return a @ b
    settings: Any = torch.backends.cuda.matmul
    before = settings.fp32_precision
    settings.fp32_precision = precision
    try:
        return a @ b
    finally:
        settings.fp32_precision = before
