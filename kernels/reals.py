"""Products of real numbers with ±1: what the forward and backward passes of training a 1-bit net are made of.

On the CPU backend with AVX-512 they go through tables (csrc/reals.c): one permutation and one addition for 64
multiply-adds, several times the rate of a float product. Elsewhere (`available()` says) NumPy multiplies the
unpacked signs, to the same sums in another order. Everything is float32; sums of integers are exact below 2^24.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import build, cpu
from kernels.packed import check_plain

Floats = NDArray[np.float32]

MAX_WIDTH = 32
"""Pixels of an image row in `conv_gradient`, at most: they share a word of signs."""


def _fields(names: str) -> list[tuple[str, Any]]:
    return [(name, ctypes.c_int64) for name in names.split()]


class _Matmul(ctypes.Structure):
    _fields_ = [*_fields("x x_row x_k m k signs signs2 ld n out threads"), ("scale", ctypes.c_double)]


class _Conv(ctypes.Structure):
    _fields_ = _fields("x images height width k taps_h taps_w pad signs ld n out threads")


class _Gradient(ctypes.Structure):
    _fields_ = _fields("g images height width m signs ld n out threads")


class _Signs(ctypes.Structure):
    _fields_ = _fields("x batch k n x_batch x_row words ld across strict threads")


@dataclass(frozen=True, eq=False)
class Signs:
    """A batch of ±1 matrices (k, n), 32 along k to a word: uint32 (batch, ceil(k / 32), n padded to 16).

    Bit b of word w is the sign of row 32w + b, set for +1; bits beyond k are zero.
    """

    words: NDArray[np.uint32]
    k: int
    n: int

    def unpack(self) -> Floats:
        """The ±1 matrices (batch, k, n)."""
        bits = self.words[:, :, None, : self.n] >> np.arange(32, dtype=np.uint32)[:, None] & 1
        return np.where(bits, np.float32(1), np.float32(-1)).reshape(len(bits), -1, self.n)[:, : self.k]


def available() -> bool:
    """Whether products go through tables here: the CPU backend's chosen instruction set is AVX-512."""
    return cpu._choose(None) == "avx512" and not isinstance(cpu._library(), build.BuildError)


