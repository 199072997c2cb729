"""Products by `np.bitwise_count`: what the CPU backend does on a machine without a C compiler."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from kernels.packed import Packed

BLOCK_WORDS = 1 << 20  # words of a xor held at once


def differing(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Number of differing bits between each row of a (M, W) and each row of b (N, W): int64 (M, N)."""
    counts = np.empty((len(a), len(b)), np.int64)
    step = max(1, BLOCK_WORDS // max(1, b.size))
    for start in range(0, len(a), step):
        xor = a[start : start + step, None] ^ b
        counts[start : start + step] = np.bitwise_count(xor).sum(axis=2, dtype=np.int64)
    return counts


def border_corrections(w: Packed) -> NDArray[np.int32]:
    """What to add to a product for each tap of a filter that lies outside the image: int32 (kh * kw, Cout).

    The zero bits of the padding count as -1 against every weight of the tap; the correction takes that sum
    back.
    """
    ones = np.bitwise_count(w.words).sum(axis=3, dtype=np.int32)
    corrections: NDArray[np.int32] = (2 * ones - np.int32(w.k)).reshape(len(ones), w.shape[1] * w.shape[2]).T
    return corrections


def matmul(a: Packed, b: Packed) -> NDArray[np.int32]:
    """a (M, K) by b (N, K): int32 (M, N)."""
    return (a.k - 2 * differing(a.words, b.words)).astype(np.int32)


def conv2d(x: Packed, w: Packed, padding: int, stride: int) -> NDArray[np.int32]:
    """x (N, H, W, C), w (Cout, kh, kw, C): int32 (N, H', W', Cout), border taps counting as 0."""
    cout, kh, kw, _ = w.words.shape
    border = (padding, padding)
    image = np.pad(x.words, ((0, 0), border, border, (0, 0)))
    # (N, H', W', words, kh, kw)
    windows = sliding_window_view(image, (kh, kw), axis=(1, 2))[:, ::stride, ::stride]
    rows = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, kh * kw * image.shape[3])
    dot = kh * kw * x.k - 2 * differing(rows, w.words.reshape(cout, rows.shape[1]))
    outside = np.pad(np.zeros(x.shape[1:3], np.int64), padding, constant_values=1)
    taps = sliding_window_view(outside, (kh, kw))[::stride, ::stride]
    correction = taps.reshape(*taps.shape[:2], kh * kw) @ border_corrections(w)
    product: NDArray[np.int32] = (dot.reshape(*windows.shape[:3], cout) + correction).astype(np.int32)
    return product
