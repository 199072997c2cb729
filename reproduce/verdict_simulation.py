"""The verdict's rule and its rivals tried on made-up runs, image by image (`make simulate`).

It takes minutes, so its table is committed (TABLE) and the report reads it.

The model. An image is wrong in a run if √a · x + √b · y + √c · z is above a threshold: x is normal and the
image's own (how hard it is), y normal and new in every image of every run, z normal and the run's own, so that
all images of a run go wrong together; a + b + c = 1. Two numbers are chosen for a case: the standard deviation
of a run's error (`spread`) and the part of its variance that independent images would make (`share`), which is
at most MOST of the binomial variance: two nets of one recipe agree on most images. (Six nets each of
`table1/float-mnist` and `table1/bnn-theano-mnist` at small scale had 0.26 and 0.35 of it, with shares of 0.79
and 0.62.) What is beyond comes from z, so that images at a large spread go wrong together. The paper's figure is
one more run, on the same images; a true shift moves it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize, special, stats

from reproduce import files, verdict, yamlfile

TABLE = (yamlfile.ROOT / "results" if yamlfile.CHECKOUT else Path(__file__).parent) / "verdict-simulation.csv"
"""In a checkout among the results; a wheel holds it beside this module."""
TRIALS = 4000
SEEDS = (3, 5)
SHIFTS = (1, 1.25, 1.5, 2, 3)  # margins, to either side, at which power is measured
POWER_SHIFT = 3
POWER_FROM = 0.05  # points: the smallest spread at which power must not be lost
MOST = 0.35
LUCKY = 0.2  # the part of the cells whose seeds agree most
SHARES = ("false_not", "false_better", "false_equal", "lucky", "equal", "found", "lost")
NOW, BEFORE = "as it stands", "seeds alone"

Floats = NDArray[np.float64]


class Case(NamedTuple):
    """Test images, mean error (percent), standard deviation of a run's error (points), share (see above)."""

    images: int
    error: float
    spread: float
    share: float


CASES = [
    Case(*values)
    for values in itertools.product(
        (10_000, 26_032), (1.0, 3.0, 12.0), (0.005, 0.02, 0.05, 0.1, 0.2, 0.5), (1.0, 0.5)
    )
]


class Drawn(NamedTuple):
    """Errors (trials, runs) in percent; for each number of seeds the first runs' `image_variance` (trials,)."""

    errors: Floats
    image_variance: dict[int, Floats]


def model(case: Case) -> tuple[float, float, float]:
    """Threshold, b and c of the model."""
    wrong, variance = case.error / 100, (case.spread / 100) ** 2
    threshold = float(stats.norm.isf(wrong))
    of_images = min(case.share * variance, MOST * wrong * (1 - wrong) / case.images)

    def apart(own: float) -> float:
        """The probability that of two normals with the correlation 1 - own one, and it alone, is above."""
        return float(2 * special.owens_t(threshold, math.sqrt(own / (2 - own))))

    own = float(optimize.brentq(lambda u: apart(u) / case.images - of_images, 0, 1, xtol=1e-16))
    rest, both = variance - of_images, wrong - wrong**2
    c = 0.0 if rest < 1e-4 * variance else float(optimize.brentq(lambda r: both - apart(1 - r) - rest, 0, 1))
    c = min(c, 0.9 * own)
    return threshold, own - c, c


