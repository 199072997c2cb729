"""Products of real numbers with ±1 in 16-bit fixed point: the backward pass of training (csrc/lookup/lookup*.c).

Rows of the real operand are cut into blocks of at most `BLOCK` numbers along the summed axis (for a convolution
the channels of a pixel; for its weight gradient the pixels of all images in their order). Each block has its own
step, its sum of magnitudes divided by `LIMIT`, and its numbers are rounded to multiples of the step. The sum of a
block is then exact for any signs; blocks are added in float32 in their order. The error of a result, relative to
the root mean square, is about 5e-4, as on a GPU in TF32. Every instruction set and number of threads gives the
same bits. A block with a number that is not finite makes every result that it is part of NaN.

Needs the compiled library (`ternary.available`).
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.arrays import Floats, check_floats, output
from kernels.cpu.runtime import call, fields, thread_count
from kernels.cpu.step.ternary import Panels, isa, room
from kernels.operands import Rule as Rule

STEP = 32
"""Columns of activations that one step of the kernels treats together."""
BLOCK = 128
LIMIT = 65400


class _Matmul(ctypes.Structure):
    _fields_ = [*fields("x whole x_row x_k m k panels n out isa threads"), ("scale", ctypes.c_double)]


class _Conv(ctypes.Structure):
    _fields_ = [*fields("x images height width channels panels n out isa threads"), ("scale", ctypes.c_double)]


class _Gradient(ctypes.Structure):
    _fields_ = [*fields("g images height width m a across n out isa threads"), ("scale", ctypes.c_double)]


class CRule(ctypes.Structure):
    """`rule_t` of csrc/rules.h."""

    _fields_ = [
        ("kind", ctypes.c_int64),
        *[(name, ctypes.c_double) for name in ("beta1", "beta2", "eps", "rate", "bound")],
    ]


class _Dense(ctypes.Structure):
    _fields_ = [
        *fields("g batch rows columns low high rule w m v to_in to_out isa threads"),
        ("scale", ctypes.c_double),
    ]


class _Update(ctypes.Structure):
    _fields_ = fields("rule g w m v count isa threads")


class _Signs(ctypes.Structure):
    _fields_ = fields("x x_tap x_k x_n taps k n panels threads")


def matmul(x: NDArray[Any], b: Panels, scale: float = 1.0, out: Floats | None = None) -> Floats:
    """scale · x (M, K), any strides, by ±1 (K, N): float32 (M, N).

    x is float32, or int16 of magnitudes up to 255, which is not rounded. Raises TypeError or ValueError where
    shapes, dtypes or magnitudes do not fit.
    """
    whole = x.dtype == np.int16
    if whole and x.size and max(int(x.max()), -int(x.min())) > 255:
        raise ValueError("int16 x must have magnitudes up to 255")
    if not whole:
        check_floats("x", x, (2,))
    if x.ndim != 2 or b.k != x.shape[1] or not b.k:
        raise ValueError(f"x {x.shape} and panels of ({b.k}, {b.n}) do not fit")
    out = output((len(x), b.n), out, np.float32)
    if any(stride % x.itemsize for stride in x.strides):
        x = np.ascontiguousarray(x)
    row, step = (stride // x.itemsize for stride in x.strides)
    if out.size:
        job = _Matmul(
            x=x.ctypes.data, whole=whole, x_row=row, x_k=step, m=x.shape[0], k=b.k,
            panels=b.bytes.ctypes.data, n=b.n, out=out.ctypes.data,
            isa=isa(), threads=thread_count(), scale=scale,
        )  # fmt: skip
        call("kernels_lookup_matmul", job)
    return out


def conv(x: Floats, w: Panels, scale: float = 1.0, out: Floats | None = None) -> Floats:
    """scale · the 3×3 convolution of x (N, H, W, C) by w, zero border: float32 (N, H, W, n).

    w has k = 9 · C, C padded to a multiple of 8: tap by tap in reading order. Raises TypeError or ValueError
    where shapes or dtypes do not fit.
    """
    check_floats("x", x, (4,))
    images, height, width, channels = x.shape
    if w.k != 9 * filled(channels) or not x.size:
        raise ValueError(f"x {x.shape} and panels of ({w.k}, {w.n}) do not fit")
    out = output((images, height, width, w.n), out, np.float32)
    x = np.ascontiguousarray(x)
    if out.size:
        job = _Conv(
            x=x.ctypes.data, images=images, height=height, width=width, channels=channels,
            panels=w.bytes.ctypes.data, n=w.n, out=out.ctypes.data,
            isa=isa(), threads=thread_count(), scale=scale,
        )  # fmt: skip
        call("kernels_lookup_conv", job)
    return out


def conv_gradient(g: Floats, a: NDArray[np.int8], scale: float = 1.0, out: Floats | None = None) -> Floats:
    """scale · the weight gradient of a 3×3 convolution with a zero border: float32 (Cout, 3, 3, Cin).

    g (N, H, W, Cout) is the gradient of the output, int8 a (N, H, W, Cin) the ±1 input. Raises TypeError or
    ValueError where shapes or dtypes do not fit.
    """
    check_floats("g", g, (4,))
    images, height, width, m = g.shape
    if a.dtype != np.int8 or a.shape[:3] != g.shape[:3] or not g.size or not a.size:
        raise ValueError(f"g {g.shape} and a {a.dtype} {a.shape} do not fit")
    n = a.shape[3]
    out = output((m, 3, 3, n), out, np.float32)
    g, a = np.ascontiguousarray(g), np.ascontiguousarray(a)
    if n % STEP:
        a = np.pad(a, ((0, 0), (0, 0), (0, 0), (0, -n % STEP)))
    job = _Gradient(
        g=g.ctypes.data, images=images, height=height, width=width, m=m, a=a.ctypes.data, across=a.shape[3], n=n,
        out=out.ctypes.data, isa=isa(), threads=thread_count(), scale=scale,
    )  # fmt: skip
    call("kernels_lookup_gradient", job)
    return out


def update(
    g: Floats,
    low: Panels,
    high: Panels | None,
    scale: float,
    w: Floats,
    m: Floats,
    v: Floats,
    rule: Rule,
    to_in: Panels,
    to_out: Panels,
) -> None:
    """Updates weights w (out, in) of a dense layer and moments m and v, in place, without storing the gradient.

    The gradient is scale · gᵀ · low, or with `high` scale · gᵀ · (low + high): an input of 0 and ±s is s/2 times
    the sum of its planes. g (batch, out) is the gradient of the output, low and high (batch, in) are planes of
    the input (`ternary.planes`). With two planes blocks have half of LIMIT. Signs of the new weights are written
    to the panels to_in (out, in) and to_out (in, out). Raises TypeError or ValueError where shapes or dtypes do
    not fit.
    """
    check_floats("g", g, (2,))
    batch, rows = g.shape
    columns = low.n
    planes = (low,) if high is None else (low, high)
    if any((p.k, p.n) != (batch, columns) for p in planes) or not g.flags.c_contiguous or not batch:
        raise ValueError(f"g {g.shape}, which must be dense, and planes of ({low.k}, {low.n}) do not fit")
    if (to_in.k, to_in.n, to_out.k, to_out.n) != (rows, columns, columns, rows):
        raise ValueError(f"panels do not fit weights ({rows}, {columns})")
    check_same((rows, columns), w=w, m=m, v=v)
    if w.size:
        held = c_rule(rule)
        job = _Dense(
            g=g.ctypes.data, batch=batch, rows=rows, columns=columns, low=low.bytes.ctypes.data,
            high=high.bytes.ctypes.data if high else 0, rule=ctypes.addressof(held),
            w=w.ctypes.data, m=m.ctypes.data, v=v.ctypes.data,
            to_in=to_in.bytes.ctypes.data, to_out=to_out.bytes.ctypes.data,
            isa=isa(), threads=thread_count(), scale=scale,
        )  # fmt: skip
        call("kernels_lookup_update", job)


def update_from(g: Floats, w: Floats, m: Floats, v: Floats, rule: Rule) -> None:
    """Updates weights w of any shape and moments m and v, in place, for the gradient g. ValueError as `update`."""
    check_same(g.shape, g=g, w=w, m=m, v=v)
    if w.size:
        held = c_rule(rule)
        job = _Update(
            rule=ctypes.addressof(held), g=g.ctypes.data, w=w.ctypes.data, m=m.ctypes.data, v=v.ctypes.data,
            count=w.size, isa=isa(), threads=thread_count(),
        )  # fmt: skip
        call("kernels_update_from", job)


def signs(x: Floats, out: Panels | None = None) -> Panels:
    """Signs of x (k, n), +1 where x >= 0, in `out` or new panels. x or its transpose must be dense."""
    check_floats("x", x, (2,))
    k, n = x.shape
    made = room(k, n) if out is None else out
    if (made.k, made.n) != (k, n) or not (x.flags.c_contiguous or x.flags.f_contiguous):
        raise ValueError(f"x {x.shape} is not dense, or does not fit panels of ({made.k}, {made.n})")
    if x.size:
        _signs(x, 1, (0, x.strides[0] // 4, x.strides[1] // 4), (k, n), made)
    return made


def conv_signs(w: Floats, forwards: Panels, backwards: Panels) -> None:
    """Signs of 3×3 taps w (Cout, 3, 3, Cin) for `conv` of the input and, taps reversed, of the gradient."""
    check_floats("w", w, (4,))
    cout, cin = w.shape[0], w.shape[3]
    if (forwards.k, forwards.n, backwards.k, backwards.n) != (9 * filled(cin), cout, 9 * filled(cout), cin):
        raise ValueError(f"panels do not fit taps {w.shape}")
    check_same((cout, 3, 3, cin), taps=w)
    _signs(w, 9, (cin, 1, 9 * cin), (cin, cout), forwards)
    _signs(w[:, 2, 2], 9, (-cin, 9 * cin, 1), (cout, cin), backwards)


def _signs(x: Floats, taps: int, steps: tuple[int, int, int], size: tuple[int, int], out: Panels) -> None:
    job = _Signs(
        x=x.ctypes.data, x_tap=steps[0], x_k=steps[1], x_n=steps[2], taps=taps, k=size[0], n=size[1],
        panels=out.bytes.ctypes.data, threads=thread_count(),
    )  # fmt: skip
    call("kernels_signs_of", job)


def c_rule(rule: Rule) -> CRule:
    """The rule as C takes it."""
    kind = ("adam", "shift_adamax", "sgd").index(rule.kind)
    return CRule(kind, rule.beta1, rule.beta2, rule.eps, rule.rate, rule.bound)


def check_same(shape: tuple[int, ...], **arrays: Floats) -> None:
    """ValueError unless all are dense float32 arrays of this shape, and w, m and v writable."""
    for name, array in arrays.items():
        if array.dtype != np.float32 or array.shape != shape or not array.flags.c_contiguous:
            raise ValueError(f"{name} must be a dense float32 array of shape {shape}")
        if name in ("w", "m", "v") and not array.flags.writeable:
            raise ValueError(f"{name} must be writable: it is changed in place")


def filled(channels: int) -> int:
    """Channels of a tap in panels of signs: padded to a multiple of 8."""
    return -(-channels // 8) * 8
