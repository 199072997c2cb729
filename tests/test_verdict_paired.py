"""Paired comparisons of an ablation's arms: against scipy, and on simulated runs."""

import math

import numpy as np
import pytest
from sample import sample
from scipy import stats

from reproduce import verdict_paired as paired


def runs(rng, n, images, share):
    return rng.random((n, images)) < share


def test_the_difference_is_a_paired_t_test_if_seeds_scatter_more_than_images():
    rng = np.random.default_rng(1)
    shares = 0.05 + 0.03 * rng.standard_normal((7, 1)).clip(-1, 1)
    arm, reference = rng.random((7, 2000)) < shares, runs(rng, 7, 2000, 0.04)
    found = paired.difference(arm, reference, 5.0)
    told = stats.ttest_rel(100 * arm.mean(1), 100 * reference.mean(1))
    interval = told.confidence_interval(0.95)
    assert found.n == 7
    assert found.p == pytest.approx(told.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    one_sided = stats.ttest_1samp(100 * (arm.mean(1) - reference.mean(1)), 5.0, alternative="less")
    assert found.p_loss == pytest.approx(one_sided.pvalue)


def test_seeds_that_agree_by_chance_give_no_certainty():
    images, n = 1000, 3
    arm, reference = np.zeros((n, images), bool), np.zeros((n, images), bool)
    for seed in range(n):  # each seed's arm is wrong on 12 images of its own, its reference on 10: always +0.2
        arm[seed, 50 * seed : 50 * seed + 12] = True
        reference[seed, 500 + 50 * seed : 510 + 50 * seed] = True
    found = paired.difference(arm, reference, 0.1)
    # by hand: an image that one of three seeds has alone has variance 1/3; 66 such images
    error = 100 / images * math.sqrt(66 / 3) / math.sqrt(3)
    assert found.mean == pytest.approx(0.2)
    assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, 4) * error)
    assert found.p == pytest.approx(2 * stats.t.sf(0.2 / error, 4))
    assert found.p > 0.05


@pytest.mark.parametrize(("n", "comparisons"), sample([(8, 19), (16, 19), (8, 1)]))
def test_the_chance_of_no_loss_is_the_share_of_made_up_comparisons_that_exclude_the_loss(n, comparisons):
    rng, effect, spread = np.random.default_rng(n), 0.15, 0.12
    each = rng.normal(0, spread, (20_000, n))
    p = stats.ttest_1samp(each, effect, axis=1, alternative="less").pvalue
    found = paired.Difference(n, 0, 0, 0, 1, 0, 0, spread / math.sqrt(n))
    told = paired.chance_of_no_loss(found, effect, comparisons)
    assert told == pytest.approx(np.mean(p < paired.ALPHA / comparisons), abs=0.015)


def test_equal_runs_differ_by_nothing():
    same = runs(np.random.default_rng(2), 4, 500, 0.1)
    found = paired.difference(same, same, 0.1)
    assert (found.mean, found.low, found.high, found.p, found.p_loss) == (0, 0, 0, 1, 0)


def test_two_pairs_are_too_few_and_unequal_numbers_no_pairs():
    some = np.zeros((2, 9), bool)
    with pytest.raises(ValueError, match="too few"):
        paired.difference(some, some, 0.1)
    with pytest.raises(ValueError, match="no pairs"):
        paired.difference(some, some[:1], 0.1)


def test_holm_against_a_worked_example():
    # ordered .005, .01, .03, .04 -> times 4, 3, 2, 1 -> .02, .03, .06, .06 (never falling)
    assert paired.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert paired.holm([0.5, 0.9]) == [1.0, 1.0]
    assert paired.holm([]) == []


@pytest.mark.parametrize(
    ("mean", "p", "p_loss", "said"),
    [
        (-0.1, 0.01, 0.01, "better"),
        (-0.1, 0.01, 0.5, "better"),
        (-0.1, 0.2, 0.01, "no loss within the margin"),
        (0.1, 0.01, 0.01, "no loss within the margin"),  # a loss, but less than counts
        (0.1, 0.01, 0.5, "worse"),
        (0.1, 0.2, 0.2, "cannot be told"),
        (0.1, 0.05, 0.05, "cannot be told"),
    ],
)
def test_the_verdicts_words(mean, p, p_loss, said):
    found = paired.Difference(
        8, mean, mean - 0.1, mean + 0.1, 0.9, 0.9, 0.2, 0.04
    )  # its own p-values do not count
    assert paired.verdict(found, p, p_loss) == said


def made(rng, count, n, shift, spread, images=10_000, error=1.5):
    """Differences of simulated pairs: wrong images are drawn independently, and each run's error rate scatters."""
    for _ in range(count):
        levels = error + spread * rng.standard_normal((2, n, 1)) + np.array([shift, 0.0]).reshape(2, 1, 1)
        hard = np.zeros(images)
        hard[:400] = 1 / 0.04  # most errors come from one image in 25
        yield tuple(rng.random((n, images)) < level / 100 * hard for level in levels)


@pytest.mark.parametrize("spread", sample([0.06, 0.0, 0.12]))
def test_the_error_rate_of_the_rule_is_as_stated(spread):
    rng = np.random.default_rng(3)
    effect, n = 0.15, 8
    said = {"null": [], "at the effect": []}
    for name, shift in (("null", 0.0), ("at the effect", effect)):
        for arm, reference in made(rng, 150, n, shift, spread):
            found = paired.difference(arm, reference, effect)
            said[name].append(paired.verdict(found, found.p, found.p_loss))
    assert said["null"].count("worse") + said["null"].count("better") <= 14  # 5 % of 150 is 7.5; P(> 14) = 0.6 %
    assert said["at the effect"].count("no loss within the margin") <= 14
    if not spread:  # eight seeds are enough for this
        assert said["at the effect"].count("worse") >= 0.7 * 150


def test_the_stated_effect_is_found_in_four_of_five_cases():
    rng = np.random.default_rng(4)
    first = [paired.difference(a, r, 0.15).found for a, r in made(rng, 60, 8, 0.0, 0.06)]
    shift = float(np.mean(first))
    hits = sum(paired.difference(a, r, 0.15).p < 0.05 for a, r in made(rng, 150, 8, shift, 0.06))
    assert 0.65 * 150 <= hits <= 0.97 * 150
