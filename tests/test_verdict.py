"""Verdicts against explicit statistics, and a simulation of the rule."""

import itertools
import math

import numpy as np
import pytest
from sample import sample
from scipy import stats

from reproduce.verdict import binomial_variance, image_variance, summarize, verdict


def made_wrong(errors, images, hard, rng):
    """Wrong images of each run: `hard` ones are wrong in all runs, the others anywhere."""
    wrong = np.zeros((len(errors), images), bool)
    wrong[:, :hard] = True
    for run, error in zip(wrong, errors, strict=True):
        run[hard + rng.choice(images - hard, round(error * images / 100) - hard, replace=False)] = True
    return wrong


def test_the_interval_is_the_seeds_prediction_interval_if_seeds_scatter_more_than_images():
    errors = [0.8, 1.2, 0.9, 0.96]
    summary = summarize(errors, 10_000)
    s = math.sqrt(sum((e - 0.965) ** 2 for e in errors) / 3)
    half = 3.182446305284263 * s * math.sqrt(1.25)
    assert summary.mean == pytest.approx(0.965)
    assert summary.low == pytest.approx(0.965 - half) and summary.high == pytest.approx(0.965 + half)
    assert summarize([1.0], 10_000).low is None
    with pytest.raises(ValueError, match="no errors"):
        summarize([], 10_000)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_the_variance_from_images_is_the_sum_over_images(n):
    wrong = np.random.default_rng(n).random((n, 333)) < 0.3
    each = [np.var(column, ddof=1) for column in wrong.T.astype(float)]
    assert image_variance(wrong) == pytest.approx(math.fsum(each) * 100**2 / 333**2)


def test_the_variance_from_images_is_that_of_the_errors_if_images_are_independent():
    rng = np.random.default_rng(0)
    chance = rng.beta(0.05, 0.5, 5000)
    wrong = rng.random((4000, 5000)) < chance
    known = 100**2 * (chance * (1 - chance)).sum() / 5000**2
    assert np.var(100 * wrong.mean(1), ddof=1) == pytest.approx(known, rel=0.1)
    few = [image_variance(wrong[i : i + 3]) for i in range(0, 600, 3)]
    assert np.mean(few) == pytest.approx(known, rel=0.01) and np.std(few) < 0.1 * known
    assert known < binomial_variance(100 * chance.mean(), 5000)


@pytest.mark.parametrize("errors", [[1.2] * 3, [1.15, 1.16, 1.15]])
def test_seeds_that_agree_by_chance_give_no_certainty(errors):
    assert verdict(errors, 0.96, 0.19, 10_000) == "inconclusive"
    summary = summarize(errors, 10_000)
    assert summary.low < 0.96 < summary.high


@pytest.mark.parametrize("n", [3, 4, 5])
def test_seeds_that_agree_by_chance_are_judged_by_their_images(n):
    """The verdict changes where the explicit rule says, with t(.975, n + 1) from a table."""
    quantile = {3: 2.776445105197793, 4: 2.570581835636314, 5: 2.446911851144979}[n]
    errors, rng = [1.2] * n, np.random.default_rng(n)
    wrong = made_wrong(errors, 10_000, 80, rng)
    pairs = list(itertools.combinations(wrong, 2))
    apart = np.mean([(a ^ b).sum() for a, b in pairs])  # half of it is the variance of a run's count
    half = quantile * math.sqrt(apart / 2) / 100 * math.sqrt(1 + 1 / n)
    for off, expected in ((0.999, "inconclusive"), (1.001, "not reproduced")):
        assert verdict(errors, 1.2 - off * half, 0.01, 10_000, wrong) == expected
    summary = summarize(errors, 10_000, wrong)
    assert (summary.low, summary.high) == (pytest.approx(1.2 - half), pytest.approx(1.2 + half))


def test_runs_that_never_disagree_are_judged_as_without_images():
    wrong = np.tile(np.arange(10_000) < 120, (3, 1))
    assert summarize([1.2] * 3, 10_000, wrong) == summarize([1.2] * 3, 10_000)
    assert verdict([1.2] * 3, 0.96, 0.19, 10_000, wrong) == "inconclusive"


def test_without_images_the_variance_is_at_least_the_binomial_one():
    summary = summarize([1.2] * 3, 10_000)
    half = 1.959963984540054 * math.sqrt(1.2 * 98.8 / 10_000 * 4 / 3)
    assert (summary.low, summary.high) == (pytest.approx(1.2 - half), pytest.approx(1.2 + half))
    for off, expected in ((0.99, "inconclusive"), (1.01, "not reproduced")):
        paper = 1.2 - off * half
        margin = 1.959963984540054 * math.sqrt(paper * (100 - paper) / 10_000)
        assert verdict([1.2] * 3, paper, margin, 10_000) == expected


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
def test_the_first_rule_that_applies_gives_the_verdict(errors, expected):
    assert verdict(errors, paper=0.96, margin=0.19, images=10_000) == expected


def test_reproduced_is_two_one_sided_tests():
    rng, wrong = np.random.default_rng(0), np.zeros((5, 10_000), bool)
    wrong[0, 0] = True  # the runs hardly disagree, so that their own errors decide
    for _ in range(200):
        errors = rng.normal(0.96 + rng.uniform(-0.2, 0.2), 0.05, 5)
        lower = stats.ttest_1samp(errors, 0.96 - 0.19, alternative="greater").pvalue
        upper = stats.ttest_1samp(errors, 0.96 + 0.19, alternative="less").pvalue
        assert (verdict(errors, 0.96, 0.19, 10_000, wrong) == "reproduced") == (max(lower, upper) < 0.05)


@pytest.mark.parametrize(("n", "spread"), sample([(3, 0.05), (5, 0.05), (5, 0.2)]))
def test_equal_errors_are_rarely_called_not_reproduced_and_three_margins_nearly_always(n, spread):
    rng = np.random.default_rng(n)
    margin, images, trials = 0.2, 10_000, 1000
    papers = 1.0 + rng.normal(0, spread, trials)
    equal = [verdict(rng.normal(1.0, spread, n), paper, margin, images) for paper in papers]
    assert np.mean([v == "not reproduced" for v in equal]) <= 0.05
    if n == 5 and spread == 0.05:
        shifted = [verdict(rng.normal(1.0 + 3 * margin, spread, n), 1.0, margin, images) for _ in range(trials)]
        assert np.mean([v == "not reproduced" for v in shifted]) >= 0.95
