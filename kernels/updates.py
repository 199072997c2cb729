"""Update rules of latent ±1 weights in one pass over memory: moments, step, clipping to [-bound, bound].

In C on the CPU backend with AVX-512 (csrc/updates.c), where `reals.available()`; there is no other way here:
callers that want one have their framework's. Arrays are float32, dense, of one size, and are changed in place.
"""

from __future__ import annotations

import ctypes
import math

from kernels import cpu
from kernels.packed import check_plain
from kernels.reals import Floats, _call, _fields


class _Update(ctypes.Structure):
    _fields_ = [
        *_fields("w m v g count rule threads"),
        *[(name, ctypes.c_double) for name in ("beta1", "beta2", "eps", "rate", "bound")],
    ]


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
    """m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g²;  w -= rate · m / (sqrt(v) + eps), then clipped.

    Bias corrections are the caller's, in `rate` and `eps`. NaN stays NaN. ValueError where arrays do not fit.
    """
    _update(w, m, v, g, 0, rate, beta1, beta2, eps, bound)


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
    """m = b1 m + (1 - b1) g;  v = AP2(max(b2 v, |g|)) + eps;  w -= rate · m / v, then clipped."""
    _update(w, m, v, g, 1, rate, beta1, beta2, eps, bound)


def _update(
    w: Floats,
    m: Floats,
    v: Floats,
    g: Floats,
    rule: int,
    rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    bound: float,
) -> None:
    for array in (w, m, v, g):
        check_plain(array)
        if array.dtype != "float32" or array.size != w.size or not array.flags.c_contiguous:
            raise ValueError("w, m, v and g must be dense float32 arrays of one size")
    if not all(array.flags.writeable for array in (w, m, v)):
        raise ValueError("w, m and v must be writable: they are changed in place")
    if w.size:
        job = _Update(
            w=w.ctypes.data, m=m.ctypes.data, v=v.ctypes.data, g=g.ctypes.data, count=w.size, rule=rule,
            threads=cpu._threads(None), beta1=beta1, beta2=beta2, eps=eps, rate=rate, bound=bound,
        )  # fmt: skip
        _call("kernels_update", job)
