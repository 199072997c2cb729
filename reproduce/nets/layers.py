"""Layers of the paper's nets: linear and convolutional maps with ±1 weights, and the authors' batch norms.

A layer states the multiplier of its weights' learning rate (`lr_multiplier`: inverse Glorot); it is used by
`training.optim.optimizer`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from reproduce import spec
from reproduce.nets.binarize import ap2, binarize_weight
from reproduce.nets.products import binary_conv2d, binary_linear

Binarizer = Callable[[Tensor], Tensor]
"""A differentiable function: latent weights (out, …) -> the weights used in products, of the same shape."""


class BinaryLinear(nn.Linear):
    """y = x · Wbᵀ + b: x (N, in) -> y (N, out). Wb is sign(W) if `binary`, else binarize(W), else W itself.

    Set `signs_in` if every element of x is 0 or ± the same power of two: tensor cores multiply those exactly.
    """

    def __init__(self, n_in: int, n_out: int, binary: bool = True, binarize: Binarizer | None = None) -> None:
        super().__init__(n_in, n_out)
        self.binary, self.binarize, self.signs_in = binary, binarize, False
        self.fans = (n_in, n_out)

    def forward(self, x: Tensor) -> Tensor:
        if self.binary:
            return binary_linear(x, self.weight, self.bias, self.signs_in)
        weight = self.weight if self.binarize is None else self.binarize(self.weight)
        return F.linear(x, weight, self.bias)


class BinaryConv2d(nn.Conv2d):
    """3×3 convolution, stride 1: x (N, Cin, H, W) -> (N, Cout, H, W). Weights and `signs_in` as in BinaryLinear.

    `border`: the value of the padding of one pixel, 0 or 1. With 0 the inputs at a border are ternary.
    """

    def __init__(
        self, c_in: int, c_out: int, binary: bool = True, binarize: Binarizer | None = None, border: int = 0
    ) -> None:
        super().__init__(c_in, c_out, kernel_size=3, padding=1)
        self.binary, self.binarize, self.signs_in, self.border = binary, binarize, False, border
        self.fans = (9 * c_in, 9 * c_out)

    def forward(self, x: Tensor) -> Tensor:
        if self.border:
            weight = binarize_weight(self.weight) if self.binary else self.weight
            weight = weight if self.binarize is None else self.binarize(weight)
            return F.conv2d(F.pad(x, (1, 1, 1, 1), value=self.border), weight, self.bias)
        if self.binary:
            assert self.bias is not None
            return binary_conv2d(x, self.weight, self.bias, self.signs_in)
        weight = self.weight if self.binarize is None else self.binarize(self.weight)
        return F.conv2d(x, weight, self.bias, padding=1)


def dropout(x: Tensor, p: float) -> Tensor:
    """x with each element zeroed with probability p, the others divided by 1 - p; noise from torch's generator."""
    if x.device.type != "cpu":
        return F.dropout(x, p)
    keep = torch.empty_like(x).uniform_().ge_(p)  # four times as fast as bernoulli_ on a CPU
    return x * keep.mul_(1 / (1 - p))


def lr_multiplier(layer: BinaryLinear | BinaryConv2d) -> float:
    """Inverse Glorot coefficient sqrt((fan_in + fan_out) / 1.5); conv fans include the 3×3 (paper, Alg. 1)."""
    return math.sqrt(sum(layer.fans) / 1.5)


class Norm(nn.Module):
    """Base class of the batch norms: learned gamma and beta, moving averages of the mean and of a spread.

    Parameters `weight` (gamma) and `bias` (beta), buffers `mean` and the one named `spread`: all float32 (n,).
    """

    spread = "inv_std"
    """Name of the buffer with the moving average of the spread: 1/std, or the std itself."""
    mean: Tensor

    def __init__(self, n: int, eps: float, alpha: float, start: float) -> None:
        super().__init__()
        self.eps, self.alpha = eps, alpha
        self.weight = nn.Parameter(torch.ones(n))
        self.bias = nn.Parameter(torch.zeros(n))
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer(self.spread, torch.full((n,), start))

    @torch.no_grad()
    def _track(self, mean: Tensor, spread: Tensor) -> None:
        self.mean.lerp_(mean, self.alpha)
        self.get_buffer(self.spread).lerp_(spread, self.alpha)

    def _evaluate(self, x: Tensor, scale: Tensor) -> Tensor:
        shape = (-1, *[1] * (x.dim() - 2))
        return (x - self.mean.view(shape)) * scale.view(shape) + self.bias.view(shape)


