"""Exact arithmetic on ±1 arrays, one bit an element: packing, products, convolutions, thresholds.

    a, b = pack(x), pack(y)                 # real or ±1 arrays (M, K), (N, K); NumPy, torch or CuPy
    c = xnor_matmul(a, b)                   # int32 (M, N) = sign(x) @ sign(y).T
    h = xnor_matmul_threshold(a, b, rule)   # packed (M, N): +1 where c meets its unit's integer threshold

sign(x) is +1 where x >= 0, so both zeros are +1, else -1; True is +1. Products take packed arrays or anything
that `pack` takes. Arrays on a GPU (CuPy arrays, torch CUDA tensors) are packed, multiplied and given back
there, as CuPy arrays, by the CUDA backends (kernels.cuda); the others take arrays of the host. `to_gpu` and
`to_host` move packed arrays. A backend has the functions of `Backend`; to add one, list it in `_BACKENDS`.
The product of ±1 vectors as K - 2 popcount(a xor b) is from Binarized Neural Networks, arXiv 1602.02830,
algorithm 5 and section 4.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kernels import cpu, cuda, reference
from kernels.cuda import arrays
from kernels.cuda.arrays import GpuPacked, to_gpu, to_host
from kernels.packed import MAX_K, Packed, Rows, Thresholds, rows_of, whole_number

__all__ = [
    "Backend",
    "GpuPacked",
    "Packed",
    "Thresholds",
    "backends",
    "describe",
    "pack",
    "takes_gpu",
    "to_gpu",
    "to_host",
    "unpack",
    "xnor_conv2d",
    "xnor_conv2d_threshold",
    "xnor_matmul",
    "xnor_matmul_threshold",
]


class Backend(Protocol):
    """What a backend module offers. Its callers have checked that the operands fit each other."""

    def unavailable(self) -> str | None:
        """Why the backend cannot run on this machine, or None."""

    def describe(self) -> str:
        """What would run, in words."""

    def pack(self, rows: Rows) -> NDArray[np.uint64]:
        """Words of rows; ValueError for NaN."""

    def matmul(self, a: Packed, b: Packed, out: NDArray[np.int32] | None) -> NDArray[np.int32]:
        """(M, K) by (N, K) to (M, N), into `out` if it is given and fits, else ValueError."""

    def matmul_threshold(self, a: Packed, b: Packed, rule: Thresholds) -> NDArray[np.uint64]:
        """Words of the product's bits."""

    def conv2d(
        self, x: Packed, w: Packed, padding: int, stride: int, out: NDArray[np.int32] | None
    ) -> NDArray[np.int32]:
        """(N, H, W, C) by (Cout, kh, kw, C) to (N, H', W', Cout); `out` as in `matmul`."""

    def conv2d_threshold(
        self, x: Packed, w: Packed, rule: Thresholds, padding: int, stride: int
    ) -> NDArray[np.uint64]:
        """Words of the convolution's bits."""


# by preference: "auto" is the first that runs here and takes arrays from where the operands are
_GPU: dict[str, Backend] = {each.name: each for each in (cuda.WGMMA, cuda.BMMA, cuda.XNOR, cuda.NAIVE)}
_BACKENDS: dict[str, Backend] = {"cpu": cpu, "reference": reference, **_GPU}


def backends() -> dict[str, str]:
    """Every backend by name: what it runs here, or why it cannot.

    "auto" takes the first that can, for operands on a GPU the first "cuda-" one.
    """
    return {name: _why_not(backend) or backend.describe() for name, backend in _BACKENDS.items()}


def describe(backend: str = "auto") -> str:
    """What a call with this `backend` runs on this machine, in words; errors as in the call.

    "auto" is for operands on the host; for those on a GPU see `backends`.
    """
    return _backend(backend, backend in _GPU).describe()


def takes_gpu(backend: str) -> bool:
    """Whether the backend of this name takes arrays on a GPU ("auto", as a name alone, does not)."""
    return backend in _GPU


