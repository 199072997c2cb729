"""Layers with binary weights for autograd: the product with sign(W) and its gradients (paper, Algorithm 1).

In the mode fixed16 (`mode`) a step on a CPU does not use them: `training.engine` makes it.

On a CPU with AVX-512 the three products of a layer (forward, through the weights, onto the weights) have a ±1
operand and go through `kernels`, in float32: ±1 by ±1 by XNOR and popcount, real by ±1 through tables. On other
CPUs and in float64 they are torch's.

On a GPU they go through `tensorcores`.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

import kernels
from kernels import cpu, reals
from kernels.cpu import build
from kernels.cpu.step import ternary
from kernels.environment import VariableError, variable
from reproduce.nets import tensorcores, ways
from reproduce.nets.binarize import binarize_weight


def by_kernels(x: Tensor) -> bool:
    """Whether products of x with binary weights go through `kernels.reals`: float32, where it has tables."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and reals.available()


def mode(device: str = "cpu") -> str:
    """How the products of a run on this kind of device are computed: a name that is part of the run's identity.

    On a CPU it is one of the following. $REPRODUCE_PRODUCTS chooses between fixed16, the default with compiled
    kernels, and float32, which is tables or torch. Raises VariableError for other values.
    fixed16: steps by `training.engine`. Real operands of products with ±1 are rounded to 16-bit fixed point, with
    a scale for each row and block of 128 numbers of the summed axis.
    tables: steps by autograd in float32; products with ±1 by `kernels.reals`.
    torch: steps by autograd in float32; all products by torch.
    On a GPU it is "tensor cores", followed by the parts that are left out ($REPRODUCE_WITHOUT).
    """
    if device == "cuda":
        return " without ".join(["tensor cores", *filter(None, [", ".join(ways.left_out())])])
    able = ternary.available()
    chosen = variable("REPRODUCE_PRODUCTS") or ("fixed16" if able else "float32")
    if chosen not in ("fixed16", "float32"):
        raise VariableError(f"REPRODUCE_PRODUCTS is fixed16 or float32, not {chosen!r}")
    if chosen == "float32":
        return by_autograd()
    if not able:
        raise VariableError("REPRODUCE_PRODUCTS=fixed16 needs compiled kernels")
    return chosen


def by_autograd() -> str:
    """The mode of steps on a CPU that go through autograd."""
    return "tables" if reals.available() else "torch"


def fallback() -> str | None:
    """One line that says why there are no compiled kernels; None if there are, or if $REPRODUCE_PRODUCTS is set.

    Raises VariableError if its value is invalid.
    """
    mode()
    library = cpu.library()
    if variable("REPRODUCE_PRODUCTS") or not isinstance(library, build.BuildError):
        return None
    return f"no compiled kernels: {str(library).splitlines()[0]}"


def binary_linear(x: Tensor, weight: Tensor, bias: Tensor, signs_in: bool) -> Tensor:
    """x (N, in) · sign(weight)ᵀ + bias for a latent weight (out, in): (N, out); g_W is passed to W unmasked.

    `signs_in`: whether every element of x is 0 or ± the same power of two.
    """
    out: Tensor
    if by_kernels(x):
        out = _Linear.apply(x, weight, bias)
    elif tensorcores.serves(x):
        out = tensorcores.linear(x, weight, bias, signs_in)
    else:
        out = F.linear(x, binarize_weight(weight), bias)
    return out


def binary_conv2d(x: Tensor, weight: Tensor, bias: Tensor, signs_in: bool) -> Tensor:
    """3×3 convolution of x (N, Cin, H, W) with sign(weight), a border of zeros: (N, Cout, H, W)."""
    out: Tensor
    if by_kernels(x):
        out = _Conv.apply(x, weight, bias)
    elif tensorcores.serves(x):
        out = tensorcores.conv2d(x, weight, bias, signs_in)
    else:
        out = F.conv2d(x, binarize_weight(weight), bias, padding=1)
    return out


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        y = _room((len(x), len(weight)), ctx)
        reals.real_matmul(x.numpy(), reals.signs(weight.numpy(), transposed=True), out=y.numpy())
        return y.add_(bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad = grads[0].numpy()
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = _room(x.shape, ctx)
            reals.real_matmul(grad, reals.signs(weight.numpy()), out=to_x.numpy())
        values = x.numpy()
        found = reals.ternary(values)
        if found is None:
            to_weight = grads[0].T @ x
        else:
            s, zeros = found
            above = reals.signs(values, strict=True) if zeros else None
            scale = s / 2 if zeros else s
            to_weight = _room(weight.shape, ctx)
            reals.real_matmul(grad.T, reals.signs(values), above, scale, out=to_weight.numpy())
        return to_x, to_weight, grads[0].sum(0)


class _Conv(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        pixels, taps = _nhwc(x), _nhwc(weight)
        found = reals.ternary(pixels)
        if found == (1.0, False):
            dots = kernels.xnor_conv2d(kernels.pack(pixels), kernels.pack(taps), padding=1)
            y = _room(dots.shape, ctx)
            torch.add(torch.from_numpy(dots), bias, out=y)
        else:
            y = _room((*pixels.shape[:3], len(taps)), ctx)
            reals.real_conv2d(pixels, reals.signs(_by_tap(taps), transposed=True), out=y.numpy())
            y += bias
        return y.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad, pixels = _nhwc(grads[0]), _nhwc(x)
        to_x = None
        if ctx.needs_input_grad[0]:  # a convolution with the order of the taps reversed
            signs = reals.signs(_by_tap(_nhwc(weight))[::-1])
            room = _room(pixels.shape, ctx)
            reals.real_conv2d(grad, signs, out=room.numpy())
            to_x = room.permute(0, 3, 1, 2)
        images, height, width, channels = pixels.shape
        found = reals.ternary(pixels)
        if found is None or found[1] or width > reals.MAX_WIDTH:
            to_weight = conv2d_weight(x, weight.shape, grads[0], padding=1)
        else:
            signs = reals.signs(pixels.reshape(images * height, width, channels))
            room = _room((len(weight), 3, 3, channels), ctx)
            reals.conv_gradient(grad, signs, out=room.numpy())
            to_weight = room.mul_(found[0]).permute(0, 3, 1, 2)
        return to_x, to_weight, torch.from_numpy(grad).sum((0, 1, 2))


_free: dict[int, list[NDArray[np.uint8]]] = {}


def _room(shape: Sequence[int], ctx: Any) -> Tensor:
    """An uninitialised float32 tensor. In training its memory is reused once its last view is gone.

    New memory of this size would cost half as much time as the product: the system maps it page by page.
    """
    if not ctx.needs_input_grad[1]:
        return torch.empty(*shape)
    count = math.prod(shape)
    store = _free.setdefault(count, [])
    memory = store.pop() if store else np.empty(4 * count + 63, np.uint8)
    start = -memory.ctypes.data % 64
    lent = memory[start : start + 4 * count].view(np.float32).reshape(shape)
    weakref.finalize(lent, store.append, memory)  # torch keeps `lent` itself for as long as the storage lives
    return torch.from_numpy(lent)


def _nhwc(x: Tensor) -> reals.Floats:
    """x (A, B, H, W) as a dense array (A, H, W, B): a view where it is channels-last."""
    return np.ascontiguousarray(x.permute(0, 2, 3, 1).numpy())


def _by_tap(weight: reals.Floats) -> reals.Floats:
    """A view (9, Cout, Cin) of (Cout, 3, 3, Cin)."""
    return weight.reshape(len(weight), 9, -1).swapaxes(0, 1)
