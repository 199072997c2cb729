"""Large pages for arrays that are streamed through once a step: 4 KiB pages cost an update a fifth of its time."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

from numpy.typing import NDArray

PAGE = 2 << 20
_HUGEPAGE, _COLLAPSE = 14, 25  # Linux's MADV_*


def in_large_pages(array: NDArray[Any]) -> None:
    """Asks Linux to hold a dense array in pages of 2 MiB, and to move there what it already holds.

    A kernel that cannot (before 6.1) leaves the array as it is; so do other systems. Contents stay.
    """
    start = -(-array.ctypes.data // PAGE) * PAGE
    size = (array.ctypes.data + array.nbytes) // PAGE * PAGE - start
    if size <= 0 or sys.platform != "linux":
        return
    madvise = ctypes.CDLL(None).madvise
    for advice in (_HUGEPAGE, _COLLAPSE):
        madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), ctypes.c_int(advice))