def signs(x: Floats, transposed: bool = False, strict: bool = False) -> Signs:
    """Signs of x (batch, k, n) or (k, n); `transposed`: x is (batch, n, k) or (n, k).

    +1 where x >= 0 (`strict`: where x > 0), else -1; NaN gives -1. The last axis must be dense, the others may
    have any stride that is a whole number of elements. Raises TypeError or ValueError for anything else.
    """
    _floats("x", x, (2, 3))
    batched = x if x.ndim == 3 else x[None]
    batch, k, n = batched.shape if not transposed else (batched.shape[0], batched.shape[2], batched.shape[1])
    if k < 1:
        raise ValueError("signs need at least one row to sum over")
    if (batched.strides[2] != 4 and batched.shape[2] > 1) or any(stride % 4 for stride in batched.strides):
        batched = np.ascontiguousarray(batched)
    made = Signs(np.zeros((batch, -(-k // 32), cpu._padded(n)), np.uint32), k, n)
    if not available():
        _pack(made, np.swapaxes(batched, 1, 2) if transposed else batched, strict)
    elif made.words.size:
        job = _Signs(
            x=batched.ctypes.data, batch=batch, k=k, n=n,
            x_batch=batched.strides[0] // 4, x_row=batched.strides[1] // 4, words=made.words.ctypes.data,
            ld=made.words.shape[2], across=not transposed, strict=strict, threads=cpu._threads(None),
        )  # fmt: skip
        _call("kernels_signs", job)
    return made


def _pack(made: Signs, x: Floats, strict: bool) -> None:
    rows = np.zeros((len(x), made.words.shape[1] * 32, made.n), np.bool_)
    rows[:, : made.k] = x > 0 if strict else x >= 0
    weight = np.uint32(1) << np.arange(32, dtype=np.uint32)
    grouped = rows.reshape(len(x), -1, 32, made.n)
    made.words[:, :, : made.n] = (grouped * weight[:, None]).sum(2, dtype=np.uint32)


def ternary(x: Floats) -> tuple[float, bool] | None:
    """(s, whether any is 0) where every element of a dense x is s, -s or 0 and s > 0 is finite; else None."""
    if not x.flags.c_contiguous or not x.size:
        return None
    if not available():
        s = float(np.abs(x).max())
        fits = 0 < s < np.inf and bool(((np.abs(x) == s) | (x == 0)).all())
        return (s, bool((x == 0).any())) if fits else None
    library, zeros = cpu._library(), ctypes.c_int()
    assert not isinstance(library, build.BuildError)
    library.kernels_ternary.restype = ctypes.c_float
    s = library.kernels_ternary(ctypes.c_void_p(x.ctypes.data), ctypes.c_int64(x.size), ctypes.byref(zeros))
    return (s, bool(zeros.value)) if s > 0 else None


def real_matmul(
    x: Floats, b: Signs, b2: Signs | None = None, scale: float = 1.0, out: Floats | None = None
) -> Floats:
    """scale · x (M, K) by ±1 (K, N): float32 (M, N). With `b2`: scale · x · (b + b2).

    x may have any strides. A ternary operand t in {0, s, -s} is s/2 · (b + b2) with b = signs(t) and
    b2 = signs(t, strict=True). Raises TypeError or ValueError where shapes or dtypes do not fit.
    """
    _floats("x", x, (2,))
    for one in (b, *([b2] if b2 else [])):
        if len(one.words) != 1 or one.k != x.shape[1] or one.n != b.n:
            raise ValueError(f"x {x.shape} and signs ({len(one.words)}, {one.k}, {one.n}) do not fit")
    out = _output((x.shape[0], b.n), out)
    if not available():
        signed = b.unpack()[0] + (b2.unpack()[0] if b2 else 0)
        np.matmul(x * np.float32(scale), signed, out=out)
    elif out.size:
        if any(stride % 4 for stride in x.strides):
            x = np.ascontiguousarray(x)
        job = _Matmul(
            x=x.ctypes.data, x_row=x.strides[0] // 4, x_k=x.strides[1] // 4, m=x.shape[0], k=b.k,
            signs=b.words.ctypes.data, signs2=b2.words.ctypes.data if b2 else 0, ld=b.words.shape[2], n=b.n,
            out=out.ctypes.data, threads=cpu._threads(None), scale=scale,
        )  # fmt: skip
        _call("kernels_real_matmul", job)
    return out


def real_conv2d(
    x: Floats, w: Signs, taps: tuple[int, int] = (3, 3), padding: int = 1, out: Floats | None = None
) -> Floats:
    """x (N, H, W, C) by ±1 taps, a zero border, stride 1: float32 (N, H', W', Cout).

    w: signs of (kh · kw, C, Cout), tap by tap. Raises TypeError or ValueError where shapes or dtypes do not fit.
    """
    _floats("x", x, (4,))
    images, height, width, k = x.shape
    kh, kw = taps
    out_h, out_w = height + 2 * padding - kh + 1, width + 2 * padding - kw + 1
    if len(w.words) != kh * kw or w.k != k or padding < 0 or out_h < 1 or out_w < 1:
        raise ValueError(f"x {x.shape} and taps {taps} of signs ({len(w.words)}, {w.k}, {w.n}) do not fit")
    out = _output((images, out_h, out_w, w.n), out)
    x = np.ascontiguousarray(x)
    if not available():
        out[:] = 0
        padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        for tap, signed in enumerate(w.unpack()):
            y, z = divmod(tap, kw)
            out += padded[:, y : y + out_h, z : z + out_w] @ signed
    elif out.size:
        job = _Conv(
            x=x.ctypes.data, images=images, height=height, width=width, k=k, taps_h=kh, taps_w=kw, pad=padding,
            signs=w.words.ctypes.data, ld=w.words.shape[2], n=w.n, out=out.ctypes.data, threads=cpu._threads(None),
        )  # fmt: skip
        _call("kernels_real_conv", job)
    return out


def conv_gradient(g: Floats, a: Signs, out: Floats | None = None) -> Floats:
    """Weight gradient of a 3×3 convolution with padding 1: float32 (Cout, 3, 3, C).

    g (N, H, W, Cout) is the gradient of the output, `a` the signs of the input as (N · H, W, C), W at most
    MAX_WIDTH: sum over places of g(y, x) · a(y + ty - 1, x + tx - 1), a border of zeros.
    """
    _floats("g", g, (4,))
    images, height, width, m = g.shape
    if len(a.words) != images * height or a.k != width or not 1 <= width <= MAX_WIDTH or images * height < 1:
        raise ValueError(f"g {g.shape} and signs ({len(a.words)}, {a.k}, {a.n}) do not fit")
    out = _output((m, 3, 3, a.n), out)
    g = np.ascontiguousarray(g)
    if not available():
        signed = np.pad(a.unpack().reshape(images, height, width, a.n), ((0, 0), (1, 1), (1, 1), (0, 0)))
        flat = g.reshape(-1, m).T
        for y in range(3):
            for x in range(3):
                out[:, y, x] = flat @ signed[:, y : y + height, x : x + width].reshape(-1, a.n)
    elif out.size:
        job = _Gradient(
            g=g.ctypes.data, images=images, height=height, width=width, m=m, signs=a.words.ctypes.data,
            ld=a.words.shape[2], n=a.n, out=out.ctypes.data, threads=cpu._threads(None),
        )  # fmt: skip
        _call("kernels_real_gradient", job)
    return out


def _floats(name: str, x: Floats, dims: tuple[int, ...]) -> None:
    check_plain(x)
    if not isinstance(x, np.ndarray) or x.dtype != np.float32:
        raise TypeError(f"{name} must be a float32 array, not {getattr(x, 'dtype', type(x).__name__)}")
    if x.ndim not in dims:
        raise ValueError(f"{name} must have {' or '.join(map(str, dims))} axes, not {x.ndim}")


def _output(shape: tuple[int, ...], out: Floats | None) -> Floats:
    if out is None:
        return np.empty(shape, np.float32)
    fits = isinstance(out, np.ndarray) and out.dtype == np.float32 and out.shape == shape and out.flags.carray
    if not fits:
        raise ValueError(f"out must be a writable dense float32 array of shape {shape}")
    return out


def _call(name: str, job: ctypes.Structure, *more: ctypes.c_void_p) -> None:
    library = cpu._library()
    assert not isinstance(library, build.BuildError)
    if getattr(library, name)(ctypes.byref(job), *more):
        raise MemoryError(f"{name}: no memory for its tables")
