"""Large pages for arrays that every step reads and writes: pages of 4 KiB cost a fifth of an update's time."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

from numpy.typing import NDArray

PAGE = 2 << 20
_HUGEPAGE, _COLLAPSE = 14, 25  # Linux's MADV_*


def in_large_pages(array: NDArray[Any]) -> None:
    """Asks Linux to put a dense array into pages of 2 MiB, including the parts already in memory.

    The contents do not change. Linux before 6.1 and other systems leave the array as it is.
    """
    start = -(-array.ctypes.data // PAGE) * PAGE
    size = (array.ctypes.data + array.nbytes) // PAGE * PAGE - start
    if size <= 0 or sys.platform != "linux":
        return
    madvise = ctypes.CDLL(None).madvise
    for advice in (_HUGEPAGE, _COLLAPSE):
        madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), ctypes.c_int(advice))