def draw(case: Case, trials: int = TRIALS) -> Drawn:
    """Made-up cells, always the same for one case: the last run is the paper's."""
    rng = np.random.default_rng([case.images, *(int(1000 * v) for v in case[1:])])
    threshold, b, c = model(case)
    runs, a = max(SEEDS) + 1, 1 - b - c
    hard = stats.norm.ppf((np.arange(case.images) + 0.5) / case.images)

    def chance(x: Any, z: Any) -> Any:
        return stats.norm.sf((threshold - math.sqrt(a) * x - math.sqrt(c) * z) / math.sqrt(b))

    open_ = (chance(hard, 5) > 1e-6) & (
        chance(hard, -5) < 1 - 1e-6
    )  # the others are right, or wrong, in every run
    sure = int((chance(hard, -5) >= 1 - 1e-6).sum())
    alike = np.array_split(hard[open_], min(300, int(open_.sum())))  # images so nearly as hard share a chance
    middles, sizes = np.array([part.mean() for part in alike]), [len(part) for part in alike]
    errors, variances = np.empty((trials, runs)), {n: np.empty(trials) for n in SEEDS}
    step = max(1, 10**7 // (runs * int(open_.sum())))
    for start in range(0, trials, step):
        part = slice(start, min(start + step, trials))
        z = rng.standard_normal((part.stop - start, runs, 1))
        limit = np.round(chance(middles, z) * 2**16).astype(np.uint32)
        dice = rng.integers(0, 2**16, (part.stop - start, runs, sum(sizes)), dtype=np.uint16)
        wrong = dice < np.repeat(limit, sizes, axis=2)
        errors[part] = 100 * (wrong.sum(2) + sure) / case.images
        for n in SEEDS:
            k = wrong[:, :n].sum(1, dtype=np.int32)
            variances[n][part] = 100**2 * (k * (n - k)).sum(1) / (n * (n - 1)) / case.images**2
    return Drawn(errors, variances)


# --- rules: R(p) from s, √v, √(binomial variance) and n -------------------------------------------------------

Rule = Callable[[Floats, Floats, Floats, int, float], Floats]


def _as_it_stands(own: Floats, images: Floats, binomial: Floats, n: int, p: float) -> Floats:
    none = images == 0
    counted = verdict.scatter(own, images, n, p)
    return np.asarray(np.where(none, verdict.scatter(own, binomial, n, p, counted=False), counted))


def _pooled(own: Floats, images: Floats, _: Floats, n: int, p: float) -> Floats:
    freedom = n - 1 + 4
    pooled = np.sqrt((4 * images**2 + (n - 1) * own**2) / freedom)
    return np.asarray(stats.t.ppf(p, freedom) * pooled)


RULES: dict[str, Rule] = {
    NOW: _as_it_stands,
    "images not known": lambda own, _, binomial, n, p: verdict.scatter(own, binomial, n, p, counted=False),
    BEFORE: lambda own, _, __, n, p: stats.t.ppf(p, n - 1) * own,
    "larger variance": lambda own, images, _, n, p: stats.t.ppf(p, n - 1) * np.maximum(own, images),
    "normal quantile": lambda own, images, _, n, p: np.maximum(
        stats.t.ppf(p, n - 1) * own, stats.norm.ppf(p) * images
    ),
    "pooled, 4 degrees": _pooled,
}


def judged(rule: Rule, case: Case, drawn: Drawn, n: int, shift: float) -> tuple[Any, Any, Any]:
    """Which cells the rule calls reproduced, better, not reproduced; our true mean is `shift` margins too high."""
    own = drawn.errors[:, :n]
    paper = np.maximum(drawn.errors[:, -1] - shift * _margin(case.error, case.images), 0.01)
    mean, margin = own.mean(1), _margin(paper, case.images)
    known = (own.std(1, ddof=1), np.sqrt(drawn.image_variance[n]), np.sqrt(_binomial(mean, case.images)), n)
    away = np.abs(mean - paper)
    equal = away + rule(*known, 0.95) / math.sqrt(n) < margin
    outside = ~equal & (away > rule(*known, 0.975) * math.sqrt(1 + 1 / n))
    return equal, outside & (mean < paper), outside & (mean > paper)


def _binomial(error: Any, images: int) -> Any:
    return error * (100 - error) / images


def _margin(error: Any, images: int) -> Any:
    """The margin that an experiment with this printed figure declares."""
    return stats.norm.ppf(0.975) * np.sqrt(_binomial(error, images))


def _one_margin(case: Case, side: int) -> float:
    """The `shift` of `judged` at which our true mean is a margin of the paper's true figure above or below it."""
    paper = case.error
    for _ in range(50):
        paper = case.error - side * float(_margin(paper, case.images))
    return (case.error - paper) / float(_margin(case.error, case.images))


def lines(case: Case, trials: int = TRIALS) -> list[dict[str, object]]:
    """A line for each number of seeds and rule, shares in percent.

    false_not, false_better, equal: what the rule says where the truth is the paper's. false_equal: “reproduced”
    where our true mean is one margin of the true figure above or below it, the larger of the two. lucky: either of
    the first two false ones, among the LUCKY cells whose seeds agree most. found: "not reproduced" at a shift of
    POWER_SHIFT margins. lost: the most points by which power is below that of BEFORE, over SHIFTS to either side,
    as long as the paper's error stays above zero.
    """
    drawn = draw(case, trials)
    margin = float(_margin(case.error, case.images))
    found = []
    for n in SEEDS:
        s = drawn.errors[:, :n].std(1, ddof=1)
        lucky = s <= np.quantile(s, LUCKY)
        power: dict[str, list[float]] = {}
        for name, rule in RULES.items():
            equal, better, worse = judged(rule, case, drawn, n, 0)
            aside = [judged(rule, case, drawn, n, _one_margin(case, side))[0].mean() for side in (-1, 1)]
            power[name] = [judged(rule, case, drawn, n, -shift)[1].mean() for shift in SHIFTS]
            power[name] += [
                judged(rule, case, drawn, n, shift)[2].mean() for shift in SHIFTS if shift * margin < case.error
            ]
            found.append(
                case._asdict()
                | {"seeds": n, "rule": name, "real_spread": math.sqrt(drawn.errors.var(1, ddof=1).mean())}
                | {"false_not": worse.mean() * 100, "false_better": better.mean() * 100}
                | {"false_equal": max(aside) * 100}
                | {"lucky": (better | worse)[lucky].mean() * 100, "equal": equal.mean() * 100}
                | {"found": judged(rule, case, drawn, n, POWER_SHIFT)[2].mean() * 100}
            )
        for line in found[-len(RULES) :]:
            lost = max(b - a for a, b in zip(power[str(line["rule"])], power[BEFORE], strict=True))
            line["lost"] = max(0.0, 100 * lost)
    return found


def main() -> None:
    """Simulate every case and write TABLE."""
    found = []
    for case in CASES:
        found += lines(case)
        print(*case, flush=True)
    table = pd.DataFrame(found).round({"real_spread": 4} | dict.fromkeys(SHARES, 2))
    files.write_whole(TABLE, table.to_csv(index=False, lineterminator="\n"))
