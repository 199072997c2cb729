"""The zero border of a convolution of bits: start values that correct for the bits outside the image."""

import numpy as np
from numpy.typing import NDArray

from kernels.operands import Packed


def starts(
    w: Packed, size: tuple[int, ...], padding: int, stride: int
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Start values of a convolution: a product is its start - 2 (differing bits), the border being zero bits.

    Inside an image of `size` (H, W) the start is K. A tap outside must add 0. Its zero bits differ from the ones
    of w, so the start has 2 (ones of the tap) in place of the tap's share of K. Output rows with the same taps
    outside are one class; so are columns. Returns the starts, int32 (row classes, column classes, Cout), and the
    class of each output row (H',) and column (W',).
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
