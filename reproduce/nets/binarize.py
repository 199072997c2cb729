"""Binarization and its straight-through gradients (paper, section 1: equations 1-4, Algorithm 1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def sign(x: Tensor) -> Tensor:
    """Deterministic binarization (equation 1): +1 where x >= 0 (so sign(0) = sign(-0.0) = +1), else -1.

    Any shape and floating dtype; the result has the same. NaN gives -1; training looks for NaN at each epoch's
    end, in loss, parameters and moving averages.
    """
    return torch.ge(x.detach(), 0, out=torch.empty_like(x)).mul_(2).sub_(1)  # 20× torch.where on a CPU


class _SignSTE(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, masked: bool, stochastic: bool) -> Tensor:
        ctx.masked = masked
        if masked:
            ctx.save_for_backward(x)
        if stochastic:  # (x + 1) / 2 >= U[0, 1), written for noise in [-1, 1)
            return torch.ge(x, torch.empty_like(x).uniform_(-1, 1), out=torch.empty_like(x)).mul_(2).sub_(1)
        return sign(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grads
        if ctx.masked:
            (x,) = ctx.saved_tensors
            edge = 1 + torch.finfo(x.dtype).eps  # hardtanh's own mask is open: |x| < edge is |x| <= 1
            grad = torch.ops.aten.hardtanh_backward(grad, x, -edge, edge)
        return grad, None, None


def sign_ste(x: Tensor, masked: bool = True) -> Tensor:
    """sign(x) forward; backward the straight-through estimator g_x = g · 1[|x| <= 1] (equation 4).

    `masked=False` drops the mask (g_x = g): the variant that the paper says does significantly worse.
    """
    out: Tensor = _SignSTE.apply(x, masked, False)
    return out


def stochastic_sign_ste(x: Tensor, masked: bool = True) -> Tensor:
    """+1 with probability clip((x + 1) / 2, 0, 1), else -1 (equations 2 and 3); same gradient as `sign_ste`.

    The noise comes from torch's global generator of x's device.
    """
    out: Tensor = _SignSTE.apply(x, masked, True)
    return out


def binarize_weight(w: Tensor) -> Tensor:
    """sign(w) forward; backward g_w = g, unmasked: latent weights are clipped to [-1, 1] (Algorithm 1)."""
    return sign_ste(w, masked=False)


# Adding this to the bits of a float carries into the exponent exactly where the mantissa is >= sqrt(2).
_AP2_CARRY = {
    torch.float32: (torch.int32, (1 << 23) - 0x3504F4, -1 << 23),
    torch.float64: (torch.int64, (1 << 52) - 0x6A09E667F3BCD, -1 << 52),
}


def ap2(x: Tensor) -> Tensor:
    """Approximate power of two, AP2(x) = sign(x) · 2^round(log2 |x|) (paper, section 1.3); AP2(±0) = ±0.

    Any shape, float32 or float64 (TypeError otherwise). Done on the bits, hence exact; magnitudes under the
    smallest normal number become that number or 0.
    """
    if x.dtype not in _AP2_CARRY:
        raise TypeError(f"ap2 takes float32 or float64, not {x.dtype}")
    integer, carry, mask = _AP2_CARRY[x.dtype]
    return (x.view(integer) + carry).bitwise_and_(mask).view(x.dtype)
