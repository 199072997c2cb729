"""The backends: the functions that each must have, the list of backends, and the choice for a call."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kernels import cpu, cuda, reference
from kernels.arrays import Floats
from kernels.operands import LocalThresholds, Packed, Rows, Rule, Signs, Thresholds


class Backend(Protocol):
    """The operations of a backend on bits and pixels. The callers have checked that the operands fit each other.

    Operands and results are NumPy arrays in host memory or CuPy arrays on a GPU, depending on the backend.
    """

    def unavailable(self) -> str | None:
        """Why the backend cannot run on this machine, or None."""

    def describe(self) -> str:
        """What would run, in words."""

    def pack(self, rows: Rows) -> NDArray[np.uint64]:
        """Words (rows, words) of rows; ValueError for NaN."""

    def matmul(self, a: Packed, b: Packed, out: NDArray[np.int32] | None) -> NDArray[np.int32]:
        """(M, K) by (N, K) to (M, N), into `out` if it is given and fits, else ValueError."""

    def matmul_threshold(self, a: Packed, b: Packed, rule: Thresholds) -> NDArray[np.uint64]:
        """Words (M, words) of the bits of the product."""

    def conv2d(
        self, x: Packed, w: Packed, padding: int, stride: int, out: NDArray[np.int32] | None
    ) -> NDArray[np.int32]:
        """(N, H, W, C) by (Cout, kh, kw, C) to (N, H', W', Cout); `out` as in `matmul`."""

    def conv2d_threshold(
        self, x: Packed, w: Packed, rule: Thresholds, padding: int, stride: int
    ) -> NDArray[np.uint64]:
        """Words (N, H', W', words) of the bits of the convolution."""

    def maxpool2x2(self, x: Packed, falling: Packed) -> NDArray[np.uint64]:
        """Words (N, H // 2, W // 2, words) of pooled bits x (N, H, W, C); falling (C,)."""

    def describe_pixels(self) -> str:
        """What `pixel_conv2d` would run, in words."""

    def pixel_conv2d(
        self, x: NDArray[np.uint8], w: Packed, padding: int, out: NDArray[np.int32] | None
    ) -> NDArray[np.int32]:
        """uint8 (N, H, W, C) by (Cout, kh, kw, C), in host memory, to (N, H', W', Cout); `out` as in `matmul`."""

    def pixel_conv2d_threshold(
        self, x: NDArray[np.uint8], w: Packed, rule: LocalThresholds, padding: int
    ) -> NDArray[np.uint64]:
        """Words (N, H', W', words) of the bits of the convolution."""


class HostBackend(Backend, Protocol):
    """A backend for arrays in host memory. It also has the operations of training: float32 by ±1, and updates."""

    def signs(self, x: Floats, transposed: bool, strict: bool) -> Signs:
        """Signs of x (batch, k, n), or of (batch, n, k) if `transposed`."""

    def ternary(self, x: Floats) -> tuple[float, bool] | None:
        """(s, whether any element is 0) if every element of a dense x is s, -s or 0; else None."""

    def real_matmul(self, x: Floats, b: Signs, b2: Signs | None, scale: float, out: Floats | None) -> Floats:
        """scale · x (M, K) by b (K, N), or by b + b2, to (M, N)."""

    def real_conv2d(self, x: Floats, w: Signs, taps: tuple[int, int], padding: int, out: Floats | None) -> Floats:
        """x (N, H, W, C) by w (kh · kw, C, Cout) to (N, H', W', Cout)."""

    def conv_gradient(self, g: Floats, a: Signs, out: Floats | None) -> Floats:
        """g (N, H, W, Cout) by the input a (N · H, W, C) to (Cout, 3, 3, C)."""

    def update(self, rule: Rule, w: Floats, m: Floats, v: Floats, g: Floats) -> None:
        """One step of w, m and v, in place."""


# in order of preference: "auto" takes the first that runs here
HOST: dict[str, HostBackend] = {"cpu": cpu, "reference": reference}
GPU: dict[str, Backend] = {each.name: each for each in (cuda.WGMMA, cuda.BMMA, cuda.XNOR, cuda.NAIVE)}


def register(name: str, backend: HostBackend) -> None:
    """Adds a backend of your own for arrays of the host: `backend=name` then chooses it in every call.

    backend: a module or object with the functions of HostBackend. ValueError if the name is taken.
    """
    if name in every() or name == "auto":
        raise ValueError(f"there is a backend {name!r} already")
    HOST[name] = backend


def every() -> dict[str, Backend]:
    """All backends by name, in order of preference."""
    return {**HOST, **GPU}


def backends() -> dict[str, str]:
    """Every backend by name: what it runs here, or why it cannot.

    "auto" takes the first one that runs here; for operands on a GPU, the first "cuda-" one.
    """
    return {
        name: f"unavailable: {reason}" if (reason := backend.unavailable()) else backend.describe()
        for name, backend in every().items()
    }


def describe(backend: str = "auto") -> str:
    """What a call with this `backend` runs on this machine, in words; errors as in the call.

    "auto" is for operands in host memory; for those on a GPU see `backends`.
    """
    return choose(backend, takes_gpu(backend)).describe()


def takes_gpu(backend: str) -> bool:
    """Whether the backend of this name takes arrays on a GPU. False for "auto"."""
    return backend in GPU


def choose(name: str, on_gpu: bool) -> Backend:
    """The backend for a call with `backend=name` and operands on a GPU, or in host memory.

    Raises ValueError for an unknown name, TypeError if the backend does not take operands from there, RuntimeError
    if it cannot run on this machine.
    """
    if not on_gpu:
        return choose_host(name)
    if name == "auto":
        reasons = []
        for key, each in GPU.items():
            if (reason := each.unavailable()) is None:
                return each
            reasons.append(f"{key}: {reason}")
        raise RuntimeError(f"no backend for arrays on a GPU: {'; '.join(reasons)}")
    if name in HOST:
        raise TypeError(f"backend {name!r} takes arrays on the host, not on a GPU")
    if name not in GPU:
        raise ValueError(_unknown(name))
    if reason := GPU[name].unavailable():
        raise RuntimeError(f"backend {name!r} is unavailable: {reason}")
    return GPU[name]


def choose_host(name: str) -> HostBackend:
    """`choose` for operands in host memory; "auto" is the CPU backend."""
    name = "cpu" if name == "auto" else name
    if name in GPU:
        raise TypeError(f"backend {name!r} takes arrays on a GPU, not on the host")
    if name not in HOST:
        raise ValueError(_unknown(name))
    if reason := HOST[name].unavailable():
        raise RuntimeError(f"backend {name!r} is unavailable: {reason}")
    return HOST[name]


def _unknown(name: str) -> str:
    return f"no backend {name!r}: one of auto, {', '.join(every())} is needed"
