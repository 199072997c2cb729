"""Runs that are under way: their curves so far, marked as unfinished. Nothing is judged by them."""

from __future__ import annotations

from typing import Any

import pandas as pd

from reproduce.report.evidence import Evidence, marks
from reproduce.report.html import charts
from reproduce.report.html.parts import Column, Figure, Section, Table
from reproduce.report.sections.curves import COLUMNS, points
from reproduce.report.sections.table1 import with_note


def frame(evidence: Evidence) -> pd.DataFrame:
    """Every epoch so far of every run under way, as `curves.frame`."""
    cells = {c.name: c.experiment for c in evidence.cells}
    lines: list[dict[str, Any]] = []
    for run in evidence.running:
        name = f"{cells[run.cell].row}, {cells[run.cell].dataset}"
        lines += list(
            points(f"{name}, seed {run.seed}, epoch {run.epochs_done} of {run.epochs}", "unfinished", run)
        )
    return pd.DataFrame(lines, columns=COLUMNS)


def summary(evidence: Evidence) -> pd.DataFrame:
    """One line a run under way: how far it is, its last and its lowest validation error, hours, what makes it."""
    lines = []
    for run in evidence.running:
        errors = [100 * row.valid_wrong / run.valid_images for row in run.curve]
        made_by = [run.code["source"][:8], run.code.get("mode"), run.code.get("device")]
        if run.code.get("device") == "cpu":
            threads = sorted({call["threads"] for call in run.calls})
            made_by.append(f"{' and '.join(map(str, threads))} thread{'s' * (threads != [1])}")
        lines.append(
            {
                "cell": run.cell,
                "scale": run.scale,
                "seed": run.seed,
                "state": f"unfinished: {run.epochs_done} of {run.epochs} epochs",
                "last": errors[-1],
                "lowest": min(errors),
                "hours": run.seconds / 3600,
                "machine": "; ".join(dict.fromkeys(call["name"] for call in run.calls)),
                "code": ", ".join(filter(None, made_by)),
            }
            | marks(run)
            | {"records": f"{evidence.name}/running/{run.stem}.json"}
        )
    return pd.DataFrame(lines)


def section(evidence: Evidence) -> Section:
    """A table of all runs under way, and a figure for each data set."""
    text = (
        "These runs have not ended. Their curves are what the last checkpoints hold. They are in no other table "
        "or figure of this report, and no mean, verdict or claim rests on them: an error in the middle of a "
        "schedule is not the error at its end.",
    )
    ends, every = summary(evidence), frame(evidence)
    columns = (
        *(Column("cell", "cell"), Column("scale", "scale"), Column("seed", "seed", 0), Column("state", "state")),
        *(Column("last", "validation error, last epoch so far", 2, "%"), Column("lowest", "lowest", 2, "%")),
        *(Column("hours", "hours so far", 1), Column("machine", "machine"), Column("code", "made by")),
    )
    parts: list[Table | Figure] = [
        Table("running", "Unfinished runs, as they stand.", ends, with_note(ends, *columns))
    ]
    caption = "Unfinished runs: validation error and training cost (squared hinge) so far."
    alt = "Validation error and training cost of unfinished runs against the epoch."
    parts.append(Figure("running-curves", caption, alt, every, charts.curves))
    return Section("running", "Unfinished runs", text, tuple(parts))
