"""Two stores or more held against each other, cell by cell, or two cells of one store; and image by image."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from reproduce import spec
from reproduce.records import Record
from reproduce.records.benchmark import Bench, Ratio
from reproduce.report.evidence import Evidence, by_order, marks
from reproduce.report.html.parts import Column, Section, Table
from reproduce.report.rows import label
from reproduce.report.sections import mcnemar, speed
from reproduce.report.sections.mcnemar import DIFFERENT, IDENTICAL, SAME
from reproduce.report.sections.table1 import (
    CODE,
    SCALES,
    machines,
    revisions,
    tested,
    threads,
    with_note,
    with_order,
)
from reproduce.verdict import half_width, summarize

TOO_FEW = "too few runs"
APART, OVERLAP, SINGLE, SAME_RECORD = "intervals apart", "intervals overlap", "single timing", "the same record"
MEASURES = ("seeds", "mean", "low", "high", "machine", "threads", "revision", "code")
COLUMNS = ["cell", "row", "dataset", "scale", "order", "first", "second"]
COLUMNS += [f"{what}_{of}" for of in ("first", "second") for what in MEASURES]
COLUMNS += ["difference", "difference_low", "difference_high", "verdict"]
Key = tuple[str, str, str]
Groups = dict[Key, list[list[Record]]]


Sides = tuple[dict[str, object], list[Record], list[Record]]
"""A comparison: its columns in the tables, and both groups of records."""


def of_stores(stores: Sequence[Evidence]) -> list[Sides]:
    """Every cell, scale and image order that the first store and another have."""
    found = []
    first, *others = stores
    for other in others:
        groups = [by_order(store.runs) for store in (first, other)]
        for cell in first.cells:
            for name, scale, order in _shared(*groups):
                if name != cell.name:
                    continue
                for mine, theirs in itertools.product(*(group[name, scale, order] for group in groups)):
                    line: dict[str, object] = {"cell": cell.name, "row": cell.experiment.row, "scale": scale}
                    line |= {"dataset": cell.dataset_at(mine[0].scale), "order": order[:6]}
                    found.append(_sides(line, (first, other), [mine, theirs], (first.name, other.name)))
    return found


def of_cells(evidence: Evidence, first: spec.Cell, second: spec.Cell) -> list[Sides]:
    """Two cells of one store, at each scale and with each image order that both were run with."""
    groups = by_order(evidence.runs)
    rows = dict.fromkeys(cell.experiment.row for cell in (first, second))
    found = []
    for (name, scale, order), of_first in groups.items():
        if name != first.name:
            continue
        for mine, theirs in itertools.product(of_first, groups.get((second.name, scale, order), [])):
            datasets = dict.fromkeys(cell.dataset_at(mine[0].scale) for cell in (first, second))
            line: dict[str, object] = {"cell": first.name, "row": ", ".join(rows), "scale": scale}
            line |= {"dataset": ", ".join(datasets), "order": order[:6]}
            found.append(_sides(line, (evidence, evidence), [mine, theirs], (first.name, second.name)))
    return found


def _sides(
    line: dict[str, object], stores: tuple[Evidence, Evidence], both: list[list[Record]], names: tuple[str, str]
) -> Sides:
    line |= {"first": names[0], "second": names[1]} | marks(*both[0], *both[1])
    line["records"] = "; ".join(store.paths(group) for store, group in zip(stores, both, strict=True))
    return line, both[0], both[1]


def frame(found: Sequence[Sides]) -> pd.DataFrame:
    """A line for each: both mean errors, and second minus first."""
    lines = [line | _measures(first, second) for line, first, second in found]
    return pd.DataFrame(lines, columns=[*COLUMNS, "dirty", "note", "records"])


# --- where, what is left out, speeds --------------------------------------------------------------------------


def _shared(first: Groups, second: Groups) -> list[Key]:
    """The keys that both have, the paper's scale first."""
    return sorted(set(first) & set(second), key=lambda key: (SCALES.index(key[1]), key))


def where(found: pd.DataFrame) -> pd.DataFrame:
    """Two lines from each line of `frame`, one for each store: where, how and by what code its runs were made."""
    shared = ["row", "dataset", "scale", "order", "cell"]
    names = ["seeds", "machine", "threads", "revision", "code"]
    sides = [
        found[[*shared, of, *(f"{name}_{of}" for name in names)]].set_axis([*shared, "store", *names], axis=1)
        for of in ("first", "second")
    ]
    return pd.concat(sides).drop_duplicates().sort_index(kind="stable").reset_index(drop=True)


