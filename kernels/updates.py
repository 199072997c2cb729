"""Updates of latent ±1 weights: moments, step, clipping to [-bound, bound]. Formulas as in `operands.Rule`.

Arrays are NumPy float32, dense, of one size, and are changed in place. The CPU backend makes one pass over memory
where it has AVX-512, and uses NumPy elsewhere. Updates on a GPU are in `cuda.updates`.
"""

from __future__ import annotations

import math

from kernels.arrays import Floats, check_plain
from kernels.backend import choose_host
from kernels.operands import Rule


def adam(
    w: Floats,
    m: Floats,
    v: Floats,
    g: Floats,
    *,
    rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    bound: float = math.inf,
) -> None:
    """A step of Adam for the gradient g. NaN stays NaN. ValueError where arrays do not fit."""
    update(Rule("adam", beta1, beta2, eps, rate, bound), w, m, v, g)


def shift_adamax(
    w: Floats,
    m: Floats,
    v: Floats,
    g: Floats,
    *,
    rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    bound: float = math.inf,
) -> None:
    """A step of shift-based AdaMax (arXiv 1602.02830, section 1.3) for the gradient g; else as `adam`."""
    update(Rule("shift_adamax", beta1, beta2, eps, rate, bound), w, m, v, g)


def update(rule: Rule, w: Floats, m: Floats, v: Floats, g: Floats, backend: str = "auto") -> None:
    """A step by any rule for the gradient g; else as `adam`."""
    for array in (w, m, v, g):
        check_plain(array)
        if array.dtype != "float32" or array.size != w.size or not array.flags.c_contiguous:
            raise ValueError("w, m, v and g must be dense float32 arrays of one size")
    if not all(array.flags.writeable for array in (w, m, v)):
        raise ValueError("w, m and v must be writable: they are changed in place")
    if w.size:
        choose_host(backend).update(rule, *(array.reshape(-1) for array in (w, m, v, g)))
