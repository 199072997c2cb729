"""Does the paper's figure hold? Two one-sided tests, a prediction interval, or "inconclusive"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Summary:
    """Mean test error of n runs and the 95 % prediction interval of one more (None where n < 2)."""

    n: int
    mean: float
    low: float | None
    high: float | None


def summarize(errors: Sequence[float]) -> Summary:
    """mean ± t(.975, n-1) · s · sqrt(1 + 1/n) of errors in percent. ValueError if there are none."""
    if not len(errors):
        raise ValueError("no errors to summarize")
    n, mean = len(errors), float(np.mean(errors))
    if n < 2:
        return Summary(n, mean, None, None)
    half = stats.t.ppf(0.975, n - 1) * float(np.std(errors, ddof=1)) * math.sqrt(1 + 1 / n)
    return Summary(n, mean, mean - half, mean + half)


def verdict(errors: Sequence[float], paper: float, margin: float) -> str:
    """Verdict on paper-scale errors against one printed figure, all in percent.

    The printed figure is one more draw, not a population mean; `margin` (declared with the experiment) stands for
    its test-set noise. Fewer than three runs can only be inconclusive.
    """
    if not len(errors):
        return "not run"
    if len(errors) < 3:
        return "inconclusive"
    summary = summarize(errors)
    difference = summary.mean - paper
    n, s = len(errors), float(np.std(errors, ddof=1))
    if abs(difference) + stats.t.ppf(0.95, n - 1) * s / math.sqrt(n) < margin:
        return "reproduced"
    assert summary.low is not None and summary.high is not None
    if not summary.low <= paper <= summary.high:
        return "better than the paper" if difference < 0 else "not reproduced"
    return "inconclusive"