def left_out(stores: Sequence[Evidence]) -> list[str]:
    """What the comparison leaves out: cells that only one store has, and records that could not be used."""
    said = []
    first, *others = stores
    for other in others:
        one, two = (set(by_order(store.runs)) for store in (first, other))
        for name, keys in ((first.name, one - two), (other.name, two - one)):
            cells = ", ".join(f"{cell} ({scale}, image order {order[:6]})" for cell, scale, order in sorted(keys))
            said += (
                [f"Left out, since of {first.name} and {other.name} only {name} has it: {cells}."] if cells else []
            )
    return said + [f"Left out of {store.name}: {problem}." for store in stores for problem in store.problems]


def speeds(stores: Sequence[Evidence]) -> pd.DataFrame:
    """Ratios of speed that the first store and another have, of the newest records of each machine and kind.

    Of kernels and nets those to the naive kernel and to torch float32, of training those of the two loops.
    """
    lines = []
    first, *others = stores
    for other in others:
        for mine, theirs in itertools.product(_benches(first), _benches(other)):
            if mine.kind != theirs.kind:
                continue
            here, second = _ratios(mine), _ratios(theirs)
            for key, ratio in here.items():
                two_ways = (key[0], key[2], key[1]) in here  # training's two loops: the faster one's is shown
                if key not in second or (two_ways and ratio.ratio < 1):
                    continue
                line: dict[str, object] = dict(zip(("what", "candidate", "against"), key, strict=True))
                for of, store, bench, found in (
                    ("first", first, mine, ratio),
                    ("second", other, theirs, second[key]),
                ):
                    line |= {of: store.name, f"machine_{of}": bench.machine.name}
                    line |= {f"revision_{of}": (bench.code.revision or "unknown")[:8]}
                    line |= {f"times_{of}": found.ratio, f"low_{of}": found.low, f"high_{of}": found.high}
                line |= marks(mine, theirs) | {"records": f"{mine.path}; {theirs.path}"}
                lines.append(line | {"verdict": _apart(mine, theirs, ratio, second[key])})
    columns = ["what", "candidate", "against"]
    for of in ("first", "second"):
        columns += [of, *(f"{name}_{of}" for name in ("machine", "revision", "times", "low", "high"))]
    return pd.DataFrame(lines, columns=[*columns, "verdict", "dirty", "note", "records"])


def _benches(store: Evidence) -> list[Bench]:
    return [*speed.latest(store.benches), *speed.latest(store.training)]


def _ratios(bench: Bench) -> dict[tuple[str, str, str], Ratio]:
    """How many times as fast a candidate is, by what was timed, the candidate's name and the other's."""
    return {
        (speed.named(row), row.candidate, other): ratio
        for row in bench.rows
        for other, ratio in row.times_faster_than.items()
        if (bench.kind.startswith("train") or other.startswith(("naive", "torch float32")))
    }


def _apart(mine: Bench, theirs: Bench, one: Ratio, two: Ratio) -> str:
    if mine.started == theirs.started and mine.machine == theirs.machine:
        return SAME_RECORD
    if one.low is None or one.high is None or two.low is None or two.high is None:
        return SINGLE
    return OVERLAP if one.low <= two.high and two.low <= one.high else APART


def _measures(first: Sequence[Record], second: Sequence[Record]) -> dict[str, object]:
    line: dict[str, object] = {}
    errors = [[r.result.test_error for r in group if r.result] for group in (first, second)]
    for group, of in ((first, "first"), (second, "second")):
        found = summarize([r.result.test_error for r in group if r.result], *tested(group))
        line |= {f"seeds_{of}": found.n, f"mean_{of}": found.mean}
        line |= {f"low_{of}": found.low, f"high_{of}": found.high}
        line |= {f"machine_{of}": machines(group), f"threads_{of}": threads(group)}
        line |= {f"revision_{of}": revisions(group), f"code_{of}": label(group)}
    line["difference"] = float(np.mean(errors[1]) - np.mean(errors[0]))
    if sorted((r.key, r.started) for r in first) == sorted((r.key, r.started) for r in second):
        return line | {"verdict": IDENTICAL}
    if 1 in map(len, errors):  # its scatter is not known
        return line | {"verdict": TOO_FEW}
    half = math.hypot(*(half_width(0.975, e, *tested(g)) for e, g in zip(errors, (first, second), strict=True)))
    low, high = (float(np.mean(errors[1]) - np.mean(errors[0])) + side * half for side in (-1, 1))
    words = SAME if low <= 0 <= high else DIFFERENT
    return line | {"difference_low": low, "difference_high": high, "verdict": words}


