"""The reference backend: every operation by its definition, in NumPy. Slow, and there to be believed."""

import numpy as np
from numpy.typing import NDArray

from kernels.packed import Packed, Rows, Thresholds, conv2d_shape, fixed, output, words_for


def unavailable() -> str | None:
    """Why this backend cannot run here: it always can."""
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
    return fixed(words).view("<u8").astype(np.uint64, copy=False)


def unpack(p: Packed) -> NDArray[np.int8]:
    """The ±1 array of a packed one: int8 of its shape."""
    octets = p.words.astype("<u8", copy=False).view(np.uint8)
    bits = np.unpackbits(octets, axis=-1, count=p.k, bitorder="little")
    return 2 * bits.astype(np.int8) - 1


def matmul(a: Packed, b: Packed, out: NDArray[np.int32] | None = None) -> NDArray[np.int32]:
    """a (M, K) by b (N, K): int32 (M, N), summed in int64."""
    out = output((a.shape[0], b.shape[0]), out)
    out[:] = unpack(a).astype(np.int64) @ unpack(b).astype(np.int64).T
    return out


def conv2d(
    x: Packed, w: Packed, padding: int, stride: int, out: NDArray[np.int32] | None = None
) -> NDArray[np.int32]:
    """x (N, H, W, C), w (Cout, kh, kw, C): int32 (N, H', W', Cout), tap by tap over a zero border."""
    out = output(conv2d_shape(x, w, padding, stride), out)
    out[:] = 0
    border = (padding, padding)
    image = np.pad(unpack(x).astype(np.int64), ((0, 0), border, border, (0, 0)))
    kernel = unpack(w).astype(np.int64)
    for row in range(kernel.shape[1]):
        for column in range(kernel.shape[2]):
            seen = image[:, row::stride, column::stride][:, : out.shape[1], : out.shape[2]]
            out += seen @ kernel[:, row, column].T
    return out


def matmul_threshold(a: Packed, b: Packed, rule: Thresholds) -> NDArray[np.uint64]:
    """Packed bits of the product against a rule for each row of b: words (M, ceil(N / 64))."""
    return pack(Rows(rule.apply(matmul(a, b)), "bool"))


def conv2d_threshold(x: Packed, w: Packed, rule: Thresholds, padding: int, stride: int) -> NDArray[np.uint64]:
    """Packed bits of the convolution against a rule for each filter: words (N, H', W', ceil(Cout / 64))."""
    dot = conv2d(x, w, padding, stride)
    flat = rule.apply(dot).reshape(-1, dot.shape[-1])
    return pack(Rows(flat, "bool")).reshape(*dot.shape[:-1], -1)
