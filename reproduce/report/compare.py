"""Two stores or more held against each other, cell by cell: another machine, another revision."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from reproduce import runs
from reproduce.report.evidence import Evidence, notes
from reproduce.report.parts import Column, Section, Table
from reproduce.report.table1 import SCALES, with_note
from reproduce.verdict import summarize

SAME, DIFFERENT, TOO_FEW, IDENTICAL = "no difference seen", "different", "too few runs", "the same runs"
COLUMNS = ["cell", "row", "dataset", "scale", "first", "second"]
COLUMNS += [f"{what}_{of}" for of in ("first", "second") for what in ("seeds", "mean", "low", "high")]
COLUMNS += ["difference", "difference_low", "difference_high", "verdict"]


def welch(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """95 % confidence interval of the difference of two means (second minus first), variances not taken as equal.

    Each needs two values. Where nothing varies the interval is the difference itself.
    """
    a, b = (np.var(values, ddof=1) / len(values) for values in (first, second))
    difference, error = float(np.mean(second) - np.mean(first)), math.sqrt(a + b)
    if error == 0:
        return difference, difference
    freedom = (a + b) ** 2 / (a**2 / (len(first) - 1) + b**2 / (len(second) - 1))
    half = float(stats.t.ppf(0.975, freedom)) * error
    return difference - half, difference + half


def frame(stores: Sequence[Evidence]) -> pd.DataFrame:
    """One line per cell and scale that the first store and another have: both, and second minus first."""
    lines = []
    first = stores[0]
    for other in stores[1:]:
        for cell in first.cells:
            for scale in SCALES:
                both = [
                    [r for r in s.runs if (r.cell, r.scale) == (cell.name, scale) and r.result]
                    for s in (first, other)
                ]
                if all(both):
                    line: dict[str, object] = {"cell": cell.name, "row": cell.experiment.row}
                    line["scale"] = scale
                    line |= {"dataset": cell.dataset_at(scale), "first": first.name, "second": other.name}  # type: ignore[arg-type]
                    remarks = sorted({n for group in both for r in group for n in notes(r)})
                    line |= {"dirty": bool(remarks), "note": "; ".join(remarks)}
                    line["records"] = f"{first.paths(both[0])}; {other.paths(both[1])}"
                    lines.append(line | _measures(*both))
    return pd.DataFrame(lines, columns=[*COLUMNS, "dirty", "note", "records"])


def _measures(first: Sequence[runs.Record], second: Sequence[runs.Record]) -> dict[str, object]:
    line: dict[str, object] = {}
    errors = [[r.result.test_error for r in group if r.result] for group in (first, second)]
    for values, of in zip(errors, ("first", "second"), strict=True):
        found = summarize(values)
        line |= {
            f"seeds_{of}": found.n,
            f"mean_{of}": found.mean,
            f"low_{of}": found.low,
            f"high_{of}": found.high,
        }
    line["difference"] = float(np.mean(errors[1]) - np.mean(errors[0]))
    if sorted((r.key, r.started) for r in first) == sorted((r.key, r.started) for r in second):
        return line | {"verdict": IDENTICAL}
    if min(map(len, errors)) < 2:
        return line | {"verdict": TOO_FEW}
    low, high = welch(*errors)
    words = SAME if low <= 0 <= high else DIFFERENT
    return line | {"difference_low": low, "difference_high": high, "verdict": words}


def section(stores: Sequence[Evidence]) -> Section:
    """The stores' cells side by side."""
    found = frame(stores)
    only = sum(
        1
        for other in stores[1:]
        for pair in {(r.cell, r.scale) for r in stores[0].runs} ^ {(r.cell, r.scale) for r in other.runs}
    )
    text = (
        "Test error in percent at the best validation epoch, with the 95 % prediction interval of one more run, "
        "and the difference of the means (second minus first) with its 95 % confidence interval after Welch. "
        "“Different” means that this interval leaves out zero; with many cells one in twenty does so by chance. "
        f"{only} cell(s) that only one of two stores has are left out.",
    )
    columns = [Column("row", "row"), Column("dataset", "data set"), Column("scale", "scale")]
    for of in ("first", "second"):
        columns += [
            Column(of, f"{of} store"),
            Column(f"mean_{of}", "mean", 2, "%"),
            Column(f"low_{of}", "from", 2, "%"),
            Column(f"high_{of}", "to", 2, "%"),
            Column(f"seeds_{of}", "seeds", 0),
        ]
    columns += [
        *(Column("difference", "difference", 2, "points"), Column("difference_low", "from", 2, "points")),
        *(Column("difference_high", "to", 2, "points"), Column("verdict", "verdict")),
    ]
    table = Table("compare", "Cells that both stores have.", found, with_note(found, *columns))
    return Section("compare", "Stores compared", text, (table,))
