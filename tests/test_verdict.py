"""Verdicts against the statistics written out, and a simulation of the rule."""

import math

import numpy as np
import pytest
from scipy import stats

from reproduce.verdict import summarize, verdict


def test_interval_is_the_prediction_interval():
    errors = [0.95, 1.01, 0.90, 1.00]
    summary = summarize(errors)
    s = math.sqrt(sum((e - 0.965) ** 2 for e in errors) / 3)
    half = 3.182446305284263 * s * math.sqrt(1.25)
    assert summary.mean == pytest.approx(0.965)
    assert summary.low == pytest.approx(0.965 - half) and summary.high == pytest.approx(0.965 + half)
    assert summarize([1.0]).low is None
    with pytest.raises(ValueError, match="no errors"):
        summarize([])


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([], "not run"),
        ([0.96], "inconclusive"),
        ([0.96, 0.96], "inconclusive"),
        ([0.95, 0.97, 0.96], "reproduced"),
        ([0.60, 0.61, 0.62], "better than the paper"),
        ([1.40, 1.41, 1.42], "not reproduced"),
        ([0.60, 1.40, 1.00], "inconclusive"),
    ],
)
def test_first_rule_that_applies(errors, expected):
    assert verdict(errors, paper=0.96, margin=0.19) == expected


def test_reproduced_is_two_one_sided_tests():
    rng = np.random.default_rng(0)
    for _ in range(200):
        errors = rng.normal(0.96 + rng.uniform(-0.2, 0.2), 0.05, 5)
        lower = stats.ttest_1samp(errors, 0.96 - 0.19, alternative="greater").pvalue
        upper = stats.ttest_1samp(errors, 0.96 + 0.19, alternative="less").pvalue
        assert (verdict(errors, 0.96, 0.19) == "reproduced") == (max(lower, upper) < 0.05)


@pytest.mark.parametrize(("n", "spread"), [(3, 0.05), (5, 0.05), (5, 0.2)])
def test_equality_is_seldom_called_not_reproduced_and_three_margins_nearly_always(n, spread):
    rng = np.random.default_rng(n)
    margin, trials = 0.2, 1000
    equal = [verdict(rng.normal(1.0, spread, n), 1.0 + rng.normal(0, spread), margin) for _ in range(trials)]
    assert np.mean([v == "not reproduced" for v in equal]) <= 0.05
    if n == 5 and spread == 0.05:
        shifted = [verdict(rng.normal(1.0 + 3 * margin, spread, n), 1.0, margin) for _ in range(trials)]
        assert np.mean([v == "not reproduced" for v in shifted]) >= 0.95
