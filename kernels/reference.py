"""The reference backend: every operation by its definition, in NumPy. Slow and easy to check."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.arrays import Floats, output, read_only
from kernels.operands import (
    LocalThresholds,
    Packed,
    Rows,
    Rule,
    Signs,
    Thresholds,
    conv2d_shape,
    words_for,
)


def unavailable() -> str | None:
    """None: this backend runs on every machine."""
    return None


def describe() -> str:
    """What runs, in words."""
    return "reference (NumPy)"


def pack(rows: Rows) -> NDArray[np.uint64]:
    """Words (rows, ceil(K / 64)) of rows; ValueError for NaN."""
    values = rows.values
    if rows.kind == "bfloat16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise ValueError("cannot pack NaN: it has no sign")
    bits = values if rows.kind == "bool" else values >= 0
    words = np.zeros((len(bits), words_for(bits.shape[1]) * 8), np.uint8)
    packed = np.packbits(bits, axis=1, bitorder="little")
    words[:, : packed.shape[1]] = packed
    return read_only(words).view("<u8").astype(np.uint64, copy=False)


def unpack(p: Packed) -> NDArray[np.int8]:
    """The ±1 array of a packed one: int8 of its shape."""
    octets = p.words.astype("<u8", copy=False).view(np.uint8)
    bits = np.unpackbits(octets, axis=-1, count=p.k, bitorder="little")
    return 2 * bits.astype(np.int8) - 1


def matmul(a: Packed, b: Packed, out: NDArray[np.int32] | None = None) -> NDArray[np.int32]:
    """a (M, K) by b (N, K): int32 (M, N), by a product of floats that is exact."""
    out = output((a.shape[0], b.shape[0]), out)
    out[:] = _floats(a, a.k) @ _floats(b, a.k).T
    return out


def conv2d(
    x: Packed, w: Packed, padding: int, stride: int, out: NDArray[np.int32] | None = None
) -> NDArray[np.int32]:
    """x (N, H, W, C), w (Cout, kh, kw, C): int32 (N, H', W', Cout), tap by tap over a zero border."""
    out = output(conv2d_shape(x, w, padding, stride), out)
    out[:] = 0
    border = (padding, padding)
    image = np.pad(_floats(x, x.k), ((0, 0), border, border, (0, 0)))
    kernel = _floats(w, w.k)
    for row in range(kernel.shape[1]):
        for column in range(kernel.shape[2]):
            seen = image[:, row::stride, column::stride][:, : out.shape[1], : out.shape[2]]
            out += (seen @ kernel[:, row, column].T).astype(np.int32)
    return out


def _floats(p: Packed, k: int) -> NDArray[Any]:
    """The ±1 array in a type of float that holds sums of k elements exactly."""
    return unpack(p).astype(np.float32 if k < 1 << 24 else np.float64)


def matmul_threshold(a: Packed, b: Packed, rule: Thresholds) -> NDArray[np.uint64]:
    """Packed bits of the product against a rule for each row of b: words (M, ceil(N / 64))."""
    return pack(Rows(rule.apply(matmul(a, b)), "bool"))


def conv2d_threshold(x: Packed, w: Packed, rule: Thresholds, padding: int, stride: int) -> NDArray[np.uint64]:
    """Packed bits of the convolution against a rule for each filter: words (N, H', W', ceil(Cout / 64))."""
    dot = conv2d(x, w, padding, stride)
    flat = rule.apply(dot).reshape(-1, dot.shape[-1])
    return pack(Rows(flat, "bool")).reshape(*dot.shape[:-1], -1)


def maxpool2x2(x: Packed, falling: Packed) -> NDArray[np.uint64]:
    """Words (N, H // 2, W // 2, ceil(C / 64)) of pooled bits x (N, H, W, C); see `kernels.maxpool2x2`."""
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    corners = [x.words[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]
    some = corners[0] | corners[1] | corners[2] | corners[3]
    every = corners[0] & corners[1] & corners[2] & corners[3]
    return read_only(np.ascontiguousarray((some & ~falling.words) | (every & falling.words)))


def describe_pixels() -> str:
    """What `pixel_conv2d` runs, in words."""
    return "bytes by ±1 (NumPy)"


def pixel_conv2d(
    x: NDArray[np.uint8], w: Packed, padding: int, out: NDArray[np.int32] | None = None
) -> NDArray[np.int32]:
    """x (N, H, W, C) by w (Cout, kh, kw, C), zero border: int32 (N, H', W', Cout).

    Tap by tap in float32, which holds the sums exactly: they stay below 255 · MAX_WINDOW < 2^24.
    """
    out = output(conv2d_shape(x, w, padding), out)
    out[:] = 0
    border = (padding, padding)
    image = np.pad(x.astype(np.float32), ((0, 0), border, border, (0, 0)))
    kernel = unpack(w).astype(np.float32)
    for row in range(kernel.shape[1]):
        for column in range(kernel.shape[2]):
            seen = image[:, row : row + out.shape[1], column : column + out.shape[2]]
            out += (seen @ kernel[:, row, column].T).astype(np.int32)
    return out


def pixel_conv2d_threshold(
    x: NDArray[np.uint8], w: Packed, rule: LocalThresholds, padding: int
) -> NDArray[np.uint64]:
    """`pixel_conv2d` against a threshold for each filter and position: words (N, H', W', ceil(Cout / 64))."""
    found = rule.apply(pixel_conv2d(x, w, padding))
    words = pack(Rows(found.reshape(-1, len(rule.below)), "bool"))
    return words.reshape(*found.shape[:-1], words.shape[1])


def signs(x: Floats, transposed: bool, strict: bool) -> Signs:
    """Signs of x (batch, k, n), or (batch, n, k) if `transposed`: +1 where x >= 0 (`strict`: x > 0), else -1."""
    x = np.swapaxes(x, 1, 2) if transposed else x
    made = Signs.zeros(*x.shape)
    rows = np.zeros((len(x), made.words.shape[1] * 32, made.n), np.bool_)
    rows[:, : made.k] = x > 0 if strict else x >= 0
    weight = np.uint32(1) << np.arange(32, dtype=np.uint32)
    grouped = rows.reshape(len(x), -1, 32, made.n)
    made.words[:, :, : made.n] = (grouped * weight[:, None]).sum(2, dtype=np.uint32)
    return made


def ternary(x: Floats) -> tuple[float, bool] | None:
    """(s, whether any element is 0) if every element of x is s, -s or 0 with 0 < s < inf, else None."""
    s = float(np.abs(x).max())
    fits = 0 < s < np.inf and bool(((np.abs(x) == s) | (x == 0)).all())
    return (s, bool((x == 0).any())) if fits else None


def real_matmul(x: Floats, b: Signs, b2: Signs | None, scale: float, out: Floats | None) -> Floats:
    """scale · x (M, K) by ±1 (K, N), with `b2` by the sum of both: float32 (M, N)."""
    signed = b.unpack()[0] + (b2.unpack()[0] if b2 else 0)
    return np.matmul(x * np.float32(scale), signed, out=output((len(x), b.n), out, np.float32))


def real_conv2d(x: Floats, w: Signs, taps: tuple[int, int], padding: int, out: Floats | None) -> Floats:
    """x (N, H, W, C) by ±1 taps (kh · kw, C, Cout), zero border, stride 1: float32 (N, H', W', Cout)."""
    (images, height, width, _), (kh, kw) = x.shape, taps
    out_h, out_w = height + 2 * padding - kh + 1, width + 2 * padding - kw + 1
    out = output((images, out_h, out_w, w.n), out, np.float32)
    out[:] = 0
    image = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    for tap, signed in enumerate(w.unpack()):
        row, column = divmod(tap, kw)
        out += image[:, row : row + out_h, column : column + out_w] @ signed
    return out


def conv_gradient(g: Floats, a: Signs, out: Floats | None) -> Floats:
    """Weight gradient of a 3×3 convolution with padding 1: float32 (Cout, 3, 3, C)."""
    images, height, width, m = g.shape
    out = output((m, 3, 3, a.n), out, np.float32)
    signed = np.pad(a.unpack().reshape(images, height, width, a.n), ((0, 0), (1, 1), (1, 1), (0, 0)))
    flat = g.reshape(-1, m).T
    for row in range(3):
        for column in range(3):
            out[:, row, column] = flat @ signed[:, row : row + height, column : column + width].reshape(-1, a.n)
    return out


def ap2(x: Floats) -> Floats:
    """sign(x) · 2^round(log2 |x|) of float32, on its bits (arXiv 1602.02830, section 1.3)."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    found: Floats = ((bits + np.uint32((1 << 23) - 0x3504F4)) & np.uint32(0xFF800000)).view(np.float32)
    return found


def update(rule: Rule, w: Floats, m: Floats, v: Floats, g: Floats) -> None:
    """One step of weights w with moments m and v, in place, for the gradient g; formulas as in `Rule`."""
    beta2, eps, rate = map(np.float32, (rule.beta2, rule.eps, rule.rate))
    fresh1, fresh2 = np.float32(1 - rule.beta1), np.float32(1 - rule.beta2)
    with np.errstate(invalid="ignore"):  # infinity over infinity is NaN
        step: NDArray[Any] = g
        if rule.kind != "sgd":
            m += (g - m) * fresh1
            if rule.kind == "adam":
                v[...] = beta2 * v + fresh2 * g * g
                step = m / (np.sqrt(v) + eps)
            else:
                v[...] = ap2(np.maximum(beta2 * v, np.abs(g))) + eps
                step = m / v
        w[...] = np.clip(w - rate * step, -rule.bound, rule.bound)
