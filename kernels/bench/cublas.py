"""Comparators of the binary products: the same ±1 product by NVIDIA's libraries, through torch.

    left, right = operands(a, b, "int8")    # once: conversion is not part of the comparison
    c = matmul(left, right, "int8")

The paper compares with cuBLAS in float32 (section 4); the others use the tensor cores of later GPUs.
"""

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

# element type of the operands, and torch's precision of float32 products
WAYS = {
    "float32": ("float32", "ieee"),
    "tf32": ("float32", "tf32"),
    "bfloat16": ("bfloat16", None),
    "int8": ("int8", None),
}


def operands(a: "Tensor", b: "Tensor", way: str) -> tuple["Tensor", "Tensor"]:
    """a (M, K) and b (N, K) of ±1 as `matmul` takes them: b transposed. ValueError for an unknown `way`."""
    import torch

    element = getattr(torch, _way(way)[0])
    return a.to(element).contiguous(), b.to(element).contiguous().t()


def matmul(a: "Tensor", b: "Tensor", way: str) -> "Tensor":
    """a (M, K) @ b (K, N) by cuBLAS, both K-major.

    Exact in float32 ("float32": CUDA cores, "tf32": tensor cores) and int32 ("int8", where torch wants M > 16
    and K, N multiples of 8); "bfloat16" rounds its result to 8 bits. Raises ValueError for an unknown `way`.
    """
    import torch

    _, precision = _way(way)
    if way == "int8":
        return torch._int_mm(a, b)
    if precision is None:
        return a @ b
    with _precision(precision):
        return a @ b


@contextmanager
def _precision(wanted: str) -> "Iterator[None]":
    import torch

    settings: Any = torch.backends.cuda.matmul
    before = settings.fp32_precision
    settings.fp32_precision = wanted
    try:
        yield
    finally:
        settings.fp32_precision = before


def _way(way: str) -> tuple[str, str | None]:
    if way not in WAYS:
        raise ValueError(f"no way {way!r}: one of {', '.join(WAYS)} is needed")
    return WAYS[way]
