"""Tensor maps describe a matrix to the copy engine of sm_90 (CUDA driver API, cuTensorMapEncodeTiled)."""

import ctypes
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.cuda import launch

BOX_BYTES = 128  # a box's width: one span of the 128-byte swizzle
_UINT8, _NO_INTERLEAVE, _SWIZZLE_128B, _PROMOTE_L2_256B, _ZEROS_OUTSIDE = 0, 0, 3, 3, 0  # cuda.h


class TensorMapError(RuntimeError):
    """The driver refused a tensor map."""


def fields(address: int, rows: int, pitch: int, box_rows: int) -> tuple[Any, ...]:
    """cuTensorMapEncodeTiled's arguments after the map itself, for `rows` rows of `pitch` bytes at `address`.

    Raises ValueError where the driver's documented limits are not met.
    """
    if address % 16 or pitch % 16 or not 0 < pitch < 1 << 40 or not 0 < rows < 1 << 32 or not 0 < box_rows <= 256:
        raise ValueError(f"no tensor map for {rows} rows of {pitch} bytes at {address:#x}, {box_rows} a box")
    return (
        ctypes.c_int(_UINT8),
        ctypes.c_uint32(2),
        ctypes.c_void_p(address),
        (ctypes.c_uint64 * 2)(pitch, rows),  # sizes, innermost first
        (ctypes.c_uint64 * 1)(pitch),  # stride of rows
        (ctypes.c_uint32 * 2)(BOX_BYTES, box_rows),
        (ctypes.c_uint32 * 2)(1, 1),
        ctypes.c_int(_NO_INTERLEAVE),
        ctypes.c_int(_SWIZZLE_128B),
        ctypes.c_int(_PROMOTE_L2_256B),
        ctypes.c_int(_ZEROS_OUTSIDE),
    )


def encode(address: int, rows: int, pitch: int, box_rows: int) -> NDArray[np.void]:
    """The 128 bytes of a tensor map, to be passed to a kernel by value. Raises ValueError, TensorMapError."""
    room = np.zeros(128 + 127, np.uint8)
    made = room[-room.ctypes.data % 128 :][:128]  # CUtensorMap lies at multiples of 128
    status = driver().cuTensorMapEncodeTiled(
        ctypes.c_void_p(made.ctypes.data), *fields(address, rows, pitch, box_rows)
    )
    if status:
        raise TensorMapError(f"cuTensorMapEncodeTiled: error {status} for {rows} rows of {pitch} bytes")
    return launch.by_value(made)


@cache
def driver() -> ctypes.CDLL:
    """The CUDA driver's library."""
    return ctypes.CDLL("libcuda.so.1")
