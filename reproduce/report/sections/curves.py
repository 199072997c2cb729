"""Training curves of the runs at the paper's scale and on short schedules, with the paper's Figure 1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from reproduce.records import Record, Running
from reproduce.report.evidence import Evidence, marks, the_paper
from reproduce.report.html import charts
from reproduce.report.html.parts import Column, Figure, Section, Table
from reproduce.report.rows import grouped, label, main
from reproduce.report.sections.table1 import CODE, DATASETS, ROWS, again, with_note

SERIES = {"baseline (float)": "baseline", "BNN (Theano)": "BNN (Theano)", "BNN (Torch7)": "BNN (Torch7)"}
"""The nets of Figure 1 on CIFAR-10, as experiments call them: how the paper's curves begin."""
SHOWN = ("paper", "short")
GROUPS = ("table1", "short", "figure1")
"""The project's own, whose cells of one row and data set are one net."""
COLUMNS = ["net", "source", "scale", "run", "quantity", "epoch", "value", "low", "high"]
ERROR, COST = "validation error", "training cost"


def printed() -> list[dict[str, Any]]:
    """The paper's points: the middle of the digitised range; NaN where it lies above the axis."""
    figure = the_paper()["figure1"]
    lines = []
    for curve in figure["curves"]:
        row = next(row for row, begin in SERIES.items() if curve["curve"].startswith(begin))
        for epoch, low, high in zip(figure["epochs"], curve["low"], curve["high"], strict=True):
            low, high = (np.nan if edge is None else edge for edge in (low, high))
            point = {"net": f"{row}, CIFAR-10", "source": "paper", "scale": "paper", "run": "", "quantity": ERROR}
            lines.append(point | {"epoch": epoch, "value": (low + high) / 2, "low": low, "high": high})
    return lines


def measured(evidence: Evidence) -> Iterator[tuple[str, str, list[Record]]]:
    """Net, scale and runs with curves, in Table 1's order; if there are several training codes, the main one's.

    A cell that is none of the project's is a net of its own, which its name tells apart.
    """
    cells = {c.name: c for c in evidence.cells}

    def net(r: Record) -> tuple[str, str, str, str]:
        cell = cells[r.cell]
        own = "" if cell.group in GROUPS else f" ({cell.name})"
        return cell.experiment.dataset, cell.experiment.row, r.scale, own

    groups = grouped((r for r in evidence.runs if r.scale in SHOWN and r.curve), net)
    order = {name: number for number, name in enumerate((*DATASETS, *ROWS, *SHOWN))}
    for key in sorted(groups, key=lambda key: [order.get(part, 99) for part in key]):
        dataset, row, scale, own = key
        yield f"{row}, {dataset}{own}", scale, main(groups[key])


def points(net: str, source: str, run: Record | Running) -> Iterator[dict[str, Any]]:
    """Validation error (percent) and training cost of every epoch of a run."""
    of = {"net": net, "source": source, "scale": run.scale, "run": run.stem}
    images = run.valid_images if isinstance(run, Running) else run.result.valid_images if run.result else None
    if images is None:
        return
    for row in run.curve:
        yield of | {"quantity": ERROR, "epoch": row.epoch, "value": 100 * row.valid_wrong / images}
        yield of | {"quantity": COST, "epoch": row.epoch, "value": row.train_loss}


def frame(evidence: Evidence) -> pd.DataFrame:
    """Every epoch of every run that is drawn, and the paper's points; COLUMNS."""
    lines = [p for net, _, group in measured(evidence) for run in group for p in points(net, "ours", run)]
    return pd.DataFrame([*lines, *printed()], columns=COLUMNS)


def summary(evidence: Evidence) -> pd.DataFrame:
    """One line per net and scale: its last and its best validation error (mean over seeds), the paper's last."""
    last = {p["net"]: p["value"] for p in printed()}
    lines = []
    for net, scale, group in measured(evidence):
        final = [100 * r.curve[-1].valid_wrong / r.result.valid_images for r in group if r.result]
        lines.append(
            marks(*group)
            | {
                "net": net,
                "scale": scale,
                "epochs": min(len(r.curve) for r in group),
                "seeds": len(group),
                "last": float(np.mean(final)),
                "best": float(np.mean([r.result.valid_error for r in group if r.result])),
                "cost": float(np.mean([r.curve[-1].train_loss for r in group])),
                "paper": last.get(net) if scale == "paper" else None,
                "code": label(group),
                "records": evidence.paths(group),
                "again": again(group[0].cell, scale, group),
            }
        )
    columns = ["net", "scale", "epochs", "seeds", "last", "best", "cost", "paper", "code"]
    return pd.DataFrame(lines, columns=[*columns, "dirty", "note", "records", "again"])


def section(evidence: Evidence) -> Section:
    """The curves, one panel for each net, and a table of where they end."""
    ends = summary(evidence)
    text = (
        "Validation error and training cost (squared hinge) against the epoch, on log axes, a line a run. The "
        "paper's Figure 1 shows three nets on CIFAR-10: its points are ranges read off the printed bitmap, ± 0.3 "
        "points; an arrow is a range that reaches above its axis, and it prints no numbers for the cost. Of runs "
        "by several training codes those of one are drawn: of the code with the most seeds.",
    )
    figure = Figure(
        "figure1",
        "Training curves at the paper's scale (thick) and on short schedules (thin), with the ranges of the "
        "paper's Figure 1 (grey).",
        "Validation error and training cost against the epoch, a panel a net.",
        frame(evidence),
        charts.curves,
    )
    columns = (
        *(Column("net", "net"), Column("scale", "scale"), Column("epochs", "epochs", 0)),
        *(Column("seeds", "seeds", 0), Column("last", "validation error, last epoch", 2, "%")),
        *(Column("best", "best epoch", 2, "%"), Column("paper", "paper, epoch 500", 2, "%")),
        *(Column("cost", "training cost, last epoch", 4), CODE),
    )
    tables = (
        (Table("figure1-ends", "Where the curves end.", ends, with_note(ends, *columns)),) if len(ends) else ()
    )
    return Section("figure1", "Training curves, and Figure 1", text, (figure, *tables))
