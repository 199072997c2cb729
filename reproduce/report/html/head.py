"""The first screen: what the paper claims and what was found, as sentences, two pictures, a table of verdicts.

Everything follows from the records. The same verdicts are written for other sites as verdicts.json
(`verdicts.schema.json`).
"""

from __future__ import annotations

import json
import re
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from reproduce import spec
from reproduce.report import claims, exports, wording
from reproduce.report.evidence import Evidence, once, the_paper
from reproduce.report.html import overview
from reproduce.report.html.parts import Figure, Verdict
from reproduce.report.sections import energy, speed, table1
from reproduce.report.wording import between, count, verdicts_of_cells

SCHEMA = Path(__file__).parent / "verdicts.schema.json"
WORDS = {  # how a computed verdict begins -> the word or two of the head; the first that fits counts
    "holds (arithmetic)": "arithmetic",
    "holds in the model": "a model",
    "true by construction": "a model",
    "nearly holds": "nearly",
    "does not hold in a single timing": "single timing",
    "does not hold here, on a CPU": "fails on a CPU",
    "does not hold": "not reproduced",
    "cannot be told": "inconclusive",
    "holds in a single timing": "single timing",
    "holds here, on a CPU": "holds on a CPU",
    "holds by some counts": "by some counts",
    "holds": "reproduced",
    "better": "better",
    "not reproduced": "not reproduced",
    "reproduced": "reproduced",
    "inconclusive": "inconclusive",
    "small scale": "small net",
    "short schedule": "short schedule",
}
"""All else was not run at the paper's scale."""
SMALL_NET = {"holds": "holds, small net", "does not hold": "fails, small net"}  # verdicts "… for a small net"
NOT_RUN = "not run"
WEIGHT = (
    *("state of the art", "xnor against cublas", "mlp against baseline", "xnor against baseline", "error lost"),
    *("weight memory", "unique filters", "fewer operations", "less time", "no mask", "shift-based"),
)
FOLDS = {  # id of a claim -> the fold it stands in, if any
    **dict.fromkeys(("memory accesses", "energy", "power efficiency", "distinct filters", "swar"), "model"),
    **dict.fromkeys(("fpga slices", "bandwidth"), "model"),
    **dict.fromkeys(("alexnet top-1", "alexnet top-5", "googlenet top-1", "googlenet top-5"), "imagenet"),
}


def word(verdict: str) -> str:
    """The word or two for a computed verdict."""
    words = WORDS | SMALL_NET if verdict.endswith("for a small net") else WORDS
    return next((short for begin, short in words.items() if verdict.startswith(begin)), NOT_RUN)


def verdicts(evidence: Evidence) -> list[Verdict]:
    """Table 1's cells run at the paper's scale, the others in a line, then the claims by their weight."""
    return [*_cells(evidence), *_claims(evidence)]


def _at_paper_scale(evidence: Evidence) -> pd.DataFrame:
    """The lines of Table 1 at the paper's scale, without the quoted rows."""
    frame = table1.every(evidence)
    return frame[(frame["scale"] == "paper") & ~frame["quoted"].astype(bool)]


def _cells(evidence: Evidence) -> list[Verdict]:
    frame, margins = _at_paper_scale(evidence), {c.name: c.experiment.margin for c in evidence.cells}
    found = []
    for line in frame[frame["seeds"] > 0].to_dict("records"):
        paper = "" if pd.isna(line["paper"]) else f"{line['paper']:.2f} %"
        detail = f"Verdict: {line['verdict']}. Last epoch: {line['last']:.2f} %."
        margin = margins[line["cell"]]
        detail += f" Margin around the paper's figure: {margin:g} points." if margin else ""
        if not pd.isna(line["low"]):
            detail += f" 95 % prediction interval of one more run: {line['low']:.2f} to {line['high']:.2f} %."
        detail += f" Trained on {line['machine']}; code {line['code']}."
        detail += f" Of at least one record: {line['note']}." if line["note"] else ""
        found.append(
            Verdict(
                f"{line['row']} on {line['dataset']}, test error",
                paper,
                f"{line['mean']:.2f} % ({count(line['seeds'], 'run')})",
                word(line["verdict"]),
                detail,
                line["records"],
                note=line["note"],
            )
        )
    rest = frame[frame["seeds"] == 0]
    if len(rest):
        why = {c.name: reason(evidence, c) for c in evidence.cells}
        cells = "; ".join(f"{r}, {d}: {why[c]}" for r, d, c in rest[["row", "dataset", "cell"]].values)
        other = "the other " if found else ""
        said = f"Table 1: {other}{count(len(rest), 'cell')}"
        found.append(Verdict(said, "", "", NOT_RUN, f"{cells}. Run them: reproduce run table1 --scale paper."))
    return found


