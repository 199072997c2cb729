"""The verdict's rule in words, and how often it errs by the committed simulation (`simulation.TABLE`)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from reproduce import verdict_simulation as simulation
from reproduce.report.html.parts import Column, Section, Table
from reproduce.verdict_simulation import CASES

NEAR = 0.1
"""The largest relative difference between the spread that a case has and the one it was made for."""


def tried() -> pd.DataFrame:
    """The worst cases in `simulation.TABLE`, for each rule and number of seeds.

    Left out: cases whose errors scatter otherwise than they should. These are the smallest spreads, where a whole
    image more or less is a large part.

    Columns: spread ("wide" where it is over a quarter of the error, else "usual"), rule, seeds, cases; false_not,
    false_better and false_equal (the largest); of spreads up to half a margin lucky (the largest), equal and found
    (the smallest); lost (the largest from simulation.POWER_FROM points of spread on); in percent and points.
    """
    found = pd.read_csv(simulation.TABLE)
    found = found[(found["real_spread"] / found["spread"] - 1).abs() < NEAR]
    margin = 1.96 * np.sqrt(found["error"] * (100 - found["error"]) / found["images"])
    lines = []
    for wide in (False, True):
        for rule in simulation.RULES:
            for seeds in simulation.SEEDS:
                here = (found["rule"] == rule) & (found["seeds"] == seeds)
                here &= (found["spread"] > found["error"] / 4) == wide
                of, near = found[here], found[here & (found["spread"] <= margin / 2)]
                lines.append(
                    {"spread": "wide" if wide else "usual", "rule": rule, "seeds": seeds, "cases": len(of)}
                    | {name: of[name].max() for name in ("false_not", "false_better", "false_equal")}
                    | {"lucky": near["lucky"].max()}
                    | {name: near[name].min() for name in ("equal", "found")}
                    | {"lost": of.loc[of["spread"] >= simulation.POWER_FROM, "lost"].max()}
                )
    return pd.DataFrame(lines)


def section() -> Section:
    """The rule in a paragraph, and the worst of the simulation."""
    worst, percent = tried(), "%"
    used = int(worst[(worst["rule"] == simulation.NOW) & (worst["seeds"] == simulation.SEEDS[0])]["cases"].sum())
    usual, wide = (worst[(worst["rule"] == simulation.NOW) & (worst["spread"] == of)] for of in ("usual", "wide"))
    now = worst[worst["rule"] == simulation.NOW].groupby("seeds")["false_equal"].max()
    one_away = " and ".join(f"{value:.0f} % of cases with {seeds}" for seeds, value in now.items())
    unknown = worst[(worst["rule"] == "images not known") & (worst["spread"] == "usual")]
    text = (
        "A cell's verdict is computed from its runs. Let d be our mean minus the paper's figure, s the standard "
        "deviation of n runs, and v the variance that their disagreement on single images would make if images "
        "were independent: with k of n runs wrong on an image, v = Σ k (n - k) / (n (n - 1)) / N² over the N "
        "test images. A run is taken to scatter by R(p) = max(t(p, n-1) · s, t(p, n+1) · √v), where t(p, k) "
        "is the p-quantile of Student's t with k degrees of freedom. Few seeds can agree by luck; thousands of "
        "images show how far runs really differ. Not at the paper's scale: not run, short schedule or small "
        "scale. Fewer than three runs: inconclusive. |d| + R(.95)/√n < margin: reproduced (two one-sided "
        "tests). Otherwise, |d| > R(.975) · √(1 + 1/n): better than the paper (d < 0) or not reproduced (d > "
        "0). Else inconclusive. So “reproduced” takes the paper's figure as it stands; the other two take it for "
        "one more run. Where records do not say which images were wrong, v is the binomial variance of "
        "the mean error, the most that independent images can make, with normal quantiles. The margin is "
        "declared with the experiment: the binomial 95 % half-width of the paper's figure, which is how far "
        "that figure may lie from its recipe's error on fresh images. Our runs and the paper's share their test "
        "images, so d itself holds only the scatter from run to run: ours, and that of the paper's figure, one "
        "more run.",
        f"The rule was tried image by image (`make simulate`; {len(CASES)} cases: {_listed(CASES, 'images')} test "
        f"images, errors of {_listed(CASES, 'error')} %, spreads of {_listed(CASES, 'spread')} points, "
        f"independent images making {_listed(CASES, 'share')} of their variance; {simulation.TRIALS:,} made-up "
        f"cells each; {len(CASES) - used} of the cases, whose errors scattered less than stated, are left out), "
        "against other estimates of the scatter: the table has the worst case of each. With a spread of up to a "
        "quarter of the error, where the truth is the paper's, “not reproduced” is wrongly said in at most "
        f"{usual['false_not'].max():.1f} % and “better” in at most {usual['false_better'].max():.1f} % of cases; "
        "where "
        f"the spread is half of the error, in {wide['false_not'].max():.1f} and {wide['false_better'].max():.1f} "
        f"%, as such errors are skewed. Where the truth is one margin away, “reproduced” is wrongly said in at "
        f"most {one_away} seeds, as the paper's figure is but one run; with more seeds it is more often. "
        f"From {simulation.POWER_FROM} points of spread on, against a shift of "
        f"{min(simulation.SHIFTS)} to {max(simulation.SHIFTS)} margins to either side, it has at most "
        f"{max(usual['lost'].max(), wide['lost'].max()):.1f} points less power than the seeds alone; without the "
        f"images, {unknown['lost'].max():.0f} points less at a shift of one margin.",
    )
    columns = (
        *(Column("rule", "scatter by"), Column("spread", "spread", hint="wide: over a quarter of the error")),
        Column("seeds", "seeds", 0),
        Column("false_not", "false “not reproduced”", 1, percent, "worst case, where the truth is the paper's"),
        Column("false_better", "false “better”", 1, percent, "worst case, where the truth is the paper's"),
        Column(
            *("false_equal", "at a margin", 1, percent),
            "wrongly called “reproduced” where the truth is one margin above or below the paper's: the worst case",
        ),
        Column(
            "lucky",
            "if lucky",
            1,
            percent,
            "wrong verdicts of either kind among the 20 % of cells whose seeds agree best: the worst case of "
            "spreads up to half a margin",
        ),
        Column(
            "equal",
            "equal",
            1,
            percent,
            "called “reproduced” where both are equal: the worst case of spreads up to half a margin",
        ),
        Column(
            "found",
            "found",
            1,
            percent,
            "called “not reproduced” at three margins too many errors: the worst case of spreads up to half a "
            "margin",
        ),
        Column(
            *("lost", "power lost", 1, "points"),
            f"largest loss of power compared with the seeds alone, for spreads of {simulation.POWER_FROM} points "
            "or more",
        ),
    )
    table = Table("rules", "The rule and other estimates of the scatter, image by image.", worst, columns)
    return Section("verdicts", "Verdicts: the rule, and how often it errs", text, (table,))


def _listed(cases: list[simulation.Case], name: str) -> str:
    values = sorted({getattr(case, name) for case in cases})
    said = [f"{v:,}" if isinstance(v, int) else f"{v:g}" for v in values]
    return f"{', '.join(said[:-1])} and {said[-1]}"
