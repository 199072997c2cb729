"""The verdict's rule tried on made-up runs: how often it says what, by seeds, spread and true shift.

A cell's runs are n draws from a normal distribution with the standard deviation `spread`; the paper's figure is
one more draw from the same distribution, moved by `shift`. Both are in margins, since the rule is the same at any
scale. The part of the scatter that the images alone make is taken as known; `trials` draws it, image by image.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reproduce.report import charts, trials
from reproduce.report.evidence import Evidence, by_order, notes
from reproduce.report.parts import Column, Figure, Section, Table
from reproduce.report.rows import label
from reproduce.report.table1 import CODE, SCALES, tested, with_note, with_order
from reproduce.verdict import FEWEST, estimates, scatter

VERDICTS = ("reproduced", "better than the paper", "not reproduced", "inconclusive")
REPRODUCED, BETTER, NOT_REPRODUCED, INCONCLUSIVE = range(4)
SEEDS = tuple(range(1, 11))
SPREADS = (0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
SHIFTS = (0, 1, 2, 3)
TRIALS = 20_000
FALSE_ALARM, POWER, POWER_SEEDS, POWER_SHIFT = 0.05, 0.95, 5, 3  # what the rule has to keep
OF_IMAGES = 0.3  # margins: the most that the images alone are taken to scatter; that of trials.MOST

Floats = NDArray[np.float64]


def verdicts(
    errors: Floats, paper: Floats, margin: float, of_images: float, counted: bool = True
) -> NDArray[np.int64]:
    """The rule of `reproduce.verdict` for many cells at once, as indices into VERDICTS.

    errors (cells, n), paper (cells,); `of_images` is √v, the same in all cells, and `counted` as in `scatter`.
    """
    n = errors.shape[1]
    if n < FEWEST:
        return np.full(len(errors), INCONCLUSIVE)
    difference, s = errors.mean(1) - paper, errors.std(1, ddof=1)
    equal = np.abs(difference) + scatter(s, of_images, n, 0.95, counted) / math.sqrt(n) < margin
    outside = np.abs(difference) > scatter(s, of_images, n, 0.975, counted) * math.sqrt(1 + 1 / n)
    side = np.where(difference < 0, BETTER, NOT_REPRODUCED)
    return np.where(equal, REPRODUCED, np.where(outside, side, INCONCLUSIVE))


@cache
def _draws() -> tuple[Floats, Floats]:
    """Standard normal numbers, the same for every case: runs (TRIALS, 10) and papers (TRIALS,)."""
    rng = np.random.default_rng(1602_02830)
    return rng.standard_normal((TRIALS, max(SEEDS))), rng.standard_normal(TRIALS)


def shares(n: int, spread: float, shift: float, of_images: float | None = None, counted: bool = True) -> Floats:
    """The share of each verdict: the runs' true mean lies `shift` margins above that of the paper's figure.

    `of_images` is √v in margins: by default all of the spread, up to OF_IMAGES.
    """
    ours, paper = _draws()
    images = min(spread, OF_IMAGES) if of_images is None else of_images
    found = verdicts(shift + spread * ours[:, :n], spread * paper, 1.0, images, counted)
    return np.bincount(found, minlength=len(VERDICTS)) / TRIALS


def table() -> pd.DataFrame:
    """Every n, spread and shift (in margins): n, spread, shift, verdict, share (percent)."""
    lines = [
        {"n": n, "spread": spread, "shift": shift, "verdict": name, "share": 100 * share}
        for n in SEEDS
        for spread in SPREADS
        for shift in SHIFTS
        for name, share in zip(VERDICTS, shares(n, spread, shift), strict=True)
    ]
    return pd.DataFrame(lines)


@cache
def widest(n: int) -> float:
    """The largest spread, to 0.01 margins, at which n seeds find a shift of POWER_SHIFT margins often enough."""
    grid = range(1, 201)  # the share falls with the spread
    return bisect_left(grid, True, key=lambda i: shares(n, i / 100, POWER_SHIFT)[NOT_REPRODUCED] < POWER) / 100


def needed() -> pd.DataFrame:
    """By number of seeds (from 3): the largest spread, in margins, at which a shift of three margins is found."""
    return pd.DataFrame([{"n": n, "spread": widest(n)} for n in SEEDS if n >= 3])


def observed(evidence: Evidence) -> pd.DataFrame:
    """What the simulation says at the spread of the cells that have it: three runs or more, and a margin.

    One line per cell, scale, image order and code: seeds; spread and √v in points, spread in margins; in percent
    false_alarm ("not reproduced" where the truth is the paper's) and found (the same words at a shift of
    POWER_SHIFT margins), with the cell's own number of seeds, and found_with_more: with POWER_SEEDS.
    """
    groups = by_order(evidence.runs)
    lines = []
    for cell in evidence.cells:
        keys = [(s, key) for s in SCALES for key in groups if key[:2] == (cell.name, s)]
        for scale, order, group in ((s, key[2], group) for s, key in keys for group in groups[key]):
            errors = [r.result.test_error for r in group if r.result]
            margin = cell.experiment.margin
            if len(errors) < 3 or margin is None or cell.dataset_at(scale) != cell.experiment.dataset:  # type: ignore[arg-type]
                continue
            spread, images, counted = estimates(errors, *tested(group))
            n = min(len(errors), max(SEEDS))
            line: dict[str, object] = {"row": cell.experiment.row, "scale": scale, "seeds": n}
            line |= {"dataset": cell.experiment.dataset, "cell": cell.name, "order": order[:6]}
            line |= {"spread": spread, "margin": margin, "in_margins": spread / margin}
            line |= {"of_images": images, "counted": "images" if counted else "binomial"}
            for name, seeds, shift in (
                ("false_alarm", n, 0),
                ("found", n, POWER_SHIFT),
                ("found_with_more", POWER_SEEDS, POWER_SHIFT),
            ):
                of = shares(seeds, spread / margin, shift, images / margin, counted)
                line[name] = 100 * of[NOT_REPRODUCED]
            remarks = sorted({n for r in group for n in notes(r)})
            line |= {"dirty": bool(remarks), "note": "; ".join(remarks), "records": evidence.paths(group)}
            line["code"] = label(group)
            lines.append(line)
    columns = [
        "row",
        "dataset",
        "scale",
        "order",
        "seeds",
        "spread",
        "margin",
        "in_margins",
        "of_images",
        "counted",
        "false_alarm",
        "found",
    ]
    return pd.DataFrame(lines, columns=[*columns, "found_with_more", "code", "dirty", "note", "cell", "records"])


def _beyond(limit: float) -> str:
    """What POWER_SEEDS seeds say of the same shift at each tried spread that is larger than `limit`."""
    said = []
    for spread in (s for s in SPREADS if s > limit):
        of = dict(zip(VERDICTS, shares(POWER_SEEDS, spread, POWER_SHIFT), strict=True))
        said.append(
            f"at {spread:g} margin{'s' * (spread != 1)} it is found in {100 * of['not reproduced']:.0f} % and the "
            f"verdict is “inconclusive” in {100 * of['inconclusive']:.0f} %"
        )
    return "; ".join(said)


def tried() -> pd.DataFrame:
    """The worst of `trials.TABLE` by rule and number of seeds.

    Columns: spread ("wide" where it is over a quarter of the error, else "usual"), rule, seeds, cases; false_not
    and false_better (the largest); of spreads up to half a margin lucky (the largest), equal and found (the
    smallest); lost (the largest from trials.POWER_FROM points of spread on); in percent and points.
    """
    found = pd.read_csv(trials.TABLE)
    margin = 1.96 * np.sqrt(found["error"] * (100 - found["error"]) / found["images"])
    lines = []
    for wide in (False, True):
        for rule in trials.RULES:
            for seeds in trials.SEEDS:
                here = (found["rule"] == rule) & (found["seeds"] == seeds)
                here &= (found["spread"] > found["error"] / 4) == wide
                of, near = found[here], found[here & (found["spread"] <= margin / 2)]
                lines.append(
                    {"spread": "wide" if wide else "usual", "rule": rule, "seeds": seeds, "cases": len(of)}
                    | {name: of[name].max() for name in ("false_not", "false_better")}
                    | {"lucky": near["lucky"].max()}
                    | {name: near[name].min() for name in ("equal", "found")}
                    | {"lost": of.loc[of["spread"] >= trials.POWER_FROM, "lost"].max()}
                )
    return pd.DataFrame(lines)


def section(evidence: Evidence) -> Section:
    """The rule in words, the simulation's table as a figure, what it keeps, and where the cells stand."""
    worst, seen, grid = tried(), observed(evidence), table()
    alarm = grid.loc[(grid["shift"] == 0) & (grid["verdict"] == VERDICTS[NOT_REPRODUCED]), "share"].max()
    limit = widest(POWER_SEEDS)
    usual, wide = (worst[(worst["rule"] == trials.NOW) & (worst["spread"] == of)] for of in ("usual", "wide"))
    unknown = worst[(worst["rule"] == "images not known") & (worst["spread"] == "usual")]
    text = (
        "A cell's verdict is computed from its runs. Let d be our mean minus the paper's figure, s the standard "
        "deviation of n runs, and v the variance that their disagreement on single images would make if images "
        "were independent: with k of n runs wrong on an image, v = Σ k (n - k) / (n (n - 1)) / N² over the N "
        "test images. A run is taken to scatter by R(p) = max(t(p, n-1) · s, t(p, n+1) · √v): seeds can agree "
        "by luck, but not on thousands of images. Not at the paper's scale: not run, short schedule or small "
        "scale. Fewer than three runs: inconclusive. |d| + R(.95)/√n < margin: reproduced (two one-sided "
        "tests). Otherwise, |d| > R(.975) · √(1 + 1/n): better than the paper (d < 0) or not reproduced (d > "
        "0). Else inconclusive. Where records do not say which images were wrong, v is the binomial variance of "
        "the mean error, the most that independent images can make, with normal quantiles. The margin is "
        "declared with the experiment: the binomial 95 % half-width of the paper's figure, which is how far "
        "that figure may lie from its recipe's error on fresh images. Our runs and the paper's share their test "
        "images, so d itself holds only the scatter from run to run: ours, and that of the paper's figure, one "
        "more run.",
        f"The rule was tried on {TRIALS:,} made-up cells for each number of seeds, spread and true shift, with a "
        "fixed generator; the paper's figure is one more draw. Spread and shift are in margins. Under equality "
        f"the rule says “not reproduced” in at most {alarm:.1f} % (allowed: {100 * FALSE_ALARM:.0f} %). A shift "
        f"of {POWER_SHIFT} margins is found by {POWER_SEEDS} seeds in at least {100 * POWER:.0f} % as long as the "
        f"seeds' spread is at most {limit:.2f} margins. Beyond that more seeds are needed, not another rule: "
        f"{_beyond(limit)}.",
        f"It was also tried image by image (`make simulate`; {len(trials.CASES)} cases: "
        f"{_listed(trials.CASES, 'images')} test images, errors of {_listed(trials.CASES, 'error')} %, spreads "
        f"of {_listed(trials.CASES, 'spread')} points, {trials.TRIALS:,} made-up cells each), against other "
        "estimates of the scatter: the table has the worst case of each. With a spread of up to a quarter of "
        "the error, where the truth is the paper's, “not reproduced” comes in at most "
        f"{usual['false_not'].max():.1f} % and “better” in at most {usual['false_better'].max():.1f} %; where "
        f"the spread is half of the error, in {wide['false_not'].max():.1f} and {wide['false_better'].max():.1f} "
        f"%, as such errors are skewed. From {trials.POWER_FROM} points of spread on, against a shift of "
        f"{min(trials.SHIFTS)} to {max(trials.SHIFTS)} margins to either side, it has at most "
        f"{max(usual['lost'].max(), wide['lost'].max()):.1f} points less power than the seeds alone; without the "
        f"images, {unknown['lost'].max():.0f} points less at a shift of one margin.",
    )
    percent = "%"
    tried_columns = (
        *(Column("rule", "scatter by"), Column("spread", "spread", hint="wide: over a quarter of the error")),
        *(Column("seeds", "seeds", 0), Column("cases", "cases", 0)),
        Column("false_not", "false “not reproduced”", 1, percent, "the most, where the truth is the paper's"),
        Column("false_better", "false “better”", 1, percent, "the most, where the truth is the paper's"),
        Column(
            "lucky",
            "if lucky",
            1,
            percent,
            "both, in the fifth whose seeds agree most: the most, of spreads up to half a margin",
        ),
        Column("equal", "equal, “reproduced”", 1, percent, "the fewest, of spreads up to half a margin"),
        Column("found", "found", 1, percent, "three margins off, the fewest, of spreads up to half a margin"),
        Column("lost", "power lost", 1, "points", "the most, against the seeds alone"),
    )
    seen_columns = (
        *(Column("row", "row"), Column("dataset", "data set"), Column("scale", "scale")),
        *(Column("seeds", "seeds", 0), Column("spread", "spread", 3, "points"), Column("margin", "margin", 2)),
        Column("in_margins", "spread", 2, "margins"),
        Column("of_images", "of images", 3, "points", "√v: what independent images would make"),
        Column("counted", "from", hint="the images that runs disagree on, or the binomial variance"),
        Column("false_alarm", "false alarm", 1, percent, "equal, “not reproduced”, with the seeds there are"),
        Column("found", "found", 1, percent, "“not reproduced” three margins off, with the seeds there are"),
        Column("found_with_more", "found by five", 1, percent, "the same with five seeds"),
        CODE,
    )
    parts: list[Table | Figure] = [
        Figure(
            "simulation",
            "How often the rule says what, by seeds, spread and true shift (in margins).",
            "Shares of the four verdicts against the number of seeds, for several spreads and true shifts.",
            grid,
            charts.simulation,
        ),
        Table(
            "seeds-needed",
            "The largest spread at which so many seeds find a shift of three margins in 95 %.",
            needed(),
            (Column("n", "seeds", 0), Column("spread", "spread at most", 2, "margins")),
        ),
    ]
    if len(seen):
        caption = "The spread as observed. Small-scale cells are other nets: theirs need not be the paper's."
        parts.append(Table("spread-observed", caption, seen, with_note(seen, *with_order(seen, *seen_columns))))
    parts.append(
        Table("rules", "The rule and other estimates of the scatter, image by image.", worst, tried_columns)
    )
    return Section("verdicts", "Verdicts: the rule, and how often it errs", text, tuple(parts))


def _listed(cases: list[trials.Case], name: str) -> str:
    values = sorted({getattr(case, name) for case in cases})
    said = [f"{v:,}" if isinstance(v, int) else f"{v:g}" for v in values]
    return f"{', '.join(said[:-1])} and {said[-1]}"
