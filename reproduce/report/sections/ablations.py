"""Ablations: what an ingredient of the recipe is worth, by runs in pairs (`reproduce.verdict_paired`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawing

from reproduce import outcomes, spec
from reproduce import verdict_paired as paired
from reproduce.campaign import tuning
from reproduce.records import Record
from reproduce.report import wording
from reproduce.report.evidence import Evidence, marks, once
from reproduce.report.html.look import BLUE, GREEN, GREY, INK, STYLE, VERMILLION, WIDTH, titled
from reproduce.report.html.parts import Column, Figure, Section, Table
from reproduce.report.rows import label, made_by
from reproduce.report.sections.table1 import CODE, with_note

COLOURS = {"better": BLUE, "no loss within the margin": GREEN, "worse": VERMILLION, "cannot be told": GREY}
COLUMNS = ["ablation", "net", "claim", "source", "arm", "against", "scale", "seeds", "wanted", "effect"]
COLUMNS += ["arm_error", "against_error", "difference", "low", "high", "p", "p_holm", "p_loss", "p_loss_holm"]
COLUMNS += [
    "found",
    "chance",
    "at_first",
    "flipped",
    "against_flipped",
    "verdict",
    "code",
    "dirty",
    "note",
    "cell",
    "records",
    "again",
]
TRIED = ["cell", "rate", "valid_error", "chosen", "dirty", "note"]


def questions(evidence: Evidence) -> Iterator[tuple[spec.Cell, spec.Cell]]:
    """Every arm with the one that it is compared with."""
    cells = {cell.name: cell for cell in evidence.cells}
    for cell in evidence.cells:
        if cell.ablation and (other := cell.ablation.against(cell.arm)):
            yield cell, cells[f"{cell.name.rpartition('/')[0]}/{other}"]


def pairs(evidence: Evidence, arm: spec.Cell, against: spec.Cell) -> tuple[list[Record], list[Record]]:
    """The runs of both that share a seed, in the seeds' order, at most as many as were declared.

    All are by one training code, in one mode, on one kind of device and one order of the images: of several the
    one with the most pairs.
    """
    groups: dict[tuple[str, ...], tuple[dict[int, Record], dict[int, Record]]] = {}
    for side, cell in enumerate((arm, against)):
        for record in (r for r in evidence.runs if r.cell == cell.name and r.result):
            made = made_by(record)
            group = (made.code, made.device, made.mode, record.data.order)
            groups.setdefault(group, ({}, {}))[side][record.seed] = record
    ours, theirs = max(groups.values(), key=lambda both: len(both[0].keys() & both[1].keys()), default=({}, {}))
    assert arm.ablation is not None
    seeds = sorted(ours.keys() & theirs.keys())[: arm.ablation.seeds]
    return [ours[s] for s in seeds], [theirs[s] for s in seeds]


@once
def frame(evidence: Evidence) -> pd.DataFrame:
    """One line a comparison; COLUMNS. Errors and differences in points, `flipped` a share of binary weights."""
    lines = []
    for cell, other in questions(evidence):
        assert cell.ablation is not None
        arm, against = pairs(evidence, cell, other)
        line: dict[str, Any] = {
            "ablation": cell.name.split("/")[-2],
            "net": _net(cell),
            "claim": cell.ablation.claim,
            "source": cell.ablation.source,
            "arm": cell.arm,
            "against": other.arm,
            "scale": "small",
            "seeds": len(arm),
            "wanted": cell.ablation.seeds,
            "effect": cell.ablation.effect,
            "cell": cell.name,
            "verdict": "not run" if not arm else f"not judged: {len(arm)} of {cell.ablation.seeds} seeds",
            "again": f"reproduce run {cell.name.rpartition('/')[0]}",
        }
        every = [*arm, *against]
        line |= marks(*every) | {"records": evidence.paths(every)}
        if arm:
            line |= {"arm_error": _mean(arm), "against_error": _mean(against), "code": _labels(arm, against)}
            line |= {"flipped": _flipped(arm), "against_flipped": _flipped(against)}
        known = all(r.result and r.result.wrong_best for r in every)
        if known and len(arm) >= cell.ablation.seeds:
            made = paired.difference(_wrong(arm), _wrong(against), cell.ablation.effect)
            line |= {"difference": made.mean, "low": made.low, "high": made.high, "found": made.found}
            line |= {"p": made.p, "p_loss": made.p_loss, "made": made, "made_at_first": made}
            if first := cell.ablation.seeds_at_first:
                few = paired.difference(_wrong(arm[:first]), _wrong(against[:first]), cell.ablation.effect)
                line |= {"made_at_first": few, "at_first": first}
        lines.append(line)
    for folder in {_folder(line) for line in lines}:
        family = [line for line in lines if _folder(line) == folder]
        by_all, by_first = (_judged([line.get(key) for line in family]) for key in ("made", "made_at_first"))
        for line, judged, at_first in zip(family, by_all, by_first, strict=True):
            if judged and at_first:
                line["p_holm"], line["p_loss_holm"], line["verdict"] = judged
                line["chance"] = 100 * paired.chance_of_no_loss(line["made"], line["effect"], len(family))
                if "at_first" in line:
                    line["at_first"] = f"{line['at_first']}: {at_first[2]}"
    return pd.DataFrame(lines, columns=COLUMNS)


def _judged(family: Sequence[paired.Difference | None]) -> list[tuple[float, float, str] | None]:
    """Each comparison's p and p of a loss, adjusted by Holm's method, and its verdict; None where incomplete.

    Incomplete ones are counted too, so that no verdict waits for others.
    """
    p, p_loss = (
        paired.holm([getattr(made, name) if made else 1.0 for made in family]) for name in ("p", "p_loss")
    )
    return [
        (own, of_loss, paired.verdict(made, own, of_loss)) if made else None
        for made, own, of_loss in zip(family, p, p_loss, strict=True)
    ]


def _folder(line: dict[str, Any]) -> str:
    """The folder of an ablation's file: its comparisons are one family."""
    return str(line["cell"]).split("/")[0]


