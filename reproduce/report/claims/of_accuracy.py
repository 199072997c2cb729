"""Claims of accuracy: packed nets, nets without binarization, the mask, the shift-based rules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from reproduce import verdict
from reproduce.records import Record
from reproduce.report.claims.finding import Finding, Judge, each_once, machines
from reproduce.report.evidence import Evidence, marks
from reproduce.report.rows import main
from reproduce.report.sections import ablations, energy, table1
from reproduce.report.wording import count
from reproduce.verdict import FEWEST

FLOAT = "No regularization"  # the row of float nets


def same_predictions(evidence: Evidence, _: dict[str, Any]) -> list[Finding]:
    """Judge by nets of the paper's size, or by small nets if there are no others.

    A prediction is lost if both float nets, in float32 and in float64, give another class than the packed net. One
    that differs in float32 alone is an error of float32's rounding.
    """
    nets = energy.predicted(evidence)
    if nets.empty:
        return []
    large = nets[nets["scale"] != "small"]
    nets = large if len(large) else nets
    where = [f"{' and '.join(sorted(set(nets['scale'])))} scale", *sorted(filter(None, set(nets["backend"])))]
    differing, lost, images = (int(nets[column].sum()) for column in ("differing", "unexplained", "images"))
    too = energy.in_float64(nets)
    return [
        Finding(
            f"{differing} of {images:,} predictions of {count(nets['again'].nunique(), 'packed net')} "
            f"({'; '.join(where)}) differ from the float32 net's{too}",
            machines(nets["machine"]),
            "holds" if lost == 0 else "does not hold",
            "; ".join(nets["records"]),
            "reproduce predict FILE --against NET --record FOLDER",
            each_once(nets["note"]),
            f"{differing} of {images:,} predictions differ ({count(nets['again'].nunique(), 'net')}){too}",
        )
    ]


def nearly(evidence: Evidence, _: dict[str, Any]) -> list[Finding]:
    """Compare BNN cells at the paper's scale with the paper's float nets, on each data set.

    A data set counts by its better BNN cell: the claim holds on it if one comes near, and does not if all were run
    and none does. The claim as a whole holds if it does on all three data sets, and does not if it does not on
    one.
    """
    near: dict[str, list[bool | None]] = {}
    measured, used, not_run = [], [], set()
    for cell in evidence.cells:
        experiment = cell.experiment
        if not cell.name.startswith("table1/") or not experiment.row.startswith("BNN") or not experiment.margin:
            continue
        group = [r for r in evidence.runs if (r.cell, r.scale) == (cell.name, "paper")]
        if not group:
            not_run.add(experiment.dataset)
        for order in sorted({r.data.order for r in group}):
            ours = main(r for r in group if r.data.order == order)
            other, value, name = _without_binarization(evidence, experiment.dataset, order)
            errors = [r.result.test_error for r in ours if r.result]
            found = comes_near(ours, other or value, experiment.margin)
            near.setdefault(experiment.dataset, []).append(found)
            near_or_not = {True: "near", False: "not near", None: "cannot be told"}[found]
            against = f"{np.mean(errors):.2f} % against {value:.2f} % ({name})"
            measured.append(f"{experiment.row}, {experiment.dataset}: {against}, {near_or_not}")
            used += [*ours, *other]
    if not near:
        return []
    said = {
        name: True if any(v) else False if all(f is False for f in v) and name not in not_run else None
        for name, v in near.items()
    }
    words = {False: "does not hold", True: "holds", None: "cannot be told"}
    by_word = {text: [name for name, found in said.items() if found is result] for result, text in words.items()}
    first, *rest = [f"{text} on {len(names)}" for text, names in by_word.items() if names]
    every = table1.DATASETS[:3]
    open_yet = (
        "cannot be told: " if not by_word["does not hold"] and 0 < len(by_word["holds"]) < len(every) else ""
    )
    by_word["not run"] = [name for name in every if name not in near]
    return [
        Finding(
            "; ".join(measured),
            machines(r.machine["name"] for r in used),
            open_yet + ", ".join([f"{first} of {len(every)} data sets", *rest]),
            "; ".join(dict.fromkeys(evidence.path(r) for r in used)),
            "reproduce run table1 --scale paper --seeds 3",
            marks(*used)["note"],
            "; ".join(f"{text}: {', '.join(names)}" for text, names in by_word.items() if names)
            + " (against float nets without regularization)",
        )
    ]


def _without_binarization(evidence: Evidence, dataset: str, order: str) -> tuple[list[Record], float, str]:
    """Our runs of the paper's float row, their mean error, and a name for it.

    With fewer than FEWEST runs of this image order: no runs, the printed error, and its name.
    """
    names = {c.name for c in evidence.cells if (c.experiment.row, c.experiment.dataset) == (FLOAT, dataset)}
    group = main(
        r for r in evidence.runs if r.cell in names and (r.scale, r.data.order) == ("paper", order) and r.result
    )
    if len(group) >= FEWEST:
        return group, float(np.mean([r.result.test_error for r in group if r.result])), f"{FLOAT}, ours"
    (value,) = (e["paper"] for e in table1.printed() if (e["row"], e["dataset"]) == (FLOAT, dataset))
    return [], float(value), f"{FLOAT}, printed"


def comes_near(ours: Sequence[Record], other: Sequence[Record] | float, margin: float) -> bool | None:
    """Is the mean error of our runs at most `margin` points above that of others, or above a printed figure?

    By one-sided 95 % bounds of the difference, from the scatter that verdicts use; None where they lie on both
    sides, or with too few runs.
    """
    if len(ours) < FEWEST:
        return None
    mean, half = _mean(ours)
    value, of_other = (other, 0.0) if isinstance(other, float) else _mean(other)
    low, high = (mean - value + side * math.hypot(half, of_other) for side in (-1, 1))
    return True if high <= margin else False if low > margin else None


def _mean(group: Sequence[Record]) -> tuple[float, float]:
    """The mean error of some runs and the half-width of its one-sided 95 % bound, in percent."""
    errors = [r.result.test_error for r in group if r.result]
    return float(np.mean(errors)), verdict.half_width(0.95, errors, *table1.tested(group))


def ablation(name: str, holds: Sequence[str]) -> Judge:
    """Judge a claim by the comparisons of an ablation: it holds if the comparison's verdict is one of `holds`."""

    def judge(evidence: Evidence, _: dict[str, Any]) -> list[Finding]:
        frame = ablations.frame(evidence)
        found = []
        for line in frame[(frame["ablation"] == name) & frame["difference"].notna()].to_dict("records"):
            words = "holds" if line["verdict"] in holds else "does not hold"
            words = "cannot be told" if line["verdict"] == "cannot be told" else words
            said = f"{line['difference']:+.2f} points ({line['low']:+.2f} to {line['high']:+.2f})"
            first = ""
            if isinstance(line["at_first"], str):  # the number of seeds was raised
                seeds, by_them = line["at_first"].split(": ")
                first = f"; by the {seeds} seeds declared at first: {by_them}"
            both = [f"{line[f'{side}_error']:.2f} % ({line[side]})" for side in ("arm", "against")]
            found.append(
                Finding(
                    f"{said} of test error, {line['arm']} against {line['against']}, {line['seeds']} pairs{first}",
                    f"{line['cell']}, {line['scale']} scale",
                    f"{words} for a small net",
                    line["records"],
                    line["again"],
                    line["note"],
                    f"{line['difference']:+.2f} points: {', '.join(both)}, {line['net']}{first}",
                )
            )
        return found

    return judge