@spec.NORMS.add("vanilla")
class BatchNorm(Norm):
    """Vanilla batch normalization as in Lasagne: y = (x - mean) · (gamma / sqrt(var + eps)) + beta.

    x (N, C) or (N, C, H, W). Training uses the batch's mean and biased variance; evaluation the moving averages
    (weight `alpha` for the new batch) of the mean and of 1/sqrt(var + eps), *not* of the variance.
    """

    inv_std: Tensor

    def __init__(self, n: int, eps: float = 1e-4, alpha: float = 0.1) -> None:
        super().__init__(n, eps, alpha, start=1.0)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            y, mean, inv_std = torch.native_batch_norm(x, self.weight, self.bias, None, None, True, 0.0, self.eps)
            self._track(mean, inv_std)
            return y
        return self._evaluate(x, self.inv_std * self.weight)


class _StdNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        shape = (-1, *[1] * (x.dim() - 2))
        var, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0)
        std = var.sqrt()
        centred = x - mean.view(shape)
        ctx.save_for_backward(centred, std, weight)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, std)
        y = torch.addcmul(bias.view(shape), centred, (weight / (std + eps)).view(shape))
        return y, mean, std

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        grad = grads[0]
        centred, std, weight = ctx.saved_tensors
        dims = [0, *range(2, grad.dim())]
        shape = (-1, *[1] * (grad.dim() - 2))
        count = grad.numel() // len(weight)
        inverse = 1 / (std + ctx.eps)
        total = grad.sum(dims)
        grad_weight = (centred * grad).sum(dims) * inverse
        slope = torch.where(
            std > 0, grad_weight / (count * std), 0.0
        )  # where the std is 0, so are all of `centred`
        grad_x = torch.addcmul(grad, centred, -slope.view(shape))
        grad_x.sub_((total / count).view(shape)).mul_((inverse * weight).view(shape))
        return grad_x, grad_weight, total, None


@spec.NORMS.add("std")
class StdBatchNorm(Norm):
    """Batch normalization with eps added to the std: y = (x - mean) · gamma / (std + eps) + beta.

    x (N, C) or (N, C, H, W). Training uses the batch's mean and std = sqrt(biased variance); evaluation their
    moving averages (weight `alpha` for the new batch): that of the std, *not* of its inverse, and eps is added to
    it. Source: MatthieuCourbariaux/BinaryConnect, batch_norm.py at 2f97a8f.
    """

    spread = "std"
    std: Tensor

    def __init__(self, n: int, eps: float = 1e-4, alpha: float = 0.1) -> None:
        super().__init__(n, eps, alpha, start=1.0)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            y, mean, std = _StdNorm.apply(x, self.weight, self.bias, self.eps)
            self._track(mean, std)
            out: Tensor = y
            return out
        return self._evaluate(x, self.weight / (self.std + self.eps))


class _ShiftNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        dims = [0, *range(2, x.dim())]
        shape = (-1, *[1] * (x.dim() - 2))
        mean = x.mean(dims)
        centred = x - mean.view(shape)
        centred2 = ap2(centred)
        inv_std = (centred * centred2).mean(dims).add(eps).rsqrt()
        inv_std2, weight2 = ap2(inv_std), ap2(weight)
        ctx.save_for_backward(centred2, inv_std2, weight2)
        ctx.mark_non_differentiable(mean, inv_std)
        y = torch.addcmul(bias.view(shape), centred, (inv_std2 * weight2).view(shape))
        return y, mean, inv_std

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        grad = grads[0]
        centred2, inv_std2, weight2 = ctx.saved_tensors
        dims = [0, *range(2, grad.dim())]
        shape = (-1, *[1] * (grad.dim() - 2))
        count = grad.numel() // len(weight2)
        total = grad.sum(dims)
        # AP2 of the normalized x is AP2(C) times a power of two: both gradients use one sum
        grad_weight = (centred2 * grad).sum(dims) * inv_std2
        grad_x = torch.addcmul(grad, centred2, (-grad_weight * inv_std2 / count).view(shape))
        grad_x.sub_((total / count).view(shape)).mul_((inv_std2 * weight2).view(shape))
        return grad_x, grad_weight, total, None


@spec.NORMS.add("shift")
class ShiftBatchNorm(Norm):
    """Shift-based batch normalization: y = AP2(gamma) · C · AP2(1/sqrt(mean(C · AP2(C)) + eps)) + beta.

    C = x - mean(x); x (N, C) or (N, C, H, W). Beta is added although the printed algorithm omits it. Backward
    replaces C, 1/std and gamma by their AP2 (and the normalized x by its own in gamma's gradient), as the Torch7
    code does; evaluation uses the moving mean and AP2 of the moving 1/std (both start from 0; in
    Torch7 the 1/std of a dense layer starts from 1, of which no trace is left after an epoch).
    """

    inv_std: Tensor

    def __init__(self, n: int, eps: float = 1e-5, alpha: float = 0.125) -> None:
        super().__init__(n, eps, alpha, start=0.0)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            y, mean, inv_std = _ShiftNorm.apply(x, self.weight, self.bias, self.eps)
            self._track(mean, inv_std)
            out: Tensor = y
            return out
        return self._evaluate(x, ap2(self.inv_std) * ap2(self.weight))
