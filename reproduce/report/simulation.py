"""The verdict's rule tried on made-up runs: how often it says what, by seeds, spread and true shift.

A cell's runs are n draws from a normal distribution with the standard deviation `spread`; the paper's figure is
one more draw from the same distribution, moved by `shift`. Both are in margins, since the rule is the same at any
scale.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from reproduce.report import charts
from reproduce.report.evidence import Evidence, by_order, notes
from reproduce.report.parts import Column, Figure, Section, Table
from reproduce.report.rows import label
from reproduce.report.table1 import CODE, SCALES, with_note, with_order

VERDICTS = ("reproduced", "better than the paper", "not reproduced", "inconclusive")
REPRODUCED, BETTER, NOT_REPRODUCED, INCONCLUSIVE = range(4)
RULES = ("as it stands", "outside and beyond the margin", "equivalence by prediction")
SEEDS = tuple(range(1, 11))
SPREADS = (0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
SHIFTS = (0, 1, 2, 3)
TRIALS = 20_000
FALSE_ALARM, POWER, POWER_SEEDS, POWER_SHIFT = 0.05, 0.95, 5, 3  # what the rule has to keep

Floats = NDArray[np.float64]


def verdicts(errors: Floats, paper: Floats, margin: float, rule: str = RULES[0]) -> NDArray[np.int64]:
    """The rule of `reproduce.verdict.verdict` for many cells at once: errors (cells, n), paper (cells,).

    Gives indices into VERDICTS. The other RULES are variants, to compare: one calls a figure outside the
    prediction interval inconclusive while the mean is within the margin; one lets the equivalence test, too, take
    the paper's figure as a draw.
    """
    n = errors.shape[1]
    if n < 3:
        return np.full(len(errors), INCONCLUSIVE)
    difference, s = errors.mean(1) - paper, errors.std(1, ddof=1)
    of_one_more = s * np.sqrt(1 + 1 / n)
    of_mean = of_one_more if rule == RULES[2] else s / np.sqrt(n)
    equal = np.abs(difference) + stats.t.ppf(0.95, n - 1) * of_mean < margin
    outside = np.abs(difference) > stats.t.ppf(0.975, n - 1) * of_one_more
    if rule == RULES[1]:
        outside &= np.abs(difference) > margin
    side = np.where(difference < 0, BETTER, NOT_REPRODUCED)
    return np.where(equal, REPRODUCED, np.where(outside, side, INCONCLUSIVE))


@cache
def _draws() -> tuple[Floats, Floats]:
    """Standard normal numbers, the same for every case: runs (TRIALS, 10) and papers (TRIALS,)."""
    rng = np.random.default_rng(1602_02830)
    return rng.standard_normal((TRIALS, max(SEEDS))), rng.standard_normal(TRIALS)


def shares(n: int, spread: float, shift: float, rule: str = RULES[0]) -> Floats:
    """The share of each verdict: the runs' true mean lies `shift` margins above that of the paper's figure."""
    ours, paper = _draws()
    found = verdicts(shift + spread * ours[:, :n], spread * paper, 1.0, rule)
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


def promises(spreads: Sequence[float] = SPREADS) -> pd.DataFrame:
    """What the rule and its variants keep, by spread; shares in percent.

    Columns: rule, spread, false_alarm (under equality "not reproduced", the largest over n), found (the same words
    at a shift of POWER_SHIFT margins with POWER_SEEDS seeds), equal (under equality "reproduced", POWER_SEEDS
    seeds), wrong_equal ("reproduced" at a shift of one margin, POWER_SEEDS seeds), kept.
    """
    lines = []
    for rule in RULES:
        for spread in spreads:
            alarm = max(shares(n, spread, 0, rule)[NOT_REPRODUCED] for n in SEEDS)
            found = shares(POWER_SEEDS, spread, POWER_SHIFT, rule)[NOT_REPRODUCED]
            lines.append(
                {
                    "rule": rule,
                    "spread": spread,
                    "false_alarm": 100 * alarm,
                    "found": 100 * found,
                    "equal": 100 * shares(POWER_SEEDS, spread, 0, rule)[REPRODUCED],
                    "wrong_equal": 100 * shares(POWER_SEEDS, spread, 1, rule)[REPRODUCED],
                    "kept": _kept(alarm, found),
                }
            )
    return pd.DataFrame(lines)


def _kept(alarm: float, found: float) -> str:
    if alarm > FALSE_ALARM:
        return "neither" if found < POWER else "only the shift"
    return "only equality" if found < POWER else "both"


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

    One line per cell, scale, image order and code: seeds, spread (points) and in margins, shares in percent as in
    `promises`, with the cell's own number of seeds and with POWER_SEEDS.
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
            spread = float(np.std(errors, ddof=1))
            n = min(len(errors), max(SEEDS))
            line: dict[str, object] = {"row": cell.experiment.row, "scale": scale, "seeds": n}
            line |= {"dataset": cell.experiment.dataset, "cell": cell.name, "order": order[:6]}
            line |= {"spread": spread, "margin": margin, "in_margins": spread / margin}
            line["false_alarm"] = 100 * shares(n, spread / margin, 0)[NOT_REPRODUCED]
            line["found"] = 100 * shares(n, spread / margin, POWER_SHIFT)[NOT_REPRODUCED]
            line["found_with_more"] = 100 * shares(POWER_SEEDS, spread / margin, POWER_SHIFT)[NOT_REPRODUCED]
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


def _variants(by_rule: pd.DataFrame) -> str:
    """What the variants would win and lose, from `promises`."""
    mine, beyond, predicted = (by_rule[by_rule["rule"] == rule].reset_index() for rule in RULES)
    saved = (mine["false_alarm"] - beyond["false_alarm"]).max()
    lost = (mine["found"] - beyond["found"]).max()
    at = int((mine["equal"] - predicted["equal"]).argmax())
    return (
        "Two variants were held against it by the same simulation (table below). Asking that the mean also lie "
        f"beyond the margin saves at most {saved:.1f} points of false “not reproduced” and loses at most "
        f"{lost:.2f} of the true ones. Counting the paper's figure as a draw in the equivalence test, too, would "
        f"bring wrong “reproduced” at a shift of one margin from {mine['wrong_equal'].max():.0f} % down to "
        f"{predicted['wrong_equal'].max():.0f} %, but at a spread of {mine['spread'][at]:g} margins true ones "
        f"from {mine['equal'][at]:.0f} % to {predicted['equal'][at]:.0f} %. Neither is better on both counts by "
        "much; the rule stays as it was declared."
    )


def section(evidence: Evidence) -> Section:
    """The rule in words, the simulation's table as a figure, what it keeps, and where the cells stand."""
    by_rule, seen = promises(), observed(evidence)
    alarm = by_rule.loc[by_rule["rule"] == RULES[0], "false_alarm"].max()
    limit = widest(POWER_SEEDS)
    text = (
        "A cell's verdict is computed from its runs. With d = our mean minus the paper's figure, s the standard "
        "deviation of n runs, and a margin declared with the experiment (the binomial 95 % half-width of the "
        "paper's own figure: its test-set noise, which is therefore not added again), the first that applies: not "
        "at the paper's scale: not run, short schedule or small scale; n < 3: inconclusive; "
        "|d| + t(.95, n-1) · s/√n < margin: reproduced (two one-sided tests); the paper's figure outside "
        "mean ± t(.975, n-1) · s · √(1 + 1/n): better than the paper (d < 0) or not reproduced (d > 0); "
        "else inconclusive.",
        f"The rule was tried on {TRIALS:,} made-up cells for each number of seeds, spread and true shift, with a "
        "fixed generator; the paper's figure is one more draw. Spread and shift are in margins. Under equality "
        f"the rule says “not reproduced” in at most {alarm:.1f} % (allowed: {100 * FALSE_ALARM:.0f} %). A shift "
        f"of {POWER_SHIFT} margins is found by {POWER_SEEDS} seeds in at least {100 * POWER:.0f} % as long as the "
        f"seeds' spread is at most {limit:.2f} margins. Beyond that more seeds are needed, not another rule: "
        f"{_beyond(limit)}.",
        _variants(by_rule),
    )
    percent = "%"
    rule_columns = (
        Column("rule", "rule"),
        Column("spread", "spread", 2, "margins"),
        Column("false_alarm", "false alarm", 1, percent, "equal, “not reproduced”: most over 1 to 10 seeds"),
        Column("found", "found", 1, percent, "“not reproduced” three margins off, five seeds"),
        Column("equal", "equal, “reproduced”", 1, percent, "under equality, five seeds"),
        Column("wrong_equal", "one off, “reproduced”", 1, percent, "one margin off, five seeds"),
        Column("kept", "keeps"),
    )
    seen_columns = (
        *(Column("row", "row"), Column("dataset", "data set"), Column("scale", "scale")),
        *(Column("seeds", "seeds", 0), Column("spread", "spread", 3, "points"), Column("margin", "margin", 2)),
        Column("in_margins", "spread", 2, "margins"),
        Column("false_alarm", "false alarm", 1, percent, "equal, “not reproduced”, with the seeds there are"),
        Column("found", "found", 1, percent, "“not reproduced” three margins off, with the seeds there are"),
        Column("found_with_more", "found by five", 1, percent, "the same with five seeds"),
        CODE,
    )
    grid = table()
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
    parts.append(Table("rules", "The rule and two variants of it.", by_rule, rule_columns))
    return Section("verdicts", "Verdicts: the rule, and how often it errs", text, tuple(parts))
