"""Real numbers by ±1 through tables of sums, with AVX-512 (csrc/real/reals.c); elsewhere in NumPy.

One permutation and one addition do 64 multiply-adds, several times the rate of a float product. Results are
float32; sums of integers are exact below 2^24. NumPy adds in another order.
"""

from __future__ import annotations

import ctypes

import numpy as np

from kernels import reference
from kernels.arrays import Floats, output
from kernels.cpu.runtime import call, compiled, fields, has_avx512, thread_count
from kernels.operands import Rule, Signs


class _Matmul(ctypes.Structure):
    _fields_ = [*fields("x x_row x_k m k signs signs2 ld n out threads"), ("scale", ctypes.c_double)]


class _Conv(ctypes.Structure):
    _fields_ = fields("x images height width k taps_h taps_w pad signs ld n out threads")


class _Gradient(ctypes.Structure):
    _fields_ = fields("g images height width m signs ld n out threads")


class _Signs(ctypes.Structure):
    _fields_ = fields("x batch k n x_batch x_row words ld across strict threads")


class _Update(ctypes.Structure):
    _fields_ = [
        *fields("w m v g count rule threads"),
        *[(name, ctypes.c_double) for name in ("beta1", "beta2", "eps", "rate", "bound")],
    ]


def has_tables() -> bool:
    """Whether products go through tables here: they need AVX-512."""
    return has_avx512()


def signs(x: Floats, transposed: bool, strict: bool) -> Signs:
    """Signs of x (batch, k, n), or (batch, n, k) if `transposed`: +1 where x >= 0 (`strict`: x > 0), else -1."""
    if not has_tables():
        return reference.signs(x, transposed, strict)
    if (x.strides[2] != 4 and x.shape[2] > 1) or any(stride % 4 for stride in x.strides):
        x = np.ascontiguousarray(x)
    batch, k, n = x.shape if not transposed else (x.shape[0], x.shape[2], x.shape[1])
    made = Signs.zeros(batch, k, n)
    if made.words.size:
        job = _Signs(
            x=x.ctypes.data, batch=batch, k=k, n=n, x_batch=x.strides[0] // 4, x_row=x.strides[1] // 4,
            words=made.words.ctypes.data, ld=made.words.shape[2], across=not transposed, strict=strict,
            threads=thread_count(),
        )  # fmt: skip
        call("kernels_signs", job)
    return made


def ternary(x: Floats) -> tuple[float, bool] | None:
    """(s, whether any element is 0) if every element of a dense x is s, -s or 0 with 0 < s < inf, else None."""
    if (found := compiled()) is None or not has_tables():
        return reference.ternary(x)
    zeros = ctypes.c_int()
    s = found[0].kernels_ternary(ctypes.c_void_p(x.ctypes.data), ctypes.c_int64(x.size), ctypes.byref(zeros))
    return (s, bool(zeros.value)) if s > 0 else None


def real_matmul(x: Floats, b: Signs, b2: Signs | None, scale: float, out: Floats | None) -> Floats:
    """scale · x (M, K) by ±1 (K, N), with `b2` by the sum of both: float32 (M, N)."""
    if not has_tables():
        return reference.real_matmul(x, b, b2, scale, out)
    out = output((x.shape[0], b.n), out, np.float32)
    if out.size:
        if any(stride % 4 for stride in x.strides):
            x = np.ascontiguousarray(x)
        job = _Matmul(
            x=x.ctypes.data, x_row=x.strides[0] // 4, x_k=x.strides[1] // 4, m=x.shape[0], k=b.k,
            signs=b.words.ctypes.data, signs2=b2.words.ctypes.data if b2 else 0, ld=b.words.shape[2], n=b.n,
            out=out.ctypes.data, threads=thread_count(), scale=scale,
        )  # fmt: skip
        call("kernels_real_matmul", job)
    return out


def real_conv2d(x: Floats, w: Signs, taps: tuple[int, int], padding: int, out: Floats | None) -> Floats:
    """x (N, H, W, C) by ±1 taps (kh · kw, C, Cout), zero border, stride 1: float32 (N, H', W', Cout)."""
    if not has_tables():
        return reference.real_conv2d(x, w, taps, padding, out)
    images, height, width, k = x.shape
    kh, kw = taps
    out = output((images, height + 2 * padding - kh + 1, width + 2 * padding - kw + 1, w.n), out, np.float32)
    x = np.ascontiguousarray(x)
    if out.size:
        job = _Conv(
            x=x.ctypes.data, images=images, height=height, width=width, k=k, taps_h=kh, taps_w=kw, pad=padding,
            signs=w.words.ctypes.data, ld=w.words.shape[2], n=w.n, out=out.ctypes.data, threads=thread_count(),
        )  # fmt: skip
        call("kernels_real_conv", job)
    return out


def conv_gradient(g: Floats, a: Signs, out: Floats | None) -> Floats:
    """Weight gradient of a 3×3 convolution with padding 1: float32 (Cout, 3, 3, C)."""
    if not has_tables():
        return reference.conv_gradient(g, a, out)
    images, height, width, m = g.shape
    out = output((m, 3, 3, a.n), out, np.float32)
    g = np.ascontiguousarray(g)
    if out.size:
        job = _Gradient(
            g=g.ctypes.data, images=images, height=height, width=width, m=m, signs=a.words.ctypes.data,
            ld=a.words.shape[2], n=a.n, out=out.ctypes.data, threads=thread_count(),
        )  # fmt: skip
        call("kernels_real_gradient", job)
    return out


def update(rule: Rule, w: Floats, m: Floats, v: Floats, g: Floats) -> None:
    """One step of weights w with moments m and v, in place, for the gradient g (csrc/real/updates.c)."""
    if not has_tables() or rule.kind == "sgd":
        reference.update(rule, w, m, v, g)
        return
    job = _Update(
        w=w.ctypes.data, m=m.ctypes.data, v=v.ctypes.data, g=g.ctypes.data, count=w.size,
        rule=("adam", "shift_adamax").index(rule.kind), threads=thread_count(),
        beta1=rule.beta1, beta2=rule.beta2, eps=rule.eps, rate=rule.rate, bound=rule.bound,
    )  # fmt: skip
    call("kernels_update", job)
