"""Batch norm, activation and dropout of a training step in fused passes; 2×2 max pooling; forward and backward.

C in csrc/step/norm.c and csrc/step/between.c. Rows are images, or pixels of images; columns are units or channels.
Results are the same, bit for bit, on every instruction set and for every number of threads. A random number is a
function of the element's index and of a 64-bit key. Keys must be hashed: streams whose keys have the same upper
half hold the same numbers in another order. Needs the compiled library (`ternary.available`).
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.arrays import Floats
from kernels.cpu.runtime import call, fields, library, thread_count
from kernels.cpu.step.ternary import isa
from kernels.reference import ap2 as ap2

CHUNK = 64  # rows that are summed in float32, as in csrc/step/norm.c
ACTIVATIONS = (None, "sign", "stochastic_sign", "relu")


class _Norm(ctypes.Structure):
    _fields_ = [
        *fields("y kind rows cols shift activation masked mean factor beta noise_key dropout_key least"),
        *fields("signs floats grad average slope sums isa threads"),
        *[(name, ctypes.c_double) for name in ("scale", "kept")],
    ]


class _Fours(ctypes.Structure):
    _fields_ = fields("x kind images height width channels out which threads")


class Norm:
    """Batch norm, activation and dropout of arrays y (rows, cols), forward and backward.

    Forward: value = scale · y; a = (value - mean) · inverse · gamma + beta; the result is the activation of a,
    times dropout. With a sign the result is int8 -1, 0 or 1, and the caller applies the factor 1 / (1 - drop).
    Backward: with g the gradient of a and c = value - mean (with `shift` AP2(c)), the gradient of the values is
    (g - mean of g - c · curve · (sum over rows of c · g)) · inverse · gamma. Here the factor is applied to g.

    The caller sets `inverse` (cols,), which is 1 / std or the batch norm's own factor, and sets `curve` before
    `backward`.
    `masked`: the straight-through estimator passes gradients only where |a| <= 1. `drop`: the share of elements
    that dropout sets to 0.
    """

    def __init__(
        self, rows: int, cols: int, activation: str | None, *, shift: bool, masked: bool, drop: float = 0.0
    ) -> None:
        self.rows, self.cols, self.shift, self.drop = rows, cols, shift, drop
        self.signed = activation in ("sign", "stochastic_sign")
        self.mean, self.factor, self.average, self.slope = (np.zeros(cols, np.float32) for _ in range(4))
        self.inverse, self.curve = np.ones(cols, np.float32), np.zeros(cols)
        self._sum, self._product = np.zeros(cols), np.zeros(cols)
        self._parts = np.empty((-(-rows // CHUNK), 2, cols), np.float32)
        self._job = _Norm(
            rows=rows, cols=cols, shift=shift, activation=ACTIVATIONS.index(activation), masked=masked,
            mean=self.mean.ctypes.data, factor=self.factor.ctypes.data, average=self.average.ctypes.data,
            slope=self.slope.ctypes.data, sums=self._parts.ctypes.data, least=round(drop * 2**32),
            kept=1 / (1 - drop), isa=isa(), threads=thread_count(),
        )  # fmt: skip

    def statistics(self, y: NDArray[Any], scale: float) -> NDArray[np.float64]:
        """Sets `mean` (cols,) to the mean of the values; returns their biased variance, float64 (cols,).

        With `shift` it returns the mean of C · AP2(C), C = value - mean, instead.
        """
        self._given(y, scale)
        self._run("kernels_norm_mean", self._sum)
        self.mean[:] = self._sum / self.rows
        self._run("kernels_norm_square", self._sum)
        return self._sum / self.rows

    def forward(
        self,
        y: NDArray[Any],
        scale: float,
        gamma: Floats,
        beta: Floats,
        out: NDArray[Any],
        noise: int = 0,
        dropout: int = 0,
    ) -> None:
        """Writes the result to `out`, int8 with a sign, else float32 (rows, cols). `noise`, `dropout`: keys."""
        self._given(y, scale)
        self.factor[:] = self.inverse * gamma
        self._dense(out, np.int8 if self.signed else np.float32)
        job = self._job
        job.beta, job.noise_key, job.dropout_key = beta.ctypes.data, noise, dropout
        if self.signed:
            job.signs = out.ctypes.data
        else:
            job.floats = out.ctypes.data
        self._run("kernels_norm_forward")

    def backward(
        self, y: NDArray[Any], scale: float, beta: Floats, grad: Floats, dropout: int = 0
    ) -> tuple[Floats, Floats, Floats]:
        """Replaces `grad`, the gradient of the result, by that of the values, and returns the gradients of gamma,
        beta and a bias, float32 (cols,) each. Statistics and dropout key must be those of `forward`."""
        self._given(y, scale)
        self._dense(grad, np.float32)
        job = self._job
        job.beta, job.dropout_key, job.grad = beta.ctypes.data, dropout, grad.ctypes.data
        self._run("kernels_norm_back_sums", self._sum, self._product)
        to_gamma = (self._product * self.inverse).astype(np.float32)
        to_beta = self._sum.astype(np.float32)
        self.average[:] = self._sum / self.rows
        self.slope[:] = self._product * self.curve
        self._run("kernels_norm_back", self._sum)
        return to_gamma, to_beta, self._sum.astype(np.float32)

    def _given(self, y: NDArray[Any], scale: float) -> None:
        if y.size != self.rows * self.cols or y.dtype not in (np.int16, np.float32) or not y.flags.c_contiguous:
            raise ValueError(f"y must be dense int16 or float32 of {self.rows} by {self.cols}")
        self._job.y, self._job.kind, self._job.scale = y.ctypes.data, int(y.dtype == np.float32), scale

    def _dense(self, array: NDArray[Any], dtype: type[np.generic]) -> None:
        if array.size != self.rows * self.cols or array.dtype != dtype or not array.flags.c_contiguous:
            raise ValueError(f"need a dense {np.dtype(dtype)} array of {self.rows} by {self.cols}")

    def _run(self, name: str, *sums: NDArray[np.float64]) -> None:
        call(name, self._job, *(ctypes.c_void_p(array.ctypes.data) for array in sums))


def pool(x: NDArray[Any], out: NDArray[Any], which: NDArray[np.uint8]) -> None:
    """2×2 max pooling of x (N, H, W, C), int16 or float32, H and W even, into `out` (N, H/2, W/2, C).

    `which` is set to the index of the first largest of the four pixels in reading order. ValueError where shapes,
    dtypes or strides do not fit.
    """
    if x.dtype not in (np.int16, np.float32) or out.dtype != x.dtype:
        raise ValueError("x and out must be int16 or float32, both the same")
    _fours("kernels_pool", x, x.shape, out, out, which)


def unpool(grad: Floats, which: NDArray[np.uint8], out: Floats) -> None:
    """The backward pass of `pool`: gradients (N, H/2, W/2, C) at the pixels of `which` in `out`, else zeros."""
    if grad.dtype != np.float32 or out.dtype != np.float32:
        raise ValueError("gradients must be float32")
    _fours("kernels_unpool", grad, out.shape, grad, out, which)


def _fours(
    name: str,
    x: NDArray[Any],
    shape: tuple[int, ...],
    small: NDArray[Any],
    out: NDArray[Any],
    which: NDArray[np.uint8],
) -> None:
    images, height, width, channels = shape
    if small.shape != (images, height // 2, width // 2, channels) or height % 2 or width % 2:
        raise ValueError(f"{small.shape} is not {shape} pooled by two")
    if which.shape != small.shape or which.dtype != np.uint8:
        raise ValueError(f"which must be uint8 of shape {small.shape}")
    if not all(array.flags.c_contiguous for array in (x, out, which)):
        raise ValueError("arrays must be dense")
    job = _Fours(
        x=x.ctypes.data, kind=int(x.dtype == np.float32), images=images, height=height, width=width,
        channels=channels, out=out.ctypes.data, which=which.ctypes.data, threads=thread_count(),
    )  # fmt: skip
    call(name, job)


def numbers(key: int, start: int, count: int) -> NDArray[np.uint32]:
    """The 32-bit random numbers of elements `start` to `start` + `count`, as used by every pass."""
    found = np.empty(count, np.uint32)
    library().kernels_random(  # type: ignore[union-attr]
        ctypes.c_int64(isa()), ctypes.c_uint64(key), ctypes.c_uint32(start), ctypes.c_int64(count),
        ctypes.c_void_p(found.ctypes.data),
    )  # fmt: skip
    return found
