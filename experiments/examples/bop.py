"""Bop, an optimizer that flips binary weights (Helwegen et al., "Latent weights do not exist", 2019, algorithm 1).

m = (1 - gamma) m + gamma g; a weight flips where |m| > threshold and m has the weight's sign. All other parameters
are trained by Adam.
"""

from typing import Literal

from torch import Tensor

from reproduce import spec
from reproduce.nets.binarize import sign
from reproduce.training.optim import Adam, Groups


class BopRule(spec.Optimizer):
    kind: Literal["bop"]
    gamma: spec.Fraction
    threshold: spec.Positive
    beta1: spec.Fraction
    beta2: spec.Fraction
    eps: spec.Positive


class Bop(Adam):
    kernel = None  # no fused kernel: `formula` makes the update

    def __init__(self, groups: Groups, rule: BopRule) -> None:
        super().__init__(groups, rule.beta1, rule.beta2, rule.eps)
        self.gamma, self.threshold = rule.gamma, rule.threshold

    def formula(self, p: Tensor, m: Tensor, v: Tensor, rate: Tensor) -> None:
        if p not in self.binary:
            super().formula(p, m, v, rate)
            return
        assert p.grad is not None
        m.lerp_(p.grad, self.gamma)
        signs = sign(p)
        flips = (m.abs() > self.threshold) & (m * signs > 0)
        p.copy_(signs.mul_(1 - 2 * flips.to(p.dtype)))


@spec.OPTIMIZERS.add(BopRule)
def _bop(rule: BopRule, groups: Groups) -> Bop:
    return Bop(groups, rule)
