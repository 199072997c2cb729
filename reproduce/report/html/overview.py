"""The two pictures of the first screen: Table 1 as a forest plot, and how many times faster the kernels are."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from reproduce import spec
from reproduce.records.benchmark import Timing, family_of
from reproduce.report import wording
from reproduce.report.evidence import Evidence, once, the_paper
from reproduce.report.html.look import BLUE, GREEN, GREY, INK, PURPLE, STYLE, VERMILLION, WIDTH, empty, titled
from reproduce.report.sections import speed, table1

FOREST = ["dataset", "row", "kind", "scale", "value", "low", "high", "verdict", "said"]
TIMES = ["machine", "what", "short", "candidate", "kind", "against", "value", "low", "high"]
TONES = {"reproduced": GREEN, "better than the paper": BLUE, "not reproduced": VERMILLION}
WHATS = {  # how a timed thing begins -> its name in the picture
    "product of two 8192": "8192 × 8192 product",
    "MNIST MLP, 10000": "MNIST MLP",
    "CIFAR-10 ConvNet, 10000": "CIFAR-10 ConvNet",
}
MARKS = {"float32": (BLUE, "s"), "TF32": (GREEN, "o"), "int8": (VERMILLION, "D")}
LINES = {"xnor against cublas": "cuBLAS (product)", "mlp against baseline": "a plain kernel (MLP)"}
LINES |= {"xnor against baseline": "a plain kernel (product)"}


# --- Table 1 --------------------------------------------------------------------------------------------------


def forest_frame(evidence: Evidence, reason: Callable[[Evidence, spec.Cell], str]) -> pd.DataFrame:
    """Per cell of Table 1: the paper's error (kind "paper", with its margin), ours ("mean", "seed"), what is said.

    One line "said" per cell: the mean and the verdict, or the reason why it was not run. Errors in percent.
    """
    every = table1.every(evidence)
    runs = {f"{evidence.name}/runs/{r.stem}.json": r for r in evidence.runs}
    lines: list[dict[str, Any]] = []
    cells = [c for c in evidence.cells if c.group == "table1"]
    order = {name: number for number, name in enumerate((*table1.DATASETS, *table1.ROWS))}
    cells.sort(key=lambda c: (order.get(c.experiment.dataset, 99), order.get(c.experiment.row, 99)))
    for cell in cells:
        of: dict[str, Any] = {"dataset": cell.experiment.dataset, "row": cell.experiment.row}
        published, margin = cell.experiment.published, cell.experiment.margin
        if published and margin:
            ends = {"low": published.value - margin, "high": published.value + margin}
            lines.append(of | {"kind": "paper", "scale": "paper", "value": published.value} | ends)
        here = every[(every["row"] == of["row"]) & (every["dataset"] == of["dataset"]) & (every["seeds"] > 0)]
        said: list[str] = []
        for line in here.to_dict("records"):
            mean = {"kind": "mean", "value": line["mean"], "low": line["low"], "high": line["high"]}
            lines.append(of | mean | {"scale": line["scale"], "verdict": line["verdict"]})
            if line["scale"] == "paper":
                said.append(f"{line['mean']:.2f} %, {line['verdict'].removesuffix(' than the paper')}")
                seeds = (runs[path].result for path in line["records"].split("; "))
                point = of | {"kind": "seed", "scale": "paper", "verdict": line["verdict"]}
                lines += [point | {"value": result.test_error} for result in seeds if result]
        why = reason(evidence, cell).split(" a run")[0].replace("about ", "~")
        lines.append(of | {"kind": "said", "said": "; ".join(said) or why})
    return pd.DataFrame(lines, columns=FOREST)


@matplotlib.rc_context(STYLE)
def forest(frame: pd.DataFrame) -> Figure:
    """One line for each cell on a log axis of percent, grouped by data set, with its result beside it."""
    values = frame["value"].dropna()
    if values.empty:
        return empty()
    figure = Figure(
        figsize=(WIDTH, 0.85 + 0.29 * (frame["kind"] == "said").sum() + 0.25 * frame["dataset"].nunique())
    )
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_xlim(values.min() * 0.8, values.max() * 1.2)
    start = axes.get_yaxis_transform()
    places: dict[float, str] = {}
    y = 0.0
    for dataset, of_set in frame.groupby("dataset", sort=False):
        y += 1.1
        axes.annotate(
            str(dataset), (0, y), (-6, 0), start, "offset points", weight="bold", va="center", ha="right"
        )
        for row, lines in of_set.groupby("row", sort=False):
            y += 1
            places[y] = str(row)
            _cell(axes, y, lines)
    axes.set_yticks(list(places), list(places.values()))
    axes.set_ylim(y + 0.7, 0.4)
    _plain(axes, (0.5, 1, 2, 5, 10, 20, 50), "{:g} %")
    dot: dict[str, Any] = {"linestyle": "", "markersize": 7}
    hollow: dict[str, Any] = {"linestyle": "", "color": GREY, "markerfacecolor": "none"}
    handles = [
        Line2D([], [], color=GREY, linewidth=5, alpha=0.45, label="the paper ± its test set's noise"),
        Line2D([], [], color=INK, marker="D", label="ours, paper's scale", **dot),
        Line2D([], [], marker="o", markersize=5, label="short schedule", **hollow),
        Line2D([], [], marker="s", markersize=3.5, label="small net", **hollow),
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=2, handlelength=1.5)
    return titled(figure, wording.table1(frame))


def _cell(axes: Axes, y: float, lines: pd.DataFrame) -> None:
    """The marks of one cell, and its words beside them."""
    of_paper = lines["scale"] == "paper"
    ours = lines[(lines["kind"] == "mean") & of_paper]
    run = len(ours) > 0
    for line in lines[lines["kind"] == "paper"].to_dict("records"):
        axes.hlines(y, line["low"], line["high"], color=GREY, linewidth=8, alpha=0.5 if run else 0.3)
        axes.vlines(line["value"], y - 0.32, y + 0.32, color=INK, linewidth=1.3, alpha=1 if run else 0.5)
    for scale, marker, size in (("short", "o", 5), ("small", "s", 3.5)):
        hollow = lines[(lines["kind"] == "mean") & (lines["scale"] == scale)]["value"]
        axes.plot(hollow, [y] * len(hollow), marker, color=GREY, markerfacecolor="none", markersize=size)
    for line in ours.to_dict("records"):
        colour = TONES.get(line["verdict"], PURPLE)
        if not pd.isna(line["low"]):
            axes.hlines(y, line["low"], line["high"], color=colour, linewidth=1.8)
        axes.plot(line["value"], y, "D", color=colour, markersize=7, markeredgecolor=INK, markeredgewidth=0.6)
    seeds = lines[lines["kind"] == "seed"]["value"]
    axes.plot(seeds, [y + 0.36] * len(seeds), ".", color=INK, markersize=3.5)
    look: dict[str, Any] = {"color": INK, "weight": "bold"} if run else {"color": INK, "alpha": 0.65}
    words = str(lines[lines["kind"] == "said"]["said"].iloc[0])
    axes.annotate(
        words, (1, y), (4, 0), axes.get_yaxis_transform(), "offset points", va="center", fontsize=9, **look
    )


def _plain(axes: Axes, places: tuple[float, ...], text: str) -> None:
    """No frame but the lower edge, and these ticks."""
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text.format(value)))


# --- speed ----------------------------------------------------------------------------------------------------


@once
def times_frame(evidence: Evidence) -> pd.DataFrame:
    """Ratios of the fastest XNOR kernel (packing included) to the fastest library of each precision, TIMES.

    Of the newest record of each machine, at the largest size; intervals are the record's 95 % bootstrap intervals.
    Libraries in bfloat16, which rounds results to 8 bits, are left out. TF32 rounds operands to 11 bits: it is
    exact for ±1, not for pixels.
    """
    lines: list[dict[str, Any]] = []
    for bench in speed.latest(evidence.benches):
        for begin, short in WHATS.items():
            rows = [row for row in bench.rows if speed.named(row).startswith(begin)]
            ours = [row for row in rows if any(p in row.candidate for p in wording.PREFERRED)]
            ours = [row for row in ours if row.family == "xnor"]
            if not ours:
                continue
            mine = min((row for row in ours if row.what == ours[-1].what), key=lambda row: row.seconds)
            best: dict[str, tuple[float, str]] = {}
            for name, ratio in mine.times_faster_than.items():
                kind = wording.precision(name)
                if family_of(name) == "library" and kind in MARKS:
                    best[kind] = min(best.get(kind, (ratio.ratio, name)), (ratio.ratio, name))
            for kind in (kind for kind in MARKS if kind in best):
                value, name = best[kind]
                found = mine.times_faster_than[name]
                line = {"machine": bench.machine.name, "what": speed.named(mine), "short": short, "kind": kind}
                line |= {"candidate": mine.candidate, "against": name.removesuffix(", end to end")}
                lines.append(line | {"value": value, "low": found.low, "high": found.high})
    return pd.DataFrame(lines, columns=TIMES)


@once
def lost(evidence: Evidence) -> dict[str, str]:
    """By machine, up to which size of products a library is as fast as our fastest kernel, packing included.

    It is unless the interval of the ratio lies above 1. In words, by the libraries' precision as in
    `times_frame`: "1024 in float32, 4096 in TF32, int8".
    """
    found: dict[str, str] = {}
    for bench in speed.latest(evidence.benches):
        best: dict[int, Timing] = {}
        for row in bench.rows:
            size = re.fullmatch(r"product of two (\d+)×\d+ matrices", speed.named(row))
            if size and row.family == "xnor" and any(p in row.candidate for p in wording.PREFERRED):
                best[int(size[1])] = min(best.get(int(size[1]), row), row, key=lambda r: r.seconds)
        largest: dict[str, int] = {}
        for edge, row in sorted(best.items()):
            for name, ratio in row.times_faster_than.items():
                if family_of(name) == "library" and (ratio.ratio if ratio.low is None else ratio.low) <= 1:
                    largest[wording.precision(name)] = edge
        kinds = {edge: [kind for kind in MARKS if largest.get(kind) == edge] for edge in sorted(best)}
        if said := ", ".join(f"{edge} in {', '.join(of)}" for edge, of in kinds.items() if of):
            found[bench.machine.name] = said
    return found


@matplotlib.rc_context(STYLE)
def times(frame: pd.DataFrame) -> Figure:
    """A line a timed thing on a log axis of ratios, machine by machine, with the paper's factors as lines."""
    if frame.empty:
        return empty()
    lines = frame[["machine", "short"]].drop_duplicates()
    figure = Figure(figsize=(WIDTH, 0.95 + 0.25 * len(lines) + 0.23 * lines["machine"].nunique()))
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_xlim(min(0.8, frame["value"].min() * 0.8), frame["value"].max() * 1.6)
    start = axes.get_yaxis_transform()
    places: dict[float, str] = {}
    y = 0.3
    for machine, of_machine in frame.groupby("machine", sort=True):
        y += 0.85
        words = f"{wording.machine(str(machine))}{using(of_machine)}"
        axes.annotate(words, (0, y), (4, 0), start, "offset points", fontsize=9, style="italic", va="center")
        for short, ratios in of_machine.groupby("short", sort=False):
            y += 1
            places[y] = str(short)
            axes.hlines(y, *sorted((1, ratios["value"].max())), color=GREY, linewidth=3, alpha=0.3)
            for ratio in ratios.to_dict("records"):
                _ratio(axes, y, ratio)
    printed = {claim["id"]: claim["value"] for claim in the_paper()["claims"]}
    dashed: dict[str, Any] = {"color": GREY, "linewidth": 1.1, "linestyle": (0, (4, 3))}
    for key in LINES:
        axes.axvline(printed[key], zorder=0, **dashed)
        words = f"{printed[key]:g}×"
        axes.annotate(words, (printed[key], 0.4), (3, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(list(places), list(places.values()))
    axes.set_ylim(y + 0.8, 0)
    _plain(axes, (1, 2, 5, 10, 20, 50, 100), "{:g}×")
    handles = [
        Line2D([], [], color=MARKS[kind][0], marker=MARKS[kind][1], linestyle="", label=kind)
        for kind in MARKS
        if kind in set(frame["kind"])
    ]
    handles.append(Line2D([], [], **dashed, label="the paper's GPU"))
    figure.legend(handles=handles, loc="outside lower left", fontsize=9, ncols=len(handles))
    return titled(figure, wording.times(frame))


def using(lines: pd.DataFrame) -> str:
    """The GPU kernels of some lines of `times_frame`, in parentheses; "" for a CPU's."""
    names = dict.fromkeys(filter(None, map(wording.backend, lines["candidate"])))
    return f" ({', '.join(names)})" if names else ""


def _ratio(axes: Axes, y: float, line: dict[Any, Any]) -> None:
    """The mark of a ratio with its interval, and the ratio: above it, of TF32 below, so that they stand apart."""
    colour, marker = MARKS[line["kind"]]
    if not pd.isna(line["low"]):
        axes.hlines(y, line["low"], line["high"], color=INK, linewidth=1.4)
    axes.plot(line["value"], y, marker, color=colour, markersize=6, markeredgecolor=INK, markeredgewidth=0.6)
    up = -1 if line["kind"] == "TF32" else 1
    words = f"{wording.short(line['value'])}×"
    axes.annotate(
        words, (line["value"], y), (0, 8 * up), textcoords="offset points", ha="center", va="center", fontsize=9
    )
