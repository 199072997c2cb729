"""Does the paper's figure hold? Two one-sided tests, a prediction interval, or "inconclusive".

The rule. Let d be the mean error of our n runs minus the paper's figure, s the standard deviation of the runs'
errors, and v the variance that the runs' disagreement on single images would make if images were independent of
each other: with k_i of n runs wrong on image i of N, v = Σ k_i (n - k_i) / (n (n - 1)) / N². A run is taken to
scatter by R(p) = max(t(p, n - 1) · s, t(p, n + 1) · √v). Fewer than three runs are inconclusive. If |d| + R(.95)
/ √n is below the margin, the figure is reproduced. Otherwise, if |d| is above R(.975) · √(1 + 1/n), ours is
better (d < 0) or the figure is not reproduced (d > 0). All else is inconclusive.

Why two estimates. Written image by image, the variance of a run's count of wrong images is the sum of N
variances and of the covariances between images. s² holds both, but three seeds can agree by luck; v is the first
sum alone, known from all images that any two runs disagree on, and the least there is unless images of a run
tend to make up for each other. So neither replaces the other: at a large spread s decides with its n - 1 degrees
of freedom, as images of a run go wrong together; where the seeds agree better than independent images would let
them, v does. It gets two degrees of freedom more than s: t(p, n - 1) would cost power against a difference of
one or two margins, and a normal quantile would take images for independent without a doubt (`make simulate`
tries both). Where it is not known which images were wrong, or no two runs disagree on any, v is the
binomial variance of the mean error, the most that independent images can make, taken as known (normal
quantiles).

What the margin stands for. It is declared with the experiment: the binomial 95 % half-width of the paper's
figure, which is how far one figure may lie from its recipe's error on fresh images. Our runs and the paper's are
tested on the same images, so the choice of test images shifts both alike, and d has run-to-run noise only: ours
(/ n) and the paper's (· 1), one more draw. The interval therefore holds no test-set noise; the margin says which
difference is too small to mean anything beyond this test set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

FEWEST = 3  # runs that get a verdict
TRUST = 2  # degrees of freedom that v has more than s


@dataclass(frozen=True)
class Summary:
    """Mean test error of n runs and the 95 % prediction interval of one more (None where n < 2), in percent."""

    n: int
    mean: float
    low: float | None
    high: float | None


def image_variance(wrong: NDArray[np.bool_]) -> float:
    """Run-to-run variance of the error in points², were images independent; wrong (n, N), n at least 2."""
    n, images = wrong.shape
    k = wrong.sum(0)
    return float(100**2 * (k * (n - k)).sum() / (n * (n - 1)) / images**2)


def binomial_variance(error: float, images: float) -> float:
    """Variance, in points², of an error in percent on `images` independent images."""
    return error * (100 - error) / images


def scatter(own: Any, images: Any, n: int, p: float, counted: bool = True) -> Any:
    """R(p) above, from s (`own`) and √v (`images`), in their unit; both numbers or arrays of one shape.

    `counted`: v is from the images; otherwise it is the binomial one.
    """
    of_images = stats.t.ppf(p, n - 1 + TRUST) if counted else stats.norm.ppf(p)
    return np.maximum(stats.t.ppf(p, n - 1) * own, of_images * images)


def estimates(
    errors: Sequence[float], images: float, wrong: NDArray[np.bool_] | None = None
) -> tuple[float, float, bool]:
    """s and √v in points, and whether v is from the images (`wrong`, as below), of two runs or more."""
    v = 0.0 if wrong is None else image_variance(wrong)
    least = v or binomial_variance(float(np.mean(errors)), images)
    return float(np.std(errors, ddof=1)), math.sqrt(least), v > 0


def half_width(p: float, errors: Sequence[float], images: float, wrong: NDArray[np.bool_] | None = None) -> float:
    """R(p) / √n: how far the mean of two errors or more lies below its upper bound at level p, in percent."""
    own, of_images, counted = estimates(errors, images, wrong)
    return float(scatter(own, of_images, len(errors), p, counted)) / math.sqrt(len(errors))


def summarize(errors: Sequence[float], images: float, wrong: NDArray[np.bool_] | None = None) -> Summary:
    """Mean and interval mean ± R(.975) · √(1 + 1/n) of errors in percent on `images` test images.

    `wrong` (n, N), if known: which of the images each run got wrong. ValueError if there are no errors.
    """
    if not len(errors):
        raise ValueError("no errors to summarize")
    n, mean = len(errors), float(np.mean(errors))
    if n < 2:
        return Summary(n, mean, None, None)
    own, of_images, counted = estimates(errors, images, wrong)
    half = float(scatter(own, of_images, n, 0.975, counted)) * math.sqrt(1 + 1 / n)
    return Summary(n, mean, mean - half, mean + half)


def verdict(
    errors: Sequence[float],
    paper: float,
    margin: float,
    images: float,
    wrong: NDArray[np.bool_] | None = None,
) -> str:
    """Verdict on paper-scale errors against one printed figure, all in percent: the rule above.

    `images`: N, the number of test images. `wrong` (n, N), if known: which of them each run got wrong.
    """
    if not len(errors):
        return "not run"
    if len(errors) < FEWEST:
        return "inconclusive"
    n, difference = len(errors), float(np.mean(errors)) - paper
    own, of_images, counted = estimates(errors, images, wrong)
    if abs(difference) + scatter(own, of_images, n, 0.95, counted) / math.sqrt(n) < margin:
        return "reproduced"
    if abs(difference) > scatter(own, of_images, n, 0.975, counted) * math.sqrt(1 + 1 / n):
        return "better than the paper" if difference < 0 else "not reproduced"
    return "inconclusive"
