"""Speed, per machine: Figure 3 beside the paper's GTX 750, single layers, and training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from reproduce.records.benchmark import Bench, Timing
from reproduce.report import wording
from reproduce.report.evidence import Evidence, marks, newest, once, the_paper
from reproduce.report.html import charts
from reproduce.report.html.parts import Column, Figure, Section, Table
from reproduce.report.sections.table1 import with_note

COLUMNS = ["what", "machine", "candidate", "family", "seconds", "low", "high", "times", "times_low", "times_high"]
COLUMNS += ["library_times", "library_low", "library_high", "how", "remark", "source"]
PAPER_MACHINE = "GTX 750"
PLAIN = "plain PyTorch loop"  # as in records of training steps
BARS = {"baseline": ("naive", "naive kernel"), "cublas": ("library", "cuBLAS"), "xnor": ("xnor", "XNOR kernel")}
ONE_BIT, OTHERS = "1-bit layer", {"float32": "torch float32", "int8": "onnxruntime int8"}
"""Candidates in records of single layers; the keys are columns of the table."""
AGAIN = {"cpu": "make bench-cpu", "gpu": "make bench-gpu"}
"""The command that writes a record of a kind."""


def latest(records: Sequence[Bench]) -> list[Bench]:
    """The newest record of each machine and kind; one that was cut off only where none is complete."""
    complete = {made_on(b) for b in records if not b.cut_off}
    return newest([b for b in records if not b.cut_off or made_on(b) not in complete], made_on)


def made_on(bench: Bench) -> tuple[str, str]:
    """Machine and kind."""
    return bench.machine.name, bench.kind


def named(row: Timing) -> str:
    """What a row of a record measures, in Figure 3's words where it is one of Figure 3's."""
    if found := re.match(r"product of (\d+)×(\d+) matrices", row.what):
        return f"product of two {found[1]}×{found[2]} matrices"
    return row.what


def remarks(row: Timing) -> dict[str, str]:
    """Remarks on a time that was not taken as usual: short form -> full form."""
    every = {
        "timed once": ("timed once", row.rounds == 1),
        "scaled": (f"on {row.timed_images} images, scaled to {row.images}", row.scaled),
        "unsteady": (f"unsteady, 10th to 90th percentile {100 * row.spread:.0f} % of the median", not row.steady),
    }
    return {short: full for short, (full, said) in every.items() if said}


def labelled(frame: pd.DataFrame) -> pd.Series:
    """The candidates' names, with the short remarks on their times."""
    return frame["candidate"] + frame["how"].map(lambda words: f" ({words})" if words else "")


def printed() -> list[dict[str, Any]]:
    """The paper's bars in seconds, with the reading's uncertainty and the ratios between them."""
    lines = []
    for bar in the_paper()["figure3"]["bars"]:
        if bar["unit"] != "seconds":
            continue
        for key, (kind, candidate) in BARS.items():
            line = {"what": bar["what"], "machine": PAPER_MACHINE, "candidate": candidate, "family": kind}
            seconds, error = bar[key], bar["plus_minus"]
            line |= {"seconds": seconds, "low": seconds - error, "high": seconds + error}
            line |= {"times": bar["baseline"] / bar[key], "library_times": bar["cublas"] / bar[key]}
            lines.append(line | {"how": "", "remark": "", "source": "paper"})
    return lines


@once
def measured(evidence: Evidence) -> pd.DataFrame:
    """Every row of the newest records: times and ratios to the naive kernel and to torch float32."""
    lines = []
    for bench in latest(evidence.benches):
        for row in bench.rows:
            line: dict[str, Any] = {"what": named(row), "machine": bench.machine.name, "candidate": row.candidate}
            line |= {"family": row.family, "seconds": row.seconds, "source": "ours"}
            line |= {"low": row.fastest, "high": row.slowest, "records": bench.path, "again": AGAIN[bench.kind]}
            line |= {"how": ", ".join(remarks(row)), "remark": ", ".join(remarks(row).values())}
            line |= {"rounds": row.rounds} | marks(bench)
            for other, key in (("naive", "times"), ("torch float32", "library_times")):
                found = next((v for k, v in row.times_faster_than.items() if k.startswith(other)), None)
                if found:
                    stem = key.removesuffix("_times")
                    line |= {key: found.ratio, f"{stem}_low": found.low, f"{stem}_high": found.high}
                elif row.candidate.startswith(other):
                    line[key] = 1.0
            lines.append(line)
    return pd.DataFrame(lines, columns=[*COLUMNS, "rounds", "dirty", "note", "records", "again"])