def _claims(evidence: Evidence) -> list[Verdict]:
    frame = claims.frame(evidence)
    rank = {name: number for number, name in enumerate(WEIGHT)}
    found = []
    for line in sorted(frame.to_dict("records"), key=lambda line: rank.get(line["id"], len(rank))):
        detail = f"{line['measured']}. {line['where']}. Verdict: {line['verdict']}." if line["measured"] else ""
        detail += f" The paper: {line['source']}." + (f" To measure: {line['again']}." if line["again"] else "")
        detail += f" Of at least one record: {line['note']}." if line["note"] else ""
        claim = line["claim"][0].upper() + line["claim"][1:]
        found.append(
            Verdict(
                *(claim, line["printed"], line["brief"], word(line["verdict"]), detail.strip()),
                *(line["records"], FOLDS.get(line["id"], ""), line["note"]),
            )
        )
    return found


# --- why a cell was not run -----------------------------------------------------------------------------------


def reason(evidence: Evidence, cell: spec.Cell) -> str:
    """Why a cell has no run at its own scale: under way, broken off, or how long one takes here."""
    for run in evidence.running:
        if (run.cell, run.scale) == (cell.name, cell.experiment.scale):
            return f"epoch {run.epochs_done} of {run.epochs}"
    if any((r.cell, r.scale) == (cell.name, cell.experiment.scale) for r in evidence.failed):
        return "its run broke off"
    return _time(evidence, cell) or NOT_RUN


def _cores(name: str) -> str:
    return found[0] if (found := re.search(r"\d+ cores", name)) else name


def _about(hours: float) -> str:
    if hours < 48:
        return f"about {count(max(1, round(hours)), 'hour')}"
    return f"about {round(hours / 24)} days"


def _time(evidence: Evidence, cell: spec.Cell) -> str:
    """How long a run takes, from a benchmark of training steps and multiply-adds; "" where there is none.

    Only for cells of the row whose steps are timed.
    """
    settings = cell.scales.get(cell.experiment.scale)
    if settings is None or not isinstance(settings.net, spec.PaperNet):
        return ""
    timed = "MNIST MLP, 3 × 4096" if settings.net.kind == "mlp" else "CIFAR-10 ConvNet"
    measured = next((c for c in evidence.cells if c.name == energy.NETS[timed]), None)
    if measured is None or measured.experiment.row != cell.experiment.row:
        return ""
    what = timed.split(",")[0]
    timed_here = ((bench.machine.name, row) for bench in speed.latest(evidence.training) for row in bench.rows)
    for machine, row in timed_here:
        if row.what == what and row.candidate.startswith("ours"):
            of = measured.scales["paper"]
            work = settings.macs * settings.data.train * settings.train.epochs
            hours = row.seconds * work / (of.macs * of.train.batch) / 3600
            return f"not run: {_about(hours)} a run on {_cores(machine)}"
    return ""


# --- sentences ------------------------------------------------------------------------------------------------


def sentences(evidence: Evidence) -> list[str]:
    """What the paper claims, what was found: each can be quoted by itself."""
    printed = {claim["id"]: claim["value"] for claim in the_paper()["claims"]}
    return [
        "The paper says that nets whose weights and activations are all +1 or −1 err nearly as little as the "
        "state of the art on MNIST, CIFAR-10 and SVHN, and that one matrix product runs "
        f"{printed['xnor against baseline']:g} times faster than a plain kernel and "
        f"{printed['xnor against cublas']:g} times faster than cuBLAS.",
        _of_cells(evidence),
        *_of_speed(evidence),
        *_of_files(evidence),
    ]


