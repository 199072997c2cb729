"""Arrays in host memory: checks of their classes, aligned buffers, arrays for results."""

from __future__ import annotations

import math
import operator
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

LARGE = (
    1 << 25
)  # bytes of a result that the C kernels store past the caches (STREAM_BYTES of cpu/csrc/xnor/drive.c)

ARRAYS = (np.ndarray, np.memmap)
"""The classes of NumPy array that are accepted. Other subclasses may hold more than numbers, such as a mask."""


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Makes the array read-only and returns it. The caller must hold the only reference."""
    array.flags.writeable = False
    return array


def whole_number(name: str, value: Any) -> int:
    """The value as a Python int (small NumPy integers would wrap around); TypeError if it is not one integer."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, not {value!r}") from None


def aligned(count: int, dtype: type[np.generic]) -> tuple[NDArray[Any], int]:
    """An uninitialised array (count,) that starts on a cache line, and its address."""
    size = count * np.dtype(dtype).itemsize
    buffer = np.empty(size + 63, np.uint8)
    start = buffer.ctypes.data
    skip = -start % 64
    return buffer[skip : skip + size].view(dtype), start + skip


def output(shape: tuple[int, ...], out: NDArray[Any] | None, dtype: type[np.generic] = np.int32) -> NDArray[Any]:
    """`out`, or a new array where it is None. ValueError if `out` has another shape or dtype, is not C-contiguous
    or cannot be written to."""
    if out is None:
        count = math.prod(shape)
        large = count * np.dtype(dtype).itemsize >= LARGE
        return aligned(count, dtype)[0].reshape(shape) if large else np.empty(shape, dtype)
    fits = isinstance(out, np.ndarray) and out.shape == shape and out.dtype == dtype and out.flags.carray
    if not fits:
        raise ValueError(f"out must be a writable C-contiguous {np.dtype(dtype)} array of shape {shape}")
    return out


def check_floats(name: str, x: Any, axes: tuple[int, ...]) -> None:
    """TypeError unless x is a NumPy float32 array; ValueError unless its number of axes is one of `axes`."""
    check_plain(x)
    if not isinstance(x, np.ndarray) or x.dtype != np.float32:
        kind = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
        raise TypeError(f"{name} must be a NumPy float32 array, not {kind}")
    if x.ndim not in axes:
        raise ValueError(f"{name} must have {' or '.join(map(str, axes))} axes, not {x.ndim}")


def check_plain(x: Any) -> None:
    """TypeError for a subclass of NumPy or CuPy array or torch tensor: it may hold a mask, a scale or a unit."""
    if type(x) in ARRAYS:
        return
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    plain: tuple[type, ...] = ARRAYS
    if cupy is not None:
        plain += (cupy.ndarray,)
    if torch is not None:
        plain += (torch.Tensor, torch.nn.Parameter)
        if isinstance(x, torch.Tensor) and (x.is_quantized or x.is_nested):
            raise TypeError(f"{'quantized' if x.is_quantized else 'nested'} tensors are not accepted")
    if isinstance(x, plain) and type(x) not in plain:
        name = f"{type(x).__module__}.{type(x).__name__}"
        raise TypeError(f"{name} is not accepted, it may hold more than its numbers: give a plain array")