def frame(evidence: Evidence) -> pd.DataFrame:
    """Figure 3: the paper's bars, then ours for the same things; the naive kernel's largest product, too.

    The naive kernel is not run at the largest size where that would take minutes: a ratio to it stands at the
    largest size that has it.
    """
    ours = measured(evidence)
    quoted = pd.DataFrame(printed(), columns=COLUMNS)
    rows = [quoted]
    for _, group in ours.groupby("machine", sort=True):
        products = group[group["what"].str.startswith("product of")]
        with_naive = products[products["family"] == "naive"]
        whats = {quoted["what"].iloc[0], *with_naive["what"].tail(1)}
        rows.append(products[products["what"].isin(whats)])
        mlp = group[group["what"].str.startswith("MNIST MLP, 10000")]
        rows.append(mlp.assign(what=quoted["what"].iloc[-1]))
    found = pd.concat([r for r in rows if len(r)], ignore_index=True)
    order = [*dict.fromkeys(quoted["what"])]
    found["order"] = found["what"].map(lambda w: order.index(w) if w in order else len(order))
    return found.sort_values("order", kind="stable", ignore_index=True).drop(columns="order")[COLUMNS]


def said(name: str, benches: Sequence[Bench]) -> list[Table]:
    """A table of the notes and warnings in the records; none if there are none."""
    lines = [
        {"machine": bench.machine.name, "about": about, "says": "; ".join(texts), "records": bench.path}
        for bench in benches
        for about, texts in (("how", bench.notes), ("unsteady", bench.warnings))
        if texts
    ]
    frame = pd.DataFrame(lines, columns=["machine", "about", "says", "records"])
    caption = "What the records say of these times: how they were measured, and which of them were unsteady."
    columns = (Column("machine", "machine"), Column("about", "about"), Column("says", "what it says"))
    return [Table(name, caption, frame, columns)] if lines else []


def section(evidence: Evidence) -> Section:
    """The figure, every time of the newest record of each machine, and what these records say of them."""
    every = measured(evidence)
    machines = ", ".join(dict.fromkeys(every["machine"]))
    measured_here = (
        f"Measured here: {machines}, each with its newest record."
        if len(every)
        else "Nothing has been measured yet: `make bench-cpu` or `make bench-gpu` writes a record."
    )
    text = (
        "The paper times a naive kernel, cuBLAS and its XNOR kernel on a GTX 750: a product of 8192×8192 matrices "
        "and the MNIST MLP on the 10,000 test images. Its bars are read off a bitmap, "
        f"± {the_paper()['figure3']['bars'][0]['plus_minus']:g} s. In its MLP the first layer is the baseline's "
        "and weights are packed at each call; here the first layer has a kernel of its own, and weights are "
        "packed beforehand. A ratio measured on one machine does not predict that on another: it depends on how a "
        "machine's bit counting compares with its float units, and on how good its naive kernel and library are. "
        f"{measured_here} Times "
        "are medians, with the fastest and the slowest; intervals of ratios are 95 % bootstrap intervals.",
        "“Library” is what people would call instead (torch, ONNX Runtime), “xnor” the packed kernels: alone, "
        "with the packing of both matrices (as the paper times it), or fused with thresholds. On a CPU the "
        "naive kernel is timed in every round up to 2048 and once at larger sizes. A time that is “scaled” is no "
        "measurement of the "
        "whole: it was taken on fewer images and multiplied. “Unsteady” are rounds that lie far apart.",
    )
    parts: list[Table | Figure] = [
        Figure(
            "figure3",
            "Figure 3: seconds of the naive, library and XNOR kernels, the paper's bars first; × compares with "
            "the naive kernel, whose label says if it was timed once or scaled up.",
            "Bars of seconds for naive, library and XNOR kernels, for the paper's GPU and each machine measured.",
            frame(evidence),
            charts.figure3,
        )
    ]
    if len(every):
        shown = every.assign(
            label=labelled(every),
            milliseconds=1000 * every["seconds"],
            fastest=1000 * every["low"],
            slowest=1000 * every["high"],
        )
        columns = (
            *(Column("what", "what"), Column("label", "candidate"), Column("machine", "machine")),
            *(Column("milliseconds", "median", 3, "ms"), Column("fastest", "range", 3, "ms", "", "slowest")),
            Column("rounds", "rounds", 0),
            Column("times", "× naive", 1, "", "times faster than the naive kernel"),
            Column("library_times", "× torch float32", 2),
            Column("library_low", "interval", 2, "", "95 % bootstrap interval", "library_high"),
        )
        parts.append(
            Table("speed", "All times of the newest record of each machine.", shown, with_note(shown, *columns))
        )
        parts += said("speed-notes", latest(evidence.benches))
    return Section("figure3", "Figure 3: speed", text, tuple(parts))