def _of_cells(evidence: Evidence) -> str:
    frame = _at_paper_scale(evidence)
    run, every = frame[frame["seeds"] > 0], frame["cell"].nunique()
    if run.empty:
        return f"None of the {every} cells of Table 1 has been trained at the paper's scale yet."
    several = run["cell"].duplicated(keep=False)
    said = f"Trained at the paper's scale so far: {run['cell'].nunique()} of {every} cells of Table 1. "
    shown = [
        f"{line['row']} on {line['dataset']} {'' if k else 'errs on '}{line['mean']:.2f} %"
        + ("" if k else " of the test images")
        + ("" if pd.isna(line["paper"]) else f" ({'' if k else 'the paper: '}{line['paper']:.2f} %)")
        + f": {line['verdict']} after {count(line['seeds'], 'run')}"
        + (f" of one code ({line['code']})" if apart else "")
        for k, (line, apart) in enumerate(zip(run.to_dict("records"), several, strict=True))
    ]
    if len(shown) > 4:
        return f"{said}{verdicts_of_cells(run)}."
    return f"{said}{'; '.join(shown)}."


def _of_speed(evidence: Evidence) -> list[str]:
    """A sentence for each machine, or for several together that were timed on the same tasks."""
    frame = overview.times_frame(evidence)
    dirty = {bench.machine.name for bench in speed.latest(evidence.benches) if bench.code.dirty}
    alike: dict[tuple[Any, ...], list[str]] = {}
    for machine, of_machine in frame.groupby("machine", sort=True):
        by_kind = of_machine.groupby("kind", sort=False)["short"]
        timed = tuple((kind, *dict.fromkeys(short)) for kind, short in by_kind)
        lost = overview.lost(evidence).get(str(machine))
        after = f" With packing, no gain up to size {lost}." if lost else ""
        alike.setdefault((overview.using(of_machine), timed, after, machine in dirty), []).append(str(machine))
    found = []
    for (using, timed, after, changed), machines in alike.items():
        here = frame[frame["machine"].isin(machines)]
        parts: list[str] = []
        tasks = ", ".join(dict.fromkeys(here["short"]))
        for kind, *short in timed:
            own = ", ".join(short)
            values = here.loc[here["kind"] == kind, "value"]
            times = f"{between(values)} times" + ("" if parts else " as fast as the fastest library timed")
            parts.append(f"{times} in {kind}" + (f" ({own} only)" if own != tasks else ""))
        several = ", ".join(parts[:-1]) + ", and " if len(parts) > 1 else ""
        on = ", and on ".join(map(wording.machine, machines))
        said = f"On {on} ({tasks}), the XNOR kernels{using} are {several}{parts[-1]}.{after}"
        found.append(f"{said[:-1]} (uncommitted code)." if changed else said)
    return found


def _of_files(evidence: Evidence) -> list[str]:
    nets = energy.predicted(evidence)
    nets = nets[nets["scale"] != "small"]
    if nets.empty:
        return []
    differ = int(nets["differing"].sum())
    none = "none" if differ == 0 else f"{differ:,}"
    kernels = nets["backend"].str.extract(r"^(cuda-\w+|\w+ \(\w+)")[0]  # without threads and the GPU's name
    kernels = kernels.replace("cpu (amx", "cpu (avx512")  # which has the 1-bit products on a CPU with AMX too
    return [
        f"With one bit for each weight, {count(nets['again'].nunique(), 'trained net')} of the paper's size take "
        f"{nets['times'].min():.1f} to {nets['times'].max():.1f} times less memory. In "
        f"{count(len(nets), 'comparison')} on a whole test set, by {count(kernels.nunique(), 'kernel')}, "
        f"{none} of {int(nets['images'].sum()):,} predictions differs from the float32 net's"
        f"{energy.in_float64(nets)}."
    ]


# --- pictures and the file for others -------------------------------------------------------------------------


