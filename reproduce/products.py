"""What a layer with binary weights computes: the product with sign(W) and its gradients (paper, Algorithm 1).

On a CPU with AVX-512 the three products of a layer (forward, through the weights, onto the weights) have a ±1
operand and go through `kernels`, in float32: ±1 by ±1 by XNOR and popcount, real by ±1 through tables. All else,
and $REPRODUCE_PRODUCTS=torch, is torch's. Either way the mathematics is the same; sums differ in their order only,
and products of ±1 by ±1 (or 0, ±2 behind dropout) are integers and exact.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

import kernels
from kernels import reals
from reproduce.binarize import binarize_weight


def by_kernels(x: Tensor) -> bool:
    """Whether products of x with binary weights go through `kernels`: float32, on a CPU that has the tables."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or not reals.available():
        return False
    chosen = os.environ.get("REPRODUCE_PRODUCTS", "kernels")
    if chosen not in ("kernels", "torch"):
        raise ValueError(f"REPRODUCE_PRODUCTS is kernels or torch, not {chosen!r}")
    return chosen == "kernels"


def binary_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (N, in) · sign(weight)ᵀ + bias for a latent weight (out, in): (N, out); g_W is passed to W unmasked."""
    if by_kernels(x):
        out: Tensor = _Linear.apply(x, weight, bias)
        return out
    return F.linear(x, binarize_weight(weight), bias)


def binary_conv2d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """3×3 convolution of x (N, Cin, H, W) with sign(weight), a border of zeros: (N, Cout, H, W)."""
    if by_kernels(x):
        out: Tensor = _Conv.apply(x, weight, bias)
        return out
    return F.conv2d(x, binarize_weight(weight), bias, padding=1)


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        y = reals.real_matmul(x.numpy(), reals.signs(weight.numpy(), transposed=True))
        return torch.from_numpy(y).add_(bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad = grads[0].numpy()
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = torch.from_numpy(reals.real_matmul(grad, reals.signs(weight.numpy())))
        values = x.numpy()
        found = reals.ternary(values)
        if found is None:
            to_weight = grads[0].T @ x
        else:
            s, zeros = found
            above = reals.signs(values, strict=True) if zeros else None
            scale = s / 2 if zeros else s
            to_weight = torch.from_numpy(reals.real_matmul(grad.T, reals.signs(values), above, scale))
        return to_x, to_weight, grads[0].sum(0)


class _Conv(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        pixels, taps = _nhwc(x), _nhwc(weight)
        found = reals.ternary(pixels)
        if found == (1.0, False):
            y = torch.from_numpy(kernels.xnor_conv2d(kernels.pack(pixels), kernels.pack(taps), padding=1))
            return (y + bias).permute(0, 3, 1, 2)
        signs = reals.signs(_by_tap(taps), transposed=True)
        return torch.from_numpy(reals.real_conv2d(pixels, signs)).add_(bias).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad, pixels = _nhwc(grads[0]), _nhwc(x)
        to_x = None
        if ctx.needs_input_grad[0]:  # a convolution with the taps turned round
            signs = reals.signs(_by_tap(_nhwc(weight))[::-1])
            to_x = torch.from_numpy(reals.real_conv2d(grad, signs)).permute(0, 3, 1, 2)
        images, height, width, channels = pixels.shape
        found = reals.ternary(pixels)
        if found is None or found[1] or width > reals.MAX_WIDTH:
            to_weight = conv2d_weight(x, weight.shape, grads[0], padding=1)
        else:
            signs = reals.signs(pixels.reshape(images * height, width, channels))
            to_weight = torch.from_numpy(reals.conv_gradient(grad, signs)).mul_(found[0]).permute(0, 3, 1, 2)
        return to_x, to_weight, torch.from_numpy(grad).sum((0, 1, 2))


def _nhwc(x: Tensor) -> reals.Floats:
    """x (A, B, H, W) as a dense array (A, H, W, B): a view where it is channels-last."""
    return np.ascontiguousarray(x.permute(0, 2, 3, 1).numpy())


def _by_tap(weight: reals.Floats) -> reals.Floats:
    """A view (9, Cout, Cin) of (Cout, 3, 3, Cin)."""
    return weight.reshape(len(weight), 9, -1).swapaxes(0, 1)