def _net(cell: spec.Cell) -> str:
    """Data set, net and epochs of an arm, in words."""
    settings = cell.scales["small"]
    sizes = "-".join(str(layer.outputs) for layer in settings.layers()[:-1])
    return f"{cell.experiment.dataset}, {settings.net.kind} {sizes}, {settings.train.epochs} epochs"


def _wrong(records: Sequence[Record]) -> Any:
    """Which test images (runs, images) were wrong at the best validation epoch."""
    return np.stack([outcomes.unpack(r.result.wrong_best, r.result.test_images) for r in records])  # type: ignore


def _labels(arm: Sequence[Record], against: Sequence[Record]) -> str:
    """What made the runs of both, said once where it is the same."""
    return "; against ".join(dict.fromkeys((label(arm), label(against))))


def _mean(records: Sequence[Record]) -> float:
    return float(np.mean([r.result.test_error for r in records if r.result]))


def _flipped(records: Sequence[Record]) -> float | None:
    """The share of binary weights whose sign changed in the last epoch, mean of the runs."""
    found = [r.curve[-1].flipped for r in records if r.curve]
    return float(np.mean([f for f in found if f is not None])) if None not in found and found else None


def tried(evidence: Evidence) -> pd.DataFrame:
    """The learning rates that were tried for each arm; TRIED, errors in percent.

    A rate is chosen if all of the arm's were tried, it did best, and the file has it.
    """
    records = tuning.committed()
    lines = []
    for cell in (c for c in evidence.cells if c.ablation):
        assert cell.ablation is not None
        best = tuning.best(cell, records)
        for rate, record in tuning.found(cell, records).items():
            chosen = "chosen" if rate == best == cell.ablation.arms[cell.arm].rate else ""
            chosen += ", at an end of the grid" if chosen and tuning.at_an_end(cell, rate) else ""
            line = {"cell": cell.name, "rate": rate, "valid_error": tuning.error(record), "chosen": chosen}
            lines.append(line | marks(record))
    return pd.DataFrame(lines, columns=TRIED)


@matplotlib.rc_context(STYLE)
def forest(frame: pd.DataFrame) -> Drawing:
    """Each comparison's difference with its 95 % interval, in points; a tick at its margin; colour by verdict."""
    frame = frame[frame["difference"].notna()]
    drawing = Drawing(figsize=(WIDTH, 1.2 + 0.42 * len(frame)))
    axes = drawing.subplots()
    for y, (_, line) in enumerate(frame.iterrows()):
        colour = COLOURS[line["verdict"]]
        axes.plot([line["low"], line["high"]], [y, y], color=colour, linewidth=2.2)
        axes.plot([line["difference"]], [y], "o", color=colour, markersize=6, markeredgecolor=INK)
        axes.plot([line["effect"]] * 2, [y - 0.3, y + 0.3], color=INK, linewidth=1)
    names = [f"{a}: {b} against {c}" for a, b, c in frame[["ablation", "arm", "against"]].values]
    axes.set_yticks(range(len(frame)), names)
    axes.set_ylim(len(frame) - 0.4, -0.6)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xscale("symlog", linthresh=1.0)
    axes.set_xlabel("points of test error more (right) or less (left)")
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    return titled(drawing, wording.ablations(frame))


