"""The public functions on bits: packing, products of packed ±1 arrays, thresholds, pooling. See `kernels`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels import reference
from kernels.arrays import whole_number
from kernels.backend import Backend, choose
from kernels.cuda import arrays as gpu
from kernels.cuda.arrays import GpuPacked, to_host
from kernels.operands import MAX_K, Packed, Thresholds, rows_of


def pack(x: object, backend: str = "auto") -> Packed:
    """Packs the signs of a real array (*lead, K) along its last axis.

    x: a NumPy or CuPy array or torch tensor of float64/32/16, bfloat16, int8/16/32/64 or bool, any strides,
    read-only or not. Values >= 0 (so -0.0 too) and True are +1. A packed array is returned as it is. An array on a
    GPU gives a `GpuPacked`. Raises ValueError for NaN and for K = 0, TypeError for other elements and classes of
    array (a mask would be lost), and where x is on a GPU and the backend is not, or the reverse.
    """
    if isinstance(x, Packed):
        return x
    there = gpu.on_gpu(x)
    runner = choose(backend, there)
    rows, lead = gpu.rows_of(x) if there else rows_of(x)
    words = runner.pack(rows)
    return (GpuPacked if there else Packed)(words.reshape(*lead, words.shape[1]), rows.values.shape[1])


def unpack(p: Packed) -> NDArray[np.int8]:
    """The ±1 array of a packed one, in host memory or on a GPU: NumPy int8 of shape `p.shape`."""
    return reference.unpack(to_host(p))


def xnor_matmul(
    a: object, b: object, backend: str = "auto", out: NDArray[np.int32] | None = None
) -> NDArray[np.int32]:
    """The exact product sign(a) @ sign(b).T: int32 (M, N) of a (M, K) and b (N, K), M and N >= 0, K >= 1.

    A packed b caches the layout that the backend needs, so pack weights once and pass them as b. The product is
    written to `out` if it is given (writable, C-contiguous), which saves the page faults of a large new array.
    Raises ValueError where shapes or `out` do not fit, TypeError where only one operand is on a GPU, and what
    `pack` raises.
    """
    left, right = _matmul_operands(a, b, backend)
    return _runner(backend, left, right).matmul(left, right, out)


def xnor_matmul_threshold(
    a: object,
    b: object,
    rule: Thresholds,
    backend: str = "auto",
) -> Packed:
    """The product of `xnor_matmul` against an integer threshold for each row of b: packed (M, N), N >= 1.

    Element (m, n) is +1 where the product meets unit n's rule, else -1. Backends keep what they derive from b for
    each rule: make a rule once, as b. Raises as `xnor_matmul` does, and ValueError if the rule is for another
    number of units, or on a GPU for K of 2^30 or more (backend "cuda-naive": 2^24).
    """
    left, right = _matmul_operands(a, b, backend)
    _check_units(rule, right.shape[0])
    words = _runner(backend, left, right).matmul_threshold(left, right, rule)
    return type(left)(words, right.shape[0])


def xnor_conv2d(
    x: object,
    w: object,
    padding: int = 1,
    stride: int = 1,
    backend: str = "auto",
    out: NDArray[np.int32] | None = None,
) -> NDArray[np.int32]:
    """The exact convolution (cross-correlation) of signs: int32 (N, H', W', Cout).

    x: (N, H, W, C); w: (Cout, kh, kw, C); H' = (H + 2 padding - kh) // stride + 1, W' likewise. The padding
    is zero: taps outside the image count as 0. `out` as in `xnor_matmul`. Raises ValueError where shapes,
    padding, stride or `out` do not fit, TypeError as in `xnor_matmul`, and what `pack` raises.
    """
    padding, stride = whole_number("padding", padding), whole_number("stride", stride)
    images, filters = _conv2d_operands(x, w, padding, stride, backend)
    return _runner(backend, images, filters).conv2d(images, filters, padding, stride, out)


def xnor_conv2d_threshold(
    x: object,
    w: object,
    rule: Thresholds,
    padding: int = 1,
    stride: int = 1,
    backend: str = "auto",
) -> Packed:
    """The convolution of `xnor_conv2d` against an integer threshold for each filter: packed (N, H', W', Cout).

    Rule and errors as in `xnor_matmul_threshold`, with Cout in place of N.
    """
    padding, stride = whole_number("padding", padding), whole_number("stride", stride)
    images, filters = _conv2d_operands(x, w, padding, stride, backend)
    _check_units(rule, filters.shape[0])
    words = _runner(backend, images, filters).conv2d_threshold(images, filters, rule, padding, stride)
    return type(images)(words, filters.shape[0])


def maxpool2x2(x: Packed, falling: Packed, backend: str = "auto") -> Packed:
    """The bits of thresholds on 2×2 maxima, from the bits of thresholds on every element.

    x: packed (N, H, W, C) -> packed (N, H // 2, W // 2, C), odd rows and columns left out as torch does. The
    largest of four integers is >= t where one of them is (OR), and <= t where all are (AND): `falling`, packed
    (C,), is +1 for units of the second kind; it may stay in host memory where x is on a GPU. Raises ValueError
    where the shapes do not fit, TypeError if only `falling` is on a GPU.
    """
    if isinstance(falling, GpuPacked) and not isinstance(x, GpuPacked):
        raise TypeError("x is on the host and falling on a GPU: move it with to_host")
    if len(x.shape) != 4 or falling.shape != x.shape[3:]:
        raise ValueError(f"x (N, H, W, C) and falling (C,) do not fit: {x.shape}, {falling.shape}")
    words = choose(backend, isinstance(x, GpuPacked)).maxpool2x2(x, falling)
    return type(x)(words, x.k)


def _runner(name: str, left: Packed, right: Packed) -> Backend:
    there = isinstance(left, GpuPacked)
    if there != isinstance(right, GpuPacked):
        places = ("a GPU and the second on the host", "the host and the second on a GPU")[not there]
        raise TypeError(f"the first operand is on {places}: move one with to_gpu or to_host")
    return choose(name, there)


def _matmul_operands(a: object, b: object, backend: str) -> tuple[Packed, Packed]:
    left, right = pack(a, backend), pack(b, backend)
    for name, operand in (("a", left), ("b", right)):
        if len(operand.shape) != 2:
            raise ValueError(f"{name} must have two axes (rows, K), not shape {operand.shape}")
    if left.k != right.k:
        raise ValueError(f"a has K = {left.k} but b has K = {right.k}")
    return left, right


def _conv2d_operands(x: object, w: object, padding: int, stride: int, backend: str) -> tuple[Packed, Packed]:
    images, filters = pack(x, backend), pack(w, backend)
    for name, operand, axes in (("x", images, "(N, H, W, C)"), ("w", filters, "(Cout, kh, kw, C)")):
        if len(operand.shape) != 4:
            raise ValueError(f"{name} must have four axes {axes}, not shape {operand.shape}")
    if images.k != filters.k:
        raise ValueError(f"x has {images.k} channels but w has {filters.k}")
    if padding < 0 or stride < 1:
        raise ValueError(f"padding must be >= 0 and stride >= 1, not {padding} and {stride}")
    size, taps = images.shape[1:3], filters.shape[1:3]
    if min(taps) < 1 or any(s + 2 * padding < t for s, t in zip(size, taps, strict=True)):
        raise ValueError(f"{taps[0]}x{taps[1]} taps do not fit {size[0]}x{size[1]} with padding {padding}")
    if taps[0] * taps[1] * filters.k > MAX_K:
        raise ValueError(f"a filter of shape {filters.shape[1:]} has more than {MAX_K} elements")
    return images, filters


def _check_units(rule: Thresholds, units: int) -> None:
    if units == 0 or len(rule.level) != units:
        raise ValueError(f"{units} output units and {len(rule.level)} thresholds")
