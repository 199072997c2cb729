"""The paper's update rules: Adam as Lasagne has it, shift-based AdaMax, clipping, learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from reproduce import spec
from reproduce.binarize import ap2
from reproduce.layers import BatchNorm, BinaryConv2d, BinaryLinear, ShiftBatchNorm, lr_multiplier


class Adam(torch.optim.Adam):
    """torch's fused Adam with the constants applied where Lasagne applies them (TH, section 3.1 of the facts).

    update = lr · sqrt(1 - b2^t) / (1 - b1^t) · m / (sqrt(v) + eps): eps is added *before* the bias correction,
    so torch's eps has to be eps / sqrt(1 - b2^t) at step t. A group's `multiplier` scales its rate.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], beta1: float, beta2: float, eps: float) -> None:
        self._eps, self._beta2 = eps, beta2
        super().__init__(groups, lr=0.0, betas=(beta1, beta2), eps=eps, fused=True)

    def set_rate(self, rate: float) -> None:
        """The common rate; it multiplies the *update*, so Adam's normalisation does not cancel a multiplier."""
        for group in self.param_groups:
            group["lr"] = rate * group["multiplier"]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        for group in self.param_groups:
            group["t"] = group.get("t", 0) + 1
            group["eps"] = self._eps / math.sqrt(1 - self._beta2 ** group["t"])
        super().step(closure)
        return None


class ShiftAdaMax(torch.optim.Optimizer):
    """Shift-based AdaMax (paper, section 1.3's algorithm) with the Torch7 code's details.

    m = b1 m + (1 - b1) g;  v = AP2(max(b2 v, |g|)) + eps;  w -= AP2(lr / (1 - b1^t)) · multiplier · m / v.
    m is not rounded. A group's `multiplier` is its layer's factor.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], beta1: float, beta2: float, eps: float) -> None:
        super().__init__(groups, {"lr": 0.0, "multiplier": 1.0, "beta1": beta1, "beta2": beta2, "eps": eps})

    def set_rate(self, rate: float) -> None:
        """The common rate, before its rounding and the layers' multipliers."""
        for group in self.param_groups:
            group["lr"] = rate

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        for group in self.param_groups:
            group["t"] = t = group.get("t", 0) + 1
            beta1, beta2 = group["beta1"], group["beta2"]
            rate = 2.0 ** round(math.log2(group["lr"] / (1 - beta1**t))) * group["multiplier"]
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["m"], state["v"] = torch.zeros_like(p), torch.zeros_like(p)
                m, v = state["m"], state["v"]
                m.lerp_(p.grad, 1 - beta1)
                torch.maximum(v.mul_(beta2), p.grad.abs(), out=v)
                v.copy_(ap2(v)).add_(group["eps"])
                p.addcdiv_(m, v, value=-rate)
        return None


@torch.no_grad()
def clip_(params: list[Tensor]) -> None:
    """Clip latent parameters to [-1, 1], in place, after an update (Algorithm 1)."""
    if params:
        torch._foreach_clamp_min_(params, -1.0)
        torch._foreach_clamp_max_(params, 1.0)


def exponential_lr(start: float, end: float, epochs: int, epoch: int) -> float:
    """Rate during `epoch` (from 0): start · (end/start)^(epoch/epochs), multiplied once per epoch."""
    return float(start * (end / start) ** (epoch / epochs))


def halving_lr(start: float, every: int, epoch: int) -> float:
    """Rate during `epoch` (from 0): shifted right by one bit each `every` epochs."""
    return float(start * 0.5 ** (epoch // every))


def rate(rule: spec.ExponentialRate | spec.HalvingRate, epochs: int, epoch: int) -> float:
    """The common learning rate during `epoch` (from 0) of `epochs`."""
    if rule.kind == "exponential":
        return exponential_lr(rule.start, rule.end, epochs, epoch)
    return halving_lr(rule.start, rule.every, epoch)


def optimizer(net: nn.Module, train: spec.Train) -> tuple[Adam | ShiftAdaMax, list[Tensor]]:
    """The optimizer, its groups by multiplier, and the parameters to clip after each step."""
    groups: dict[float, list[Tensor]] = {}
    clipped: list[Tensor] = []

    def add(parameter: Tensor, multiplier: float, clip: bool) -> None:
        groups.setdefault(multiplier, []).append(parameter)
        if clip:
            clipped.append(parameter)

    for module in net.modules():
        if isinstance(module, BinaryLinear | BinaryConv2d):
            factor = lr_multiplier(module) if train.weight_rate != "plain" else 1.0
            if train.weight_rate == "glorot_power_of_2":
                factor = 2.0 ** round(math.log2(factor))
            add(module.weight, factor, train.clip != "none")
            assert module.bias is not None
            add(module.bias, factor if train.bias_rate == "as_weight" else 1.0, train.clip == "all")
        elif isinstance(module, BatchNorm | ShiftBatchNorm):
            shift = isinstance(module, ShiftBatchNorm) and train.norm_rate == "glorot_gamma"
            add(module.weight, math.sqrt(len(module.weight) / 1.5) if shift else 1.0, train.clip == "all")
            add(module.bias, 1.0, train.clip == "all")
    listed = [{"params": params, "multiplier": factor} for factor, params in groups.items()]
    rule = train.optimizer
    kind = Adam if rule.kind == "adam" else ShiftAdaMax
    return kind(listed, rule.beta1, rule.beta2, rule.eps), clipped