def sections(stores: Sequence[Evidence]) -> list[Section]:
    """The stores' cells side by side, image by image, where they were run, the speeds, and what is left out."""
    first, *others = (store.name for store in stores)
    found, timed = of_stores(stores), speeds(stores)
    named = {"first": [], "second": [Column("second", "second store")] if len(others) > 1 else []}
    order = f": first {first}, second {others[0] if len(others) == 1 else 'as named'}"
    parts = _errors(found, f"Cells that both stores have{order}.", named)
    if len(timed):
        ratios = [Column("what", "what"), Column("candidate", "candidate"), Column("against", "as fast as")]
        for number, of in enumerate(("first", "second"), 1):
            ratios += [*named[of], Column(f"machine_{of}", f"machine {number}")]
            ratios += [
                Column(f"times_{of}", "times", 2),
                Column(f"low_{of}", "interval", 1, to=f"high_{of}"),
            ]
        ratios.append(Column("verdict", "verdict"))
        said = (
            "How many times as fast, in the newest benchmark of each machine, with 95 % bootstrap intervals. "
            "Intervals that lie apart are a difference; those that overlap may hide one.",
        )
        table = Table(
            "compare-speed", f"Ratios of speed that both stores have{order}.", timed, with_note(timed, *ratios)
        )
        parts.append(Section("compare-speed", "Speed compared", said, (table,)))
    missing = left_out(stores)
    return [*parts, Section("left-out", "Left out", tuple(missing), ())] if missing else parts


def cell_sections(evidence: Evidence, first: spec.Cell, second: spec.Cell) -> list[Section]:
    """Two cells of a store side by side, and image by image."""
    found = of_cells(evidence, first, second)
    if not found:
        none = (
            f"No scale and image order at which {evidence.name} has runs of both {first.name} and {second.name}."
        )
        return [Section("left-out", "Left out", (none,), ())]
    return _errors(found, f"First {first.name}, second {second.name}.", {"first": [], "second": []})


def _errors(found: Sequence[Sides], caption: str, named: dict[str, list[Column]]) -> list[Section]:
    """Mean errors side by side with where the runs were made, then the runs image by image."""
    table = frame(found)
    text = (
        "Test error in percent at the best validation epoch, with the 95 % prediction interval of one more run, "
        "and the difference of the means (second minus first) with its 95 % confidence interval. Runs are "
        "taken to scatter as by the verdicts' rule; the half-widths of the two means are added as squares. "
        "“Different” means that this interval leaves out zero; with many cells one in twenty does so by chance. "
        "“Too few runs”: one, whose scatter is not known.",
    )
    what = [Column("row", "row"), Column("dataset", "data set"), Column("scale", "scale")]
    columns = [*what]
    several = table.duplicated(["cell", "scale", "order", "first", "second"]).any()
    for of in ("first", "second"):
        columns += [*named[of], Column(f"mean_{of}", of, 2, "%", "mean error of the runs")]
        if several:  # there is no room for the intervals too, which are in the CSV
            columns.append(Column(f"code_{of}", f"{of} made by", hint=CODE.hint))
        else:
            columns += [Column(f"low_{of}", "95 % prediction", 2, "%", to=f"high_{of}")]
    columns += [
        Column("difference", "difference", 2, "points"),
        *(Column("difference_low", "interval", 2, "points", to="difference_high"), Column("verdict", "verdict")),
    ]
    made = where(table)
    places = (
        *(*what, Column("store", "of")),
        *(Column("machine", "machine"), Column("threads", "threads")),
        *(Column("revision", "revision", hint="of the code: its first digits"), Column("seeds", "seeds", 0)),
        CODE,
    )
    return [
        Section(
            "compare",
            "Compared",
            text,
            (
                Table("compare", caption, table, with_note(table, *with_order(table, *columns))),
                Table(
                    "compare-where",
                    "Where, how and with what code they were run.",
                    made,
                    with_order(made, *places),
                ),
            ),
        ),
        mcnemar.section(found, caption, named["second"]),
    ]
