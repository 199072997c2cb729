"""Figure 1: CIFAR-10 training curves, the paper's (read off its bitmap) behind ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from reproduce.records import Record
from reproduce.report import charts
from reproduce.report.evidence import Evidence, notes, the_paper
from reproduce.report.parts import Column, Figure, Section, Table
from reproduce.report.rows import label, main
from reproduce.report.table1 import CODE, SCALES, again, with_note

SERIES = ("baseline (float)", "BNN (Theano)", "BNN (Torch7)")
COLUMNS = ["series", "source", "scale", "quantity", "epoch", "value", "low", "high", "seeds"]
ERROR, COST = "validation error", "training cost"


def printed() -> list[dict[str, Any]]:
    """The paper's points: the middle of the digitised range; NaN where it lies above the axis."""
    figure = the_paper()["figure1"]
    lines = []
    for curve in figure["curves"]:
        series = next(s for s in SERIES if curve["curve"].startswith(s.split(" (float)")[0]))
        for epoch, low, high in zip(figure["epochs"], curve["low"], curve["high"], strict=True):
            low, high = (np.nan if edge is None else edge for edge in (low, high))
            point = {"series": series, "source": "paper", "scale": "paper", "quantity": ERROR, "epoch": epoch}
            lines.append(point | {"value": (low + high) / 2, "low": low, "high": high, "seeds": 1})
    return lines


def measured(evidence: Evidence) -> Iterator[tuple[str, str, list[Record]]]:
    """Series, scale and runs of every CIFAR-10 cell of the figure that has been run; of several codes one's."""
    cells = {c.name: c for c in evidence.cells}
    for series in SERIES:
        for scale in SCALES:
            group = main(
                r
                for r in evidence.runs
                if r.scale == scale
                and cells[r.cell].experiment.row == series
                and cells[r.cell].experiment.dataset == "CIFAR-10"
                and r.curve
            )
            if group:
                yield series, scale, group


def frame(evidence: Evidence) -> pd.DataFrame:
    """Mean and range over seeds at every epoch that all of them have, after the paper's points; COLUMNS."""
    lines = printed()
    for series, scale, group in measured(evidence):
        for epoch in range(min(len(r.curve) for r in group)):
            rows = [r.curve[epoch] for r in group]
            errors = [
                100 * row.valid_wrong / r.result.valid_images
                for row, r in zip(rows, group, strict=True)
                if r.result
            ]
            for quantity, values in ((ERROR, errors), (COST, [row.train_loss for row in rows])):
                point: dict[str, Any] = {"series": series, "source": "ours", "scale": scale}
                point["quantity"] = quantity
                point |= {"epoch": rows[0].epoch, "value": float(np.mean(values)), "seeds": len(values)}
                lines.append(point | {"low": min(values), "high": max(values)})
    return pd.DataFrame(lines, columns=COLUMNS)


def summary(evidence: Evidence) -> pd.DataFrame:
    """One line per curve: its last and its best validation error (mean over seeds), the paper's last beside it."""
    last = {p["series"]: p["value"] for p in printed()}
    lines = []
    for series, scale, group in measured(evidence):
        final = [100 * r.curve[-1].valid_wrong / r.result.valid_images for r in group if r.result]
        remarks = sorted({n for r in group for n in notes(r)})
        lines.append(
            {
                "series": series,
                "scale": scale,
                "epochs": min(len(r.curve) for r in group),
                "seeds": len(group),
                "last": float(np.mean(final)),
                "best": float(np.mean([r.result.valid_error for r in group if r.result])),
                "cost": float(np.mean([r.curve[-1].train_loss for r in group])),
                "paper": last[series] if scale == "paper" else None,
                "dirty": bool(remarks),
                "note": "; ".join(remarks),
                "code": label(group),
                "records": evidence.paths(group),
                "again": again(group[0].cell, scale, group),
            }
        )
    columns = ["series", "scale", "epochs", "seeds", "last", "best", "cost", "paper", "code"]
    return pd.DataFrame(lines, columns=[*columns, "dirty", "note", "records", "again"])


def section(evidence: Evidence) -> Section:
    """The figure at the paper's scale, one of the smaller nets if they were run, and where the curves end."""
    every, ends = frame(evidence), summary(evidence)
    small = every[(every["scale"] == "small") & (every["source"] == "ours")].reset_index(drop=True)
    large = every[every["scale"] != "small"].reset_index(drop=True)
    ours = large[large["source"] == "ours"]
    said = (
        f"Our curves at the paper's scale: {', '.join(dict.fromkeys(ours['series']))}."
        if len(ours)
        else "None of its three nets has been trained at the paper's scale yet: only the paper's points are drawn."
    )
    text = (
        "Validation error and training cost (squared hinge) against the epoch on CIFAR-10: the same net in 32-bit "
        "float, and the two BNNs. The paper's points are ranges read off the printed bitmap, ± 0.3 points; what "
        "lies above its axis is an arrow at its top, and it prints no numbers for the cost. "
        f"{said} Bands are the range over seeds. Of runs by several training codes those of one are drawn: of the "
        "code with the most seeds.",
    )
    parts: list[Table | Figure] = [
        Figure(
            "figure1",
            "Figure 1 at the paper's scale: the paper's points behind our curves. To be told apart, the points of "
            f"two nets are drawn {charts.SHIFT} epochs aside, to the left and to the right; the data hold the "
            "true epochs.",
            "Validation error and training cost of three nets on CIFAR-10 against the epoch.",
            large,
            charts.figure1,
        )
    ]
    if len(small):
        caption = "The same for the small nets: not the paper's, a handful of epochs on part of the images."
        alt = "Validation error and training cost of the small nets on CIFAR-10 against the epoch."
        parts.append(Figure("figure1-small", caption, alt, small, charts.figure1))
    if len(ends):
        columns = (
            *(Column("series", "net"), Column("scale", "scale"), Column("epochs", "epochs", 0)),
            *(Column("seeds", "seeds", 0), Column("last", "validation error, last epoch", 2, "%")),
            *(Column("best", "best epoch", 2, "%"), Column("paper", "paper, epoch 500", 2, "%")),
            *(Column("cost", "training cost, last epoch", 4), CODE),
        )
        parts.append(Table("figure1-ends", "Where the curves end.", ends, with_note(ends, *columns)))
    return Section("figure1", "Figure 1: training curves", text, tuple(parts))