def _of_rates(evidence: Evidence, chosen: pd.DataFrame) -> str:
    """A sentence on how many arms have the learning rate that their trials chose."""
    arms = [cell.name for cell in evidence.cells if cell.ablation]
    done = len(set(chosen.loc[chosen["chosen"] != "", "cell"]) & set(arms))
    said = (
        "An arm's learning rate is the one that did best on validation images, of those that its file names, with "
        "a seed that no compared run has"
    )
    return f"{said}: so far tried for {done} of {len(arms)} arms."


def _raised(found: pd.DataFrame) -> str:
    """Which ablations had their number of seeds raised, and what the number declared at first would say."""
    raised = found[found["at_first"].notna()]
    said = [
        f"of {name} the number was raised to {int(lines['wanted'].iloc[0])} while runs were made, and by the "
        "number declared at first the verdicts would be: "
        + ", ".join(f"{arm} {verdict.split(': ')[1]}" for arm, verdict in lines[["arm", "at_first"]].values)
        for name, lines in raised.groupby("ablation", sort=False)
    ]
    return f", but {'; '.join(said)}" if said else ""


def section(evidence: Evidence) -> Section:
    """The rule, the picture, the table of comparisons and that of the learning rates."""
    found, chosen = frame(evidence), tried(evidence)
    done = int(found["difference"].notna().sum())
    text = (
        "The paper says what its ingredients do, mostly without a figure. Here each is left out or exchanged in "
        f"small nets, the rest being equal: {done} of {len(found)} comparisons are complete. Arms are compared in "
        f"pairs, by seed: same images, same order, same start. {_of_rates(evidence, chosen)}",
        "Let d be the mean difference of test error over the seeds. Its interval is that of the paired t-test, or "
        "the wider one that the disagreement on single images would make: seeds can agree by luck. p-values are "
        "adjusted by Holm's method over all comparisons of a folder, complete or not: those for a difference, and "
        "separately those against a loss of the smallest effect that counts. “Better”: d is below 0 and p is "
        "below .05. “No loss within the margin”: a loss of that effect is excluded. “Worse”: neither of these, d "
        "is above 0 and p is below .05. Otherwise it cannot be told. The effect and the number of seeds were "
        f"declared before the runs{_raised(found)}. The intervals are not adjusted. They take the learning rates "
        "as given, though each was chosen by one run. Arms of equal settings in several files give equal runs, so "
        "that their comparisons are not independent.",
    )
    columns = (
        *(Column("ablation", "ablation"), Column("claim", "claim"), Column("arm", "arm")),
        Column("against", "against"),
        *(
            Column("seeds", "seeds", 0),
            Column("arm_error", "arm's error", 2, "%"),
            Column("against_error", "other's error", 2, "%"),
        ),
        *(Column("difference", "difference", 2, "points"), Column("low", "95 % interval", 2, "points", to="high")),
        Column("p_holm", "p", 3, "", "that there is no difference, by Holm's method"),
        *(Column("verdict", "verdict"), CODE),
    )
    picture = [
        Figure(
            "ablations-forest",
            "Each comparison: mean difference in test error with its 95 % interval; the upright tick is the "
            "smallest loss that counts. Beyond one point the axis is logarithmic.",
            "Differences in test error of the ablations with their intervals, on one axis.",
            found,
            forest,
        )
    ]
    parts: list[Table | Figure] = [
        *(picture if done else []),
        Table("ablations", "What each ingredient is worth in small nets.", found, with_note(found, *columns)),
    ]
    changed = "share of binary weights whose sign changed in the last epoch, mean of the runs"
    designs = (
        *(
            Column("ablation", "ablation"),
            Column("arm", "arm"),
            Column("against", "against"),
            Column("net", "net"),
        ),
        Column("wanted", "seeds wanted", 0),
        Column("effect", "effect", 2, "points", "the smallest loss that counts, declared before"),
        Column(
            *("found", "detectable loss", 2, "points"),
            "loss that so many seeds detect in 80 % of cases, before p is adjusted",
        ),
        Column(
            *("chance", "chance of “no loss”", 0, "%"),
            "that a loss of the effect is excluded if there is none, with the scatter found and p adjusted by the "
            "number of comparisons",
        ),
        Column("flipped", "signs changed, arm", 5, "", changed),
        Column("against_flipped", "signs changed, against", 5, "", changed),
    )
    text_of = (
        "Seeds and effect declared; the loss that each comparison can detect; and how many signs still changed."
    )
    parts.append(Table("ablation-designs", text_of, found, designs))
    if len(chosen):
        told = (
            *(Column("cell", "arm"), Column("rate", "rate at the start")),
            *(Column("valid_error", "validation error", 2, "%"), Column("chosen", "")),
        )
        text_of = "The learning rates tried for each arm."
        parts.append(Table("ablation-rates", text_of, chosen, with_note(chosen, *told)))
    return Section("ablations", "Ablations: does each ingredient matter?", text, tuple(parts))