@once
def figures(evidence: Evidence) -> tuple[Figure, Figure]:
    """The forest plot of Table 1, and how many times faster the kernels are."""
    forest, times = overview.forest_frame(evidence, reason), overview.times_frame(evidence)
    printed = {claim["id"]: claim["value"] for claim in the_paper()["claims"]}
    factors = ", ".join(f"{printed[key]:g}× {other}" for key, other in overview.LINES.items())
    return (
        Figure(
            "forest",
            "Table 1. Grey bars: the paper's error ± the noise of its test set. Coloured diamonds: our mean at "
            "the "
            "paper's scale with its 95 % prediction interval; small points: single seeds. Hollow marks: short "
            "schedules and small nets, which are not the paper's cells. Hours: estimated time of one run.",
            "Test errors of the cells of Table 1: the paper's and ours.",
            forest,
            overview.forest,
        ),
        Figure(
            "times",
            "The fastest XNOR kernel of each machine, packing included, against the fastest libraries a user "
            "would call instead, with 95 % intervals; where fewer than six rounds were timed (table “All times”), "
            "an interval is about their range and holds less than 95 %. Smaller products gain less. TF32 rounds "
            f"float32 to 11 bits. Dashed: what the paper prints for its GPU, {factors}.",
            "How many times faster the XNOR kernels are than libraries, for each machine measured.",
            times,
            overview.times,
        ),
    )


def markdown(evidence: Evidence) -> str:
    """README's block: the two pictures, the sentences, and the verdicts that are in no fold.

    A claim's machines of one verdict share a line.
    """
    out, notes = [], set[str]()
    for figure in figures(evidence):
        base = f"results/report/{figure.name}"
        out += [
            f'<picture><source media="(prefers-color-scheme: dark)" srcset="{base}-dark.svg">',
            f'<img src="{base}-light.svg" width="49%" alt="{figure.alt}"></picture>',
        ]
    out += ["", *(exports.in_markdown(sentence) + "\n" for sentence in sentences(evidence))]
    out += ["| claim | paper | found here | verdict |", "|---|---|---|---|"]
    shown = (v for v in verdicts(evidence) if not v.fold)
    for key, lines in groupby(shown, lambda v: (v.claim, v.printed, v.word)):
        claim, paper, verdict = (exports.in_markdown(text) for text in key)
        several = list(lines)
        found = "; ".join(exports.in_markdown(v.found) + (r" \*" if v.note else "") for v in several)
        out.append(f"| {claim} | {paper} | {found} | **{verdict}** |")
        notes |= {note for v in several for note in v.note.split("; ")} - {""}
    if notes:
        out += ["", rf"\* Of at least one record: {'; '.join(sorted(notes))}."]
    return "\n".join(out) + "\n"


def for_others(evidence: Evidence) -> str:
    """verdicts.json: Table 1's cells and the paper's claims, with their verdicts; errors in percent."""
    frame = table1.every(evidence)
    margins = {c.name: c.experiment.margin for c in evidence.cells}
    cells = []
    for line in frame[~frame["quoted"].astype(bool)].to_dict("records"):
        known = {key: None if pd.isna(line[key]) else round(float(line[key]), 4) for key in ("paper", "mean")}
        ends = [None if pd.isna(line[key]) else round(float(line[key]), 4) for key in ("low", "high")]
        cells.append(
            {"cell": line["cell"], "row": line["row"], "dataset": line["dataset"], "scale": line["scale"]}
            | {"n": int(line["seeds"]), **known, "interval": None if ends[0] is None else ends}
            | {"margin": margins[line["cell"]] if line["scale"] == "paper" else None}
            | {"verdict": line["verdict"], "code": line["code"], "records": _hashed(evidence, line["records"])}
        )
    said: list[dict[str, Any]] = [
        {key: line[key] for key in ("id", "claim", "printed", "brief", "verdict")}
        | {"word": word(line["verdict"]), "records": [r for r in line["records"].split("; ") if r]}
        for line in claims.frame(evidence).to_dict("records")
    ]
    content = {"format": 1, "paper": "arXiv 1602.02830", "cells": cells, "claims": said}
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _hashed(evidence: Evidence, paths: str) -> list[dict[str, str]]:
    return [{"path": path, "sha256": evidence.hashes[Path(path).stem]} for path in paths.split("; ") if path]
