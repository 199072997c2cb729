"""The update rules: Adam as in Lasagne, shift-based AdaMax, plain SGD; clipping, learning-rate schedules.

`optimizer` gives each parameter its multiplier of the rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

import kernels
from kernels import reals, updates
from kernels.cuda import launch
from kernels.cuda import updates as cuda_updates
from reproduce import spec
from reproduce.nets import tensorcores, ways
from reproduce.nets.binarize import ap2
from reproduce.nets.layers import BinaryConv2d, BinaryLinear, Norm, lr_multiplier
from reproduce.nets.products import by_kernels

Groups = list[dict[str, Any]]


class Rule(torch.optim.Optimizer):
    """Base class of the update rules.

    A group's `multiplier` scales the rate of its parameters: it multiplies the *update*, so that Adam's
    normalisation does not cancel it. With `clip` a step ends by clipping the parameters to [-1, 1] (Algorithm 1).
    Rate and number of steps are tensors on the parameters' device, so that a CUDA graph can record a step.
    """

    kernel: Literal["adam", "shift_adamax", "sgd"] | None = None
    """The rule's kind in `kernels.Rule`; None: no kernel has this rule, `formula` makes every update."""
    binary: frozenset[Tensor] = frozenset()
    """The latent weights of the net's binary layers."""

    def __init_subclass__(cls, **rest: Any) -> None:
        """A rule with a formula or a step size of its own is not that of the kernel which it inherits."""
        super().__init_subclass__(**rest)
        if "kernel" not in vars(cls) and {"formula", "scaled"} & vars(cls).keys():
            cls.kernel = None

    def __init__(self, groups: Iterable[dict[str, Any]], beta1: float, beta2: float, eps: float) -> None:
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        super().__init__(groups, {"multiplier": 1.0, "clip": False})
        self._common = 0.0
        self._rate: Tensor | None = None

    def set_rate(self, rate: float) -> None:
        """Set the common learning rate of the following steps."""
        self._common = rate
        if self._rate is not None:
            self._rate.fill_(rate)

    def scaled(self, rate: Tensor, t: Tensor) -> Tensor:
        """The step size at step t (from 1): the rate, in some rules with a bias correction; float64 scalars."""
        return rate

    def formula(self, p: Tensor, m: Tensor, v: Tensor, rate: Tensor) -> None:
        """Update one parameter with torch's operations, without clipping. `rate`: step size times multiplier."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        clock, rate = self._count()
        if left := self._together(clock, rate):
            scaled = self.scaled(rate, clock)
            for group, params in left:
                for p in params:
                    self._update(p, scaled * group["multiplier"], _bound(group))
        return None

    def advance(self) -> Tensor:
        """Count a step; returns its step size (`scaled`), a float64 scalar."""
        clock, rate = self._count()
        return self.scaled(rate, clock)

    def moments(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """The moments m and v of a parameter, with its shape and strides; zeros before its first step."""
        state = self.state[p]
        for name in ("m", "v"):
            if name not in state:
                state[name] = torch.zeros_like(p)
            elif state[name].stride() != p.stride():
                state[name] = torch.empty_like(p).copy_(state[name])
        return state["m"], state["v"]

    def _count(self) -> tuple[Tensor, Tensor]:
        """Count a step; returns the number of steps and the common rate, float64 scalars with fixed addresses.

        The number is stored in the state of the first parameter, so that checkpoints contain it.
        """
        first = self.param_groups[0]["params"][0]
        state = self.state[first]
        if "t" not in state:
            state["t"] = torch.zeros((), dtype=torch.float64, device=first.device)
        if self._rate is None or self._rate.device != first.device:
            self._rate = torch.full((), self._common, dtype=torch.float64, device=first.device)
        state["t"] = clock = state["t"].double()  # torch loads a checkpoint's in the type of the parameter
        clock += 1
        return clock, self._rate

    def _together(self, clock: Tensor, rate: Tensor) -> list[tuple[dict[str, Any], list[Tensor]]]:
        """Update all parameters that the CUDA kernel takes, in one launch; returns the others, by group."""
        entry = f"update_{self.kernel}"
        parts, left = [], []
        for group in self.param_groups:
            others = []
            for p in group["params"]:
                part = self._part(p, group) if entry in cuda_updates.ENTRIES and on_gpu(p) else None
                if part is None:
                    others.append(p)
                else:
                    parts.append(part)
            left += [(group, others)] if others else []
        if parts:
            stream = torch.cuda.current_stream(clock.device).cuda_stream if clock.is_cuda else 0
            cuda_updates.update(
                entry, parts, clock=clock.data_ptr(), rate=rate.data_ptr(), beta1=self.beta1, beta2=self.beta2,
                eps=self.eps, stream=stream,
            )  # fmt: skip
        return left

    def _part(self, p: Tensor, group: dict[str, Any]) -> cuda_updates.Part | None:
        """A parameter as the CUDA kernels take it; None if the strides of its arrays differ."""
        m, v = self.moments(p)
        assert p.grad is not None
        if any(x.stride() != p.stride() for x in (m, v, p.grad)):
            return None
        signs = tensorcores.follow(p)
        at_w, at_m, at_v, at_g = (x.data_ptr() for x in (p, m, v, p.grad))
        at_signs = 0 if signs is None else signs.data_ptr()
        factor, one = group["multiplier"], tensorcores.one(signs)
        return cuda_updates.Part(at_w, at_m, at_v, at_g, p.numel(), factor, _bound(group), at_signs, one)

    def _update(self, p: Tensor, rate: Tensor, bound: float) -> None:
        g = p.grad
        assert g is not None
        m, v = self.moments(p)
        constants = {"beta1": self.beta1, "beta2": self.beta2, "eps": self.eps, "bound": bound}
        same = g.stride() == p.stride() == m.stride() == v.stride()
        if same and self.kernel and by_kernels(p):
            step = kernels.Rule(self.kernel, rate=float(rate), **constants)
            updates.update(step, *map(_flat, (p, m, v, g)))
        else:
            self.formula(p, m, v, rate)
            if bound < math.inf:
                p.clamp_(-bound, bound)


class Adam(Rule):
    """m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g²;  w -= r · m / (sqrt(v) + eps).

    r = lr · sqrt(1 - b2^t) / (1 - b1^t). As in Lasagne's `updates.adam`, eps is added *before* the bias
    correction.
    """

    kernel = "adam"

    def scaled(self, rate: Tensor, t: Tensor) -> Tensor:
        return rate * (1 - self.beta2**t).sqrt() / (1 - self.beta1**t)

    def formula(self, p: Tensor, m: Tensor, v: Tensor, rate: Tensor) -> None:
        assert p.grad is not None
        m.lerp_(p.grad, 1 - self.beta1)
        v.mul_(self.beta2).addcmul_(p.grad, p.grad, value=1 - self.beta2)
        p.sub_((m / v.sqrt().add_(self.eps)).mul_(rate))


class ShiftAdaMax(Rule):
    """Shift-based AdaMax (paper, section 1.3's algorithm) with the Torch7 code's details.

    m = b1 m + (1 - b1) g;  v = AP2(max(b2 v, |g|)) + eps;  w -= AP2(lr / (1 - b1^t)) · multiplier · m / v.
    m is not rounded. With b2 = 0.999 v never falls: it is a power of two, and AP2(0.999 · 2^k) = 2^k. So b2 has no
    effect, and v is AP2 of the largest |g| so far, as in the Torch7 code. In the printed rule v decays.
    """

    kernel: Literal["shift_adamax"] | None = "shift_adamax"

    def scaled(self, rate: Tensor, t: Tensor) -> Tensor:
        return ap2(rate / (1 - self.beta1**t))

    def formula(self, p: Tensor, m: Tensor, v: Tensor, rate: Tensor) -> None:
        assert p.grad is not None
        m.lerp_(p.grad, 1 - self.beta1)
        torch.maximum(v.mul_(self.beta2), p.grad.abs(), out=v)
        v.copy_(ap2(v)).add_(self.eps)
        p.sub_((m / v).mul_(rate))


class DecayingShiftAdaMax(ShiftAdaMax):
    """Shift-based AdaMax as the paper prints it: v itself is not rounded, so it decays.

    m = b1 m + (1 - b1) g;  v = max(b2 v, |g|);  w -= AP2(lr / (1 - b1^t)) · multiplier · m / (AP2(v) + eps).
    """

    kernel = None

    def formula(self, p: Tensor, m: Tensor, v: Tensor, rate: Tensor) -> None:
        assert p.grad is not None
        m.lerp_(p.grad, 1 - self.beta1)
        torch.maximum(v.mul_(self.beta2), p.grad.abs(), out=v)
        p.sub_((m / ap2(v).add_(self.eps)).mul_(rate))


class SGD(Rule):
    """Plain stochastic gradient descent without momentum: w -= lr · multiplier · g."""

    kernel = "sgd"

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        super().__init__(groups, 0.0, 0.0, 0.0)

    def scaled(self, rate: Tensor, t: Tensor) -> Tensor:
        return rate

    def _update(self, p: Tensor, rate: Tensor, bound: float) -> None:
        assert p.grad is not None
        p.sub_(p.grad * rate)
        if bound < math.inf:
            p.clamp_(-bound, bound)


def _bound(group: dict[str, Any]) -> float:
    """The bound b of a group's clipping to [-b, b]; infinity without clipping."""
    return 1.0 if group["clip"] else math.inf


def on_gpu(p: Tensor) -> bool:
    """Whether a parameter is updated by the CUDA kernels."""
    return p.is_cuda and p.dtype == torch.float32 and launch.no_gpu() is None and ways.uses("updates")


def _flat(x: Tensor) -> reals.Floats:
    """A tensor with dense strides as a flat array in the order of its memory."""
    return torch.as_strided(x.detach(), (x.numel(),), (1,)).numpy()


def exponential_lr(start: float, end: float, epochs: int, epoch: int) -> float:
    """Rate during `epoch` (from 0): start · (end/start)^(epoch/epochs), multiplied once per epoch."""
    return float(start * (end / start) ** (epoch / epochs))


def halving_lr(start: float, every: int, epoch: int) -> float:
    """Rate during `epoch` (from 0): shifted right by one bit each `every` epochs."""
    return float(start * 0.5 ** (epoch // every))


@spec.RATES.add(spec.ExponentialRate)
def _exponential(rule: spec.ExponentialRate, epochs: int, epoch: int) -> float:
    return exponential_lr(rule.start, rule.end, epochs, epoch)


@spec.RATES.add(spec.HalvingRate)
def _halving(rule: spec.HalvingRate, epochs: int, epoch: int) -> float:
    return halving_lr(rule.start, rule.every, epoch)


def rate(rule: spec.Rate, epochs: int, epoch: int) -> float:
    """The common learning rate during `epoch` (from 0) of `epochs`."""
    return float(spec.RATES[rule.kind](rule, epochs, epoch))


@spec.OPTIMIZERS.add(spec.AdamRule)
def _adam(rule: spec.AdamRule, groups: Groups) -> Rule:
    return Adam(groups, rule.beta1, rule.beta2, rule.eps)


@spec.OPTIMIZERS.add(spec.ShiftAdaMaxRule)
def _shift_adamax(rule: spec.ShiftAdaMaxRule, groups: Groups) -> Rule:
    kind = DecayingShiftAdaMax if rule.decays else ShiftAdaMax
    return kind(groups, rule.beta1, rule.beta2, rule.eps)


@spec.OPTIMIZERS.add(spec.SGDRule)
def _sgd(rule: spec.SGDRule, groups: Groups) -> Rule:
    return SGD(groups)


def optimizer(net: nn.Module, train: spec.Train) -> Rule:
    """The optimizer; its groups are by `multiplier` (of the rate) and `clip` (to [-1, 1] after each step).

    A module other than the project's own names its parameters, and each one's multiplier, by a method `rates()`.
    Float weights among binary ones are not clipped.
    Raises SpecError for a parameter that is in no group: it would never be trained.
    """
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    layers = [m for m in net.modules() if isinstance(m, BinaryLinear | BinaryConv2d)]
    binary = {m.weight for m in layers if m.binary or m.binarize is not None}

    def add(parameter: Tensor, multiplier: float, clip: bool) -> None:
        groups.setdefault((multiplier, clip), []).append(parameter)

    for module in net.modules():
        if isinstance(module, BinaryLinear | BinaryConv2d):
            factor = lr_multiplier(module) if train.weight_rate != "plain" else 1.0
            if train.weight_rate == "glorot_power_of_2":
                factor = 2.0 ** round(math.log2(factor))
            if train.weight_rate == "glorot_squared":
                factor **= 2
            add(module.weight, factor, train.clip != "none" and (module.weight in binary or not binary))
            assert module.bias is not None
            add(module.bias, factor if train.bias_rate == "as_weight" else 1.0, train.clip == "all")
        elif isinstance(module, Norm):
            factor = math.sqrt(len(module.weight) / 1.5) if train.norm_rate == "glorot_gamma" else 1.0
            add(module.weight, factor, train.clip == "all")
            add(module.bias, 1.0, train.clip == "all")
        if callable(rates := getattr(module, "rates", None)):
            for name, factor in rates().items():
                add(module.get_parameter(name), factor, train.clip == "all")
    claimed = {p for group in groups.values() for p in group}
    if lost := [name for name, p in net.named_parameters() if p not in claimed]:
        raise spec.SpecError(
            f"net: {lost[0]}: no optimizer group claims this parameter; its module has no rates()"
        )
    listed = [{"params": params, "multiplier": factor, "clip": clip} for (factor, clip), params in groups.items()]
    rule: Rule = spec.OPTIMIZERS[train.optimizer.kind](train.optimizer, listed)
    rule.binary = frozenset(binary)
    return rule