def pack(x: object, backend: str = "auto") -> Packed:
    """Packs the signs of a real array (*lead, K) along its last axis.

    x: a NumPy or CuPy array or torch tensor of float64/32/16, bfloat16, int8/16/32/64 or bool, any strides,
    read-only or not. Values >= 0 (so -0.0 too) and True are +1. A packed array is given back as it is. What is
    on a GPU gives a `GpuPacked`. Raises ValueError for NaN and for K = 0, TypeError for other elements and
    arrays (masked ones, too: the mask would be lost), and where the backend does not take arrays from where x is.
    """
    if isinstance(x, Packed):
        return x
    there = arrays.on_gpu(x)
    runner = _backend(backend, there)
    rows, lead = arrays.rows_of(x) if there else rows_of(x)
    words = runner.pack(rows)
    return (GpuPacked if there else Packed)(words.reshape(*lead, words.shape[1]), rows.values.shape[1])


def unpack(p: Packed) -> NDArray[np.int8]:
    """The ±1 array of a packed one, from wherever it is: NumPy int8 of shape `p.shape`."""
    return reference.unpack(to_host(p))


def xnor_matmul(
    a: object, b: object, backend: str = "auto", out: NDArray[np.int32] | None = None
) -> NDArray[np.int32]:
    """The exact product sign(a) @ sign(b).T: int32 (M, N) of a (M, K) and b (N, K), M and N >= 0, K >= 1.

    A packed b keeps the layout the backend wants of it, so weights are best packed once and given as b. The
    product is written to `out` where one is given (writable, C-contiguous), which saves a large one's page
    faults. Raises ValueError where shapes or `out` do not fit, TypeError where one operand is on a GPU and the
    other is not, and what `pack` raises.
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

    Element (m, n) is +1 where the product meets unit n's rule, else -1. Raises as `xnor_matmul` does, and
    ValueError where the rule is not for N units.
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
    is zero: taps outside the image add nothing. `out` as in `xnor_matmul`. Raises ValueError where shapes,
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
    """The convolution of `xnor_conv2d` against an integer threshold a filter: packed (N, H', W', Cout).

    Rule and errors are those of `xnor_matmul_threshold`, with Cout for N.
    """
    padding, stride = whole_number("padding", padding), whole_number("stride", stride)
    images, filters = _conv2d_operands(x, w, padding, stride, backend)
    _check_units(rule, filters.shape[0])
    words = _runner(backend, images, filters).conv2d_threshold(images, filters, rule, padding, stride)
    return type(images)(words, filters.shape[0])


def _why_not(backend: Backend) -> str | None:
    reason = backend.unavailable()
    return reason and f"unavailable: {reason}"


def _backend(name: str, there: bool) -> Backend:
    """The backend of this name, which must take arrays from where the operands are: a GPU if `there`."""
    usable = {key: each for key, each in _BACKENDS.items() if (key in _GPU) == there}
    if name == "auto":
        reasons = []
        for key, each in usable.items():
            if (reason := each.unavailable()) is None:
                return each
            reasons.append(f"{key}: {reason}")
        raise RuntimeError(f"no backend for arrays on a GPU: {'; '.join(reasons)}")
    if name not in _BACKENDS:
        raise ValueError(f"no backend {name!r}: one of auto, {', '.join(_BACKENDS)} is needed")
    if name not in usable:
        wanted, given = ("the host", "a GPU") if there else ("a GPU", "the host")
        raise TypeError(f"backend {name!r} takes arrays on {wanted}, not on {given}")
    if reason := usable[name].unavailable():
        raise RuntimeError(f"backend {name!r} is unavailable: {reason}")
    return usable[name]


def _runner(name: str, left: Packed, right: Packed) -> Backend:
    there = isinstance(left, GpuPacked)
    if there != isinstance(right, GpuPacked):
        places = ("a GPU and the second on the host", "the host and the second on a GPU")[not there]
        raise TypeError(f"the first operand is on {places}: move one with to_gpu or to_host")
    return _backend(name, there)


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
