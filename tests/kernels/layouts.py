"""Panels of signs (`ternary.Panels`) made and read in NumPy, for comparison with the C code."""

import numpy as np

from kernels.cpu.step import ternary


def panels_of(x):
    """Signs of x (k, n), any strides: +1 where x >= 0."""
    made = ternary.room(*x.shape)
    count, rows, _ = made.bytes.shape
    bits = np.zeros((8 * rows, count * ternary.COLUMNS), np.bool_)
    np.greater_equal(x, 0, out=bits[: made.k, : made.n])
    packed = np.packbits(bits.reshape(rows, 8, count, ternary.COLUMNS), axis=1, bitorder="little")
    made.bytes[:] = packed[:, 0].transpose(1, 0, 2)
    return made


def unpacked(panels):
    """The ±1 matrix (k, n)."""
    bits = np.unpackbits(panels.bytes[:, :, None, :], axis=2, bitorder="little")
    rows = bits.transpose(1, 2, 0, 3).reshape(panels.bytes.shape[1] * 8, -1)
    return 2 * rows[: panels.k, : panels.n].astype(np.int8) - 1