def layers(evidence: Evidence) -> Section:
    """Single 1-bit layers of PyTorch against float32 and int8 ones, per machine and size."""
    lines, counts = [], []
    for bench in latest(evidence.layers):
        seconds = {(row.what, row.candidate): row.seconds for row in bench.rows}
        own = [row for row in bench.rows if row.candidate == ONE_BIT]
        for row in own:
            line: dict[str, Any] = {"what": row.what, "machine": bench.machine.name}
            line |= {"one_bit": 1000 * row.seconds, "remark": ", ".join(remarks(row).values())}
            for key, name in OTHERS.items():
                if (ratio := row.times_faster_than.get(name)) is not None:
                    line |= {key: 1000 * seconds[row.what, name], f"times_{key}": ratio.ratio}
                    line |= {f"low_{key}": ratio.low, f"high_{key}": ratio.high}
            lines.append(line | marks(bench) | {"records": bench.path, "again": "make bench-layers"})
        said = []
        for name in OTHERS.values():
            ratios = [row.times_faster_than[name] for row in own if name in row.times_faster_than]
            faster = sum(r.low is not None and r.low > 1 for r in ratios)
            slower = sum(r.high is not None and r.high < 1 for r in ratios)
            said += (
                [f"faster than {name} at {faster} of {len(ratios)} sizes and slower at {slower}"] if ratios else []
            )
        if said:
            counts.append(f"On {wording.machine(bench.machine.name)}, the 1-bit layer is {', '.join(said)}.")
    timed = [f"{name}_{key}" for key in OTHERS for name in ("times", "low", "high")]
    columns = ["what", "machine", "one_bit", *OTHERS, *timed, "remark", "dirty", "note", "records", "again"]
    frame = pd.DataFrame(lines, columns=columns)
    text = (
        "A layer inside a model takes and gives float32. So a 1-bit layer packs its input at each call and turns "
        "integers into floats, and an int8 layer quantizes and dequantizes. Linear layers are “rows × width”, "
        "from width to width; convolutions “images × side × channels”, from channels to channels. "
        + (
            " ".join([*counts, "At the others the interval holds 1."] if counts else [])
            or "Nothing has been measured yet: `make bench-layers` writes a record."
        ),
    )
    shown = (
        *(Column("what", "layer"), Column("machine", "machine"), Column("one_bit", "1 bit", 3, "ms")),
        *(Column("float32", "torch float32", 3, "ms"), Column("int8", "ONNX Runtime int8", 3, "ms")),
        *(
            column
            for key in OTHERS
            for column in (
                Column(f"times_{key}", f"× {key}", 2, "", f"times as fast as {OTHERS[key]}"),
                Column(f"low_{key}", "interval", 2, "", "95 % bootstrap interval", f"high_{key}"),
            )
        ),
        Column("remark", "remark"),
    )
    caption = "Single layers: median times, and how many times as fast the 1-bit layer is."
    parts = (Table("layers", caption, frame, with_note(frame, *shown)),) if lines else ()
    return Section("layers", "Single layers: speed", text, parts)


def training(evidence: Evidence) -> Section:
    """Steps a second of our training against a plain loop of the same mathematics, per machine."""
    lines = []
    for bench in latest(evidence.training):
        for row in bench.rows:
            line: dict[str, Any] = {"what": row.what, "candidate": row.candidate, "machine": bench.machine.name}
            line |= {"how": ", ".join(remarks(row)), "remark": ", ".join(remarks(row).values())}
            line |= {"steps": 1 / row.seconds, "slowest": 1 / row.slowest, "fastest": 1 / row.fastest}
            if (ratio := row.times_faster_than.get(PLAIN)) is not None:
                line |= {"times": ratio.ratio, "low": ratio.low, "high": ratio.high}
            lines.append(line | marks(bench) | {"records": bench.path, "again": "make bench-train"})
    columns = "what candidate how remark machine steps slowest fastest times low high".split()
    frame = pd.DataFrame(lines, columns=[*columns, "dirty", "note", "records", "again"])
    frame["label"] = labelled(frame)
    text = (
        "Training at the paper's sizes and batches: our loop and a plain eager PyTorch loop with the same "
        "mathematics, timed in turns in one run. Steps a second are those of the median step."
        + ("" if lines else " Nothing has been measured yet: `make bench-train` writes a record."),
    )
    shown = (
        *(Column("what", "what"), Column("label", "candidate"), Column("machine", "machine")),
        *(Column("steps", "steps/s", 2), Column("slowest", "slowest", 2), Column("fastest", "fastest", 2)),
        Column("times", "× plain loop", 2, "", "times as fast as the plain PyTorch loop"),
        Column("low", "interval", 2, "", "95 % bootstrap interval", "high"),
    )
    table = Table("training", "Training steps a second.", frame, with_note(frame, *shown))
    parts = (table, *said("training-notes", latest(evidence.training))) if lines else ()
    return Section("training", "Training speed", text, parts)
