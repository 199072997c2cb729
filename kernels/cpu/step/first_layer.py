"""The update of a dense first layer, whose input is integers: 8-bit pixels (csrc/step/first_layer.c).

Gradients of the output are rounded to 16-bit fixed point, with a step for each output and block of 128 images (the
largest magnitude divided by 32767). Products with pixels are exact in 32-bit integers; blocks are added in float32
in their order. Every instruction set and number of threads gives the same bits.
"""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from kernels.arrays import Floats, check_floats
from kernels.cpu.runtime import call, fields, thread_count
from kernels.cpu.step.fixed import c_rule, check_same
from kernels.cpu.step.ternary import Panels, isa
from kernels.operands import Rule

LARGEST = 255
"""The largest magnitude of a pixel."""


class _First(ctypes.Structure):
    _fields_ = [*fields("g x batch rows columns rule w m v to_out isa threads"), ("scale", ctypes.c_double)]


def update(
    g: Floats,
    x: NDArray[np.int16],
    scale: float,
    w: Floats,
    m: Floats,
    v: Floats,
    rule: Rule,
    to_out: Panels,
) -> None:
    """Updates weights w (out, in) and moments m and v, in place, for the gradient scale · gᵀ · x.

    g (batch, out) is the gradient of the output. x (batch, in) has magnitudes up to LARGEST, which is not checked:
    sums of larger ones overflow. Signs of the new weights are written to to_out (in, out). Raises TypeError or
    ValueError where shapes or dtypes do not fit.
    """
    check_floats("g", g, (2,))
    batch, rows = g.shape
    columns = x.shape[1]
    if x.dtype != np.int16 or len(x) != batch or not (x.flags.c_contiguous and g.flags.c_contiguous) or not batch:
        raise ValueError(f"g {g.shape} and x {x.dtype} {x.shape}, which must be dense, do not fit")
    if (to_out.k, to_out.n) != (columns, rows):
        raise ValueError(f"panels of ({to_out.k}, {to_out.n}) do not fit weights ({rows}, {columns})")
    check_same((rows, columns), w=w, m=m, v=v)
    if w.size:
        held = c_rule(rule)
        job = _First(
            g=g.ctypes.data, x=x.ctypes.data, batch=batch, rows=rows, columns=columns, rule=ctypes.addressof(held),
            w=w.ctypes.data, m=m.ctypes.data, v=v.ctypes.data, to_out=to_out.bytes.ctypes.data,
            isa=isa(), threads=thread_count(), scale=scale,
        )  # fmt: skip
        call("kernels_first_update", job)
