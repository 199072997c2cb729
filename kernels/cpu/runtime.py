"""The compiled library in this process: loaded once, its instruction sets, its threads, calls into it."""

import ctypes
import re
import threading
import warnings
from functools import cache
from typing import Any

from kernels.cpu import build
from kernels.environment import VariableError, cores, variable

ISAS = ("portable", "avx2", "avx512", "amx")  # by level, as kernels_level counts them

loaded: ctypes.CDLL | build.BuildError | None = None
"""What `library` has found in this process; None before its first call."""
_lock = threading.Lock()


def library() -> ctypes.CDLL | build.BuildError:
    """The compiled library, or the reason why there is none (a RuntimeWarning the first time)."""
    global loaded
    if loaded is None:
        with _lock:
            if loaded is None:
                try:
                    loaded = _declared(build.load())
                except build.BuildError as error:
                    warnings.warn(f"1-bit kernels run in NumPy: {error}", RuntimeWarning, stacklevel=2)
                    loaded = error
    return loaded


def _declared(found: ctypes.CDLL) -> ctypes.CDLL:
    number, count, pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
    found.kernels_level.argtypes = ()
    found.kernels_pack.argtypes = (number, number, number, pointer, count, count, count, pointer)
    found.kernels_panels.argtypes = (number, pointer, count, count, count, pointer)
    found.kernels_product.argtypes = (pointer,)
    found.kernels_spin.argtypes = (number, number, count)
    found.kernels_fma.argtypes = (number, number, count)
    found.kernels_spin.restype = found.kernels_fma.restype = count
    found.kernels_panels.restype = found.kernels_product.restype = None
    found.kernels_ternary.restype = ctypes.c_float
    return found


def isas() -> tuple[str, ...]:
    """Instruction sets that run on this machine, best first; the last is `numpy`."""
    return _isas(library())


@cache
def _isas(found: ctypes.CDLL | build.BuildError) -> tuple[str, ...]:
    if isinstance(found, build.BuildError):
        return ("numpy",)
    return (*ISAS[found.kernels_level() :: -1], "numpy")


def has_avx512() -> bool:
    """Whether the instruction set in use contains AVX-512."""
    return chosen_isa() in ("avx512", "amx")


def chosen_isa() -> str:
    """The instruction set in use: $KERNELS_ISA, else the best. VariableError if it does not run here."""
    usable, given = isas(), variable("KERNELS_ISA")
    chosen = given or usable[0]
    if chosen in usable:
        return chosen
    raise VariableError(f"KERNELS_ISA={given!r} does not run here: one of {', '.join(usable)} does")


def compiled() -> tuple[ctypes.CDLL, int] | None:
    """The library and the level of the instruction set in use; None if NumPy is used instead."""
    chosen, found = chosen_isa(), library()
    return None if chosen == "numpy" or isinstance(found, build.BuildError) else (found, ISAS.index(chosen))


MOST_THREADS = 256
"""The most threads of a call: those of the pool (csrc/pool.c) and the caller."""


def thread_count() -> int:
    """Threads of a call: $KERNELS_THREADS, else one for each core of this process; up to MOST_THREADS."""
    given = variable("KERNELS_THREADS")
    if (given and not re.fullmatch(r"[1-9][0-9]{0,2}", given)) or int(given or 0) > MOST_THREADS:
        raise VariableError(f"KERNELS_THREADS takes a number of threads from 1 to {MOST_THREADS}, not {given!r}")
    return int(given) if given else min(cores(), MOST_THREADS)


def fields(names: str) -> list[tuple[str, Any]]:
    """Fields of a C structure that are all int64: numbers, and addresses (0 for none)."""
    return [(name, ctypes.c_int64) for name in names.split()]


def call(name: str, job: ctypes.Structure, *more: ctypes.c_void_p) -> None:
    """Calls the C function `name`. RuntimeError without a compiled library, MemoryError if memory runs out."""
    found = library()
    if isinstance(found, build.BuildError):
        raise RuntimeError(f"{name} needs the compiled kernels: {found}")
    if getattr(found, name)(ctypes.byref(job), *more):
        raise MemoryError(f"{name}: no memory for its tables")
