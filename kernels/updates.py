"""Updates of latent ±1 weights: moments, step, clipping to [-bound, bound]. Formulas as in `operands.Rule`.

Arrays are NumPy float32, dense, of one size, and are changed in place. With AVX-512 the CPU backend makes one
pass over memory; otherwise it uses NumPy. Updates on a GPU are in `cuda.updates`.
"""

from __future__ import annotations

from kernels.arrays import Floats, check_plain
from kernels.backend import choose_host
from kernels.operands import Rule


def update(rule: Rule, w: Floats, m: Floats, v: Floats, g: Floats, *, backend: str = "auto") -> None:
    """One step by `rule` for the gradient g. NaN stays NaN. TypeError or ValueError if arrays do not fit."""
    for array in (w, m, v, g):
        check_plain(array)
        if array.dtype != "float32" or array.size != w.size or not array.flags.c_contiguous:
            raise ValueError("w, m, v and g must be dense float32 arrays of one size")
    if not all(array.flags.writeable for array in (w, m, v)):
        raise ValueError("w, m and v must be writable: they are changed in place")
    if w.size:
        choose_host(backend).update(rule, *(array.reshape(-1) for array in (w, m, v, g)))
