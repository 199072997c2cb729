"""The paper's update rules: Adam as Lasagne has it, shift-based AdaMax, clipping, learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from kernels import reals, updates
from reproduce import spec
from reproduce.binarize import ap2
from reproduce.layers import BatchNorm, BinaryConv2d, BinaryLinear, ShiftBatchNorm, lr_multiplier
from reproduce.products import by_kernels


class Adam(torch.optim.Adam):
    """torch's fused Adam with the constants applied where Lasagne's `updates.adam` applies them, and clipping.

    update = lr · sqrt(1 - b2^t) / (1 - b1^t) · m / (sqrt(v) + eps): eps is added *before* the bias correction,
    so torch's eps has to be eps / sqrt(1 - b2^t) at step t. A group's `multiplier` scales its rate; where
    `clip` is set, its parameters end within [-1, 1] (Algorithm 1).
    """

    def __init__(self, groups: Iterable[dict[str, Any]], beta1: float, beta2: float, eps: float) -> None:
        self._eps, self._beta2 = eps, beta2
        super().__init__(groups, lr=0.0, betas=(beta1, beta2), eps=eps, fused=True)

    def set_rate(self, rate: float) -> None:
        """The common rate; it multiplies the *update*, so Adam's normalisation does not cancel a multiplier."""
        for group in self.param_groups:
            group["lr"] = rate * group["multiplier"]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        for group in self.param_groups:
            group["t"] = group.get("t", 0) + 1
            group["eps"] = self._eps / math.sqrt(1 - self._beta2 ** group["t"])
        if not all(_one_pass(p) for group in self.param_groups for p in group["params"]):
            super().step(closure)
            _clip(self.param_groups)
            return None
        for group in self.param_groups:
            (beta1, beta2), t = group["betas"], group["t"]
            rate = group["lr"] * math.sqrt(1 - beta2**t) / (1 - beta1**t)
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["step"] = torch.zeros(())
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
                state["step"] += 1
                arrays = _dense(p, state["exp_avg"], state["exp_avg_sq"], p.grad)
                bound = 1.0 if group.get("clip") else math.inf
                updates.adam(*arrays, rate=rate, beta1=beta1, beta2=beta2, eps=self._eps, bound=bound)
        return None


class ShiftAdaMax(torch.optim.Optimizer):
    """Shift-based AdaMax (paper, section 1.3's algorithm) with the Torch7 code's details, and clipping.

    m = b1 m + (1 - b1) g;  v = AP2(max(b2 v, |g|)) + eps;  w -= AP2(lr / (1 - b1^t)) · multiplier · m / v.
    m is not rounded. A group's `multiplier` is its layer's factor; where `clip` is set, its parameters end within
    [-1, 1].
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
            beta1, beta2, eps = group["beta1"], group["beta2"], group["eps"]
            rate = 2.0 ** round(math.log2(group["lr"] / (1 - beta1**t))) * group["multiplier"]
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["m"], state["v"] = torch.zeros_like(p), torch.zeros_like(p)
                m, v = state["m"], state["v"]
                if _one_pass(p):
                    bound = 1.0 if group.get("clip") else math.inf
                    arrays = _dense(p, m, v, p.grad)
                    updates.shift_adamax(*arrays, rate=rate, beta1=beta1, beta2=beta2, eps=eps, bound=bound)
                    continue
                m.lerp_(p.grad, 1 - beta1)
                torch.maximum(v.mul_(beta2), p.grad.abs(), out=v)
                v.copy_(ap2(v)).add_(eps)
                p.addcdiv_(m, v, value=-rate)
                if group.get("clip"):
                    p.clamp_(-1, 1)
        return None


def _one_pass(p: Tensor) -> bool:
    """Whether a parameter's update is done by `kernels.updates`: one pass over memory, clipping included."""
    return by_kernels(p) and p.grad is not None and p.grad.stride() == p.stride()


def _dense(*tensors: Tensor) -> list[reals.Floats]:
    """Tensors of equal, dense strides as flat arrays in the order of their memory."""
    return [torch.as_strided(t.detach(), (t.numel(),), (1,)).numpy() for t in tensors]


def _clip(groups: list[dict[str, Any]]) -> None:
    """Clip latent parameters of the groups that say so to [-1, 1], in place, after an update (Algorithm 1)."""
    params = [p for group in groups if group.get("clip") for p in group["params"]]
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


def optimizer(net: nn.Module, train: spec.Train) -> Adam | ShiftAdaMax:
    """The optimizer; its groups are by `multiplier` (of the rate) and `clip` (to [-1, 1] after each step)."""
    groups: dict[tuple[float, bool], list[Tensor]] = {}

    def add(parameter: Tensor, multiplier: float, clip: bool) -> None:
        groups.setdefault((multiplier, clip), []).append(parameter)

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
    listed = [{"params": params, "multiplier": factor, "clip": clip} for (factor, clip), params in groups.items()]
    rule = train.optimizer
    kind = Adam if rule.kind == "adam" else ShiftAdaMax
    return kind(listed, rule.beta1, rule.beta2, rule.eps)
