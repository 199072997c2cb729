"""The verdict on an arm of an ablation: does it differ from the one it is compared with? Runs in pairs, by seed.

Let d be the mean of the seeds' differences (arm minus reference, test error in points), s their standard
deviation, and v the variance of one difference that the disagreement on single images would make if images were
independent: with e_ij = +1, 0 or -1 where seed i's arm alone, both or neither, or the reference alone is wrong on
image j of N, v = Σ_j var_i(e_ij) / N². As for Table 1 (`reproduce.verdict`), neither estimate replaces the other,
and the larger scatter counts: t with n - 1 degrees of freedom for s, with n + 1 for √v.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from reproduce.verdict import FEWEST, TRUST

ALPHA = 0.05
POWER = 0.8


@dataclass(frozen=True)
class Difference:
    """Arm minus reference over n pairs, in points of test error.

    `low` to `high`: 95 % interval; `p`: that there is no difference (two-sided); `p_loss`: that the arm loses
    `effect` or more; `found`: the loss that n such pairs find in 80 % of cases (two-sided, alone in its family);
    `error`: the standard error of `mean`, by the larger scatter.
    """

    n: int
    mean: float
    low: float
    high: float
    p: float
    p_loss: float
    found: float
    error: float


def difference(arm: NDArray[np.bool_], reference: NDArray[np.bool_], effect: float) -> Difference:
    """The comparison of runs (n, N): which of N test images each seed's run got wrong, rows in the same order.

    `effect`: the smallest loss that counts, in points. ValueError for fewer than three pairs, and where
    the shapes differ.
    """
    if arm.shape != reference.shape:
        raise ValueError(f"{arm.shape} and {reference.shape} are no pairs")
    n, images = arm.shape
    if n < FEWEST:
        raise ValueError(f"{n} pairs are too few")
    apart = arm.astype(np.int8) - reference.astype(np.int8)
    each = 100 * apart.mean(1)
    mean, own = float(each.mean()), float(each.std(ddof=1))
    of_images = 100 / images * math.sqrt(float(apart.var(0, ddof=1).sum()))
    ways = [(scale / math.sqrt(n), dof) for scale, dof in ((own, n - 1), (of_images, n - 1 + TRUST))]

    def least_sure(value: float) -> float:
        """The larger P(T > value / standard error) of the two estimates."""
        return max(float(stats.t.sf(value / error, dof)) if error else float(value <= 0) for error, dof in ways)

    half = max(float(stats.t.ppf(1 - ALPHA / 2, dof)) * error for error, dof in ways)
    found = max(float(stats.t.ppf(1 - ALPHA / 2, dof) + stats.t.ppf(POWER, dof)) * error for error, dof in ways)
    p = min(1.0, 2 * least_sure(abs(mean)))
    error = max(error for error, _ in ways)
    return Difference(n, mean, mean - half, mean + half, p, least_sure(effect - mean), found, error)


def chance_of_no_loss(found: Difference, effect: float, comparisons: int) -> float:
    """The chance that a loss of `effect` is excluded if there is none, with this scatter and number of pairs.

    At the first step of Holm's method over `comparisons`; by the noncentral t distribution.
    """
    limit = stats.t.ppf(1 - ALPHA / comparisons, found.n - 1)
    return float(stats.nct.sf(limit, found.n - 1, effect / found.error)) if found.error else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number by Holm's method, in the order given."""
    order = np.argsort(values, kind="stable")
    times = np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(times * np.asarray(values, float)[order]))
    found: list[float] = adjusted.tolist()
    return found


def verdict(found: Difference, p: float, p_loss: float) -> str:
    """The verdict of a comparison, by its two p-values adjusted for the whole family.

    "better"; "no loss within the margin": a loss of the smallest effect that counts is excluded; "worse";
    "cannot be told".
    """
    if p < ALPHA and found.mean < 0:
        return "better"
    if p_loss < ALPHA:
        return "no loss within the margin"
    if p < ALPHA:
        return "worse"
    return "cannot be told"
