"""Products by `np.bitwise_count`, for the CPU backend on a machine without a C compiler."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from kernels.operands import Packed

BLOCK_WORDS = 1 << 20  # words of a xor held at once


def differing(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Number of differing bits between each row of a (M, W) and each row of b (N, W): int64 (M, N)."""
    counts = np.empty((len(a), len(b)), np.int64)
    step = max(1, BLOCK_WORDS // max(1, b.size))
    for start in range(0, len(a), step):
        xor = a[start : start + step, None] ^ b
        counts[start : start + step] = np.bitwise_count(xor).sum(axis=2, dtype=np.int64)
    return counts


def starts(
    w: Packed, size: tuple[int, ...], padding: int, stride: int
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Start values of a convolution: a product is its start - 2 (differing bits), the border being zero bits.

    Inside an image of `size` (H, W) the start is K. A tap outside has to add 0: its zero bits differ from each of
    the ones of w, so the start has 2 (ones of the tap) in place of the tap's share of K. Output rows that miss
    the same taps are one class, columns likewise. Returns the starts, int32 (row classes, column classes, Cout),
    and the class of each output row (H',) and column (W',).
    """
    ones = np.bitwise_count(w.words).sum(axis=3, dtype=np.int64)
    missed, classes = [], []
    for length, taps in zip(size, w.shape[1:3], strict=True):
        first = np.arange(0, length + 2 * padding - taps + 1, stride) - padding
        tap = first[:, None] + np.arange(taps)
        kinds, kind = np.unique((tap < 0) | (tap >= length), axis=0, return_inverse=True)
        missed.append(kinds)
        classes.append(kind.reshape(-1))
    outside = missed[0][:, None, :, None] | missed[1][None, :, None, :]
    share = np.where(outside[..., None], 2 * ones.transpose(1, 2, 0), w.k)
    return share.sum(axis=(2, 3)).astype(np.int32), classes[0], classes[1]


def matmul(a: Packed, b: Packed) -> NDArray[np.int32]:
    """a (M, K) by b (N, K): int32 (M, N)."""
    return (a.k - 2 * differing(a.words, b.words)).astype(np.int32)


def conv2d(x: Packed, w: Packed, padding: int, stride: int) -> NDArray[np.int32]:
    """x (N, H, W, C), w (Cout, kh, kw, C), zero border: int32 (N, H', W', Cout)."""
    cout, kh, kw, _ = w.words.shape
    border = (padding, padding)
    image = np.pad(x.words, ((0, 0), border, border, (0, 0)))
    # (N, H', W', words, kh, kw)
    windows = sliding_window_view(image, (kh, kw), axis=(1, 2))[:, ::stride, ::stride]
    rows = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, kh * kw * image.shape[3])
    start, row, column = starts(w, x.shape[1:3], padding, stride)
    differ = differing(rows, w.words.reshape(cout, rows.shape[1])).reshape(*windows.shape[:3], cout)
    product: NDArray[np.int32] = (start[row[:, None], column] - 2 * differ).astype(np.int32)
    return product
