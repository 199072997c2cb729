"""The figures of the report, each drawn from its tidy frame.

Every `figureN(frame)` looks at nothing but its frame and gives a matplotlib Figure; an empty frame gives one that
says "no record yet". Line styles, markers and hatches say the same as the colours, so that the figures can be read
in grey.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Iterator
from typing import Any, Literal

import matplotlib
import matplotlib.colors
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from reproduce.report.look import BLUE, DARK, GREEN, GREY, INK, LIGHT, PURPLE, STYLE, VERMILLION, WIDTH, empty
from reproduce.report.look import svg as svg

Line = Literal["-", ":"] | tuple[float, tuple[float, ...]]
CURVES: dict[str, tuple[str, Line, str]] = {  # colour, line, marker of the paper's points
    "baseline (float)": (GREEN, "-", "o"),
    "BNN (Theano)": (VERMILLION, (0, (5, 1.5)), "s"),
    "BNN (Torch7)": (BLUE, (0, (5, 1.5, 1, 1.5)), "D"),
}
OTHER: tuple[str, Line, str] = (PURPLE, ":", "v")
MARKS: dict[str, Any] = {
    "markersize": 5.5,
    "markeredgecolor": INK,
    "markeredgewidth": 0.7,
}  # told apart in grey by their shapes
SHIFT = 6  # epochs by which the paper's points of the three nets stand apart
FAMILIES = {"naive": (GREY, ""), "library": (BLUE, "///"), "xnor": (VERMILLION, "xxx")}
VARIANTS = {"float": (GREY, ""), "binary weights": (BLUE, "///"), "binary": (VERMILLION, "xxx")}


@matplotlib.rc_context(STYLE)
def figure1(frame: pd.DataFrame) -> Figure:
    """Validation error and training cost against epoch: our mean and band over seeds, the paper's ranges behind.

    The paper's digitised ranges are upright bars, with an arrow where they reach above the printed axis (NaN).
    """
    if frame.empty:
        return empty()
    quantities = [q for q in ("validation error", "training cost") if (frame["quantity"] == q).any()]
    figure = Figure(figsize=(WIDTH, 0.7 + 2.5 * len(quantities)))
    panels = figure.subplots(len(quantities), 1, sharex=True, squeeze=False)[:, 0]
    paper, ours = (frame[frame["source"] == source] for source in ("paper", "ours"))
    for axes, quantity in zip(panels, quantities, strict=True):
        axes.set_title(quantity[0].upper() + quantity[1:])
        axes.set_ylabel("percent" if quantity == "validation error" else "squared hinge")
        printed = paper[paper["quantity"] == quantity]
        top = 25.0 if len(printed) else math.inf
        for shift, (name, points) in zip((-SHIFT, 0, SHIFT), printed.groupby("series", sort=True), strict=False):
            _ranges(axes, points, CURVES.get(str(name), OTHER), shift, top)
        for (series, scale), line in ours[ours["quantity"] == quantity].groupby(["series", "scale"]):
            line = line.sort_values("epoch")
            colour, style, _ = CURVES.get(str(series), OTHER)
            thin = scale == "short" and (ours["scale"] == "paper").any()
            axes.plot(line["epoch"], line["value"], color=colour, linestyle=style, linewidth=0.9 if thin else 1.6)
            axes.fill_between(line["epoch"], line["low"], line["high"], color=colour, alpha=0.18, linewidth=0)
        if top < math.inf:
            axes.set_ylim(0, top)
        else:
            axes.set_ylim(bottom=0)
    panels[-1].set_xlabel("epoch")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, steps=[1, 2, 5, 10]))
    figure.legend(handles=_curve_legend(frame), loc="outside lower center", ncols=2)
    return figure


@matplotlib.rc_context(STYLE)
def running(frame: pd.DataFrame) -> Figure:
    """Unfinished runs: validation error and training cost against epoch, a line a run, each with its label."""
    if frame.empty:
        return empty()
    runs = dict.fromkeys(frame["run"])
    figure = Figure(figsize=(WIDTH, 5.2 + 0.25 * len(runs)))
    colours, styles = (BLUE, VERMILLION, GREEN, PURPLE, GREY), ("-", "--", ":", "-.")
    for axes, (quantity, lines) in zip(figure.subplots(2, 1, sharex=True), frame.groupby("quantity"), strict=True):
        axes.set_title(f"{str(quantity).capitalize()}, unfinished runs")
        axes.set_ylabel("percent" if quantity == "validation error" else "squared hinge")
        for number, run in enumerate(runs):
            line = lines[lines["run"] == run].sort_values("epoch")
            look: dict[str, Any] = {"color": colours[number % 5], "linestyle": styles[number % 4]}
            axes.plot(line["epoch"], line["value"], label=line["label"].iloc[0], marker=".", markersize=3, **look)
        axes.set_ylim(bottom=0)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, steps=[1, 2, 5, 10]))
    figure.legend(handles=axes.get_lines(), loc="outside lower center", ncols=1)
    return figure


def _ranges(axes: Axes, points: pd.DataFrame, look: tuple[str, Line, str], shift: float, top: float) -> None:
    """The paper's ranges, `shift` epochs aside; what is above the printed axis (NaN) ends in an arrow at `top`."""
    colour, _, marker = look
    low, high = points["low"].fillna(top), points["high"].fillna(top)
    epoch = points["epoch"] + shift
    axes.vlines(epoch, low, high, color=colour, alpha=0.45, linewidth=3.5)
    axes.plot(epoch, points["value"], marker, color=colour, **MARKS)
    above = epoch[points["high"].isna()]
    if len(above):
        axes.plot(above, [top] * len(above), "^", color=colour, alpha=0.8, markersize=6, clip_on=False)


def _curve_legend(frame: pd.DataFrame) -> list[Artist]:
    handles: list[Artist] = []
    for series in dict.fromkeys(frame["series"]):
        colour, style, marker = CURVES.get(series, OTHER)
        lines = frame[frame["series"] == series]
        own, points = ((lines["source"] == source).any() for source in ("ours", "paper"))
        line = Line2D([], [], color=colour, linestyle=style if own else "", label=series, **MARKS)
        line.set_marker(marker if points else "")
        handles.append(line)
    if (frame["source"] == "ours").any():
        handles.append(Patch(color=GREY, alpha=0.3, linewidth=0, label="ours: mean, band over seeds"))
    if (frame["source"] == "paper").any():
        handles.append(
            Line2D([], [], color=GREY, alpha=0.6, linewidth=3.5, label="paper: range read off Figure 1")
        )
    scales = set(frame.loc[frame["source"] == "ours", "scale"])
    if {"paper", "short"} <= scales:
        handles.append(Line2D([], [], color=INK, linewidth=0.9, label="thin: short schedule"))
    return handles


@matplotlib.rc_context(STYLE)
def figure2a(frame: pd.DataFrame) -> Figure:
    """The binary kernels of a first convolution, sorted so that equal ones stand together, a block an input map.

    Of several seeds the first is drawn, of several cells each.
    """
    if frame.empty:
        return empty()
    blocks = []
    for cell, kernels in frame.groupby("cell", sort=True):
        kernels = kernels[kernels["seed"] == kernels["seed"].min()]
        for number, of_map in kernels.groupby("map", sort=True):
            table = of_map.pivot_table(index="filter", columns=["y", "x"], values="sign")
            side = math.isqrt(table.shape[1])
            codes = sorted(map(tuple, table.to_numpy() > 0), reverse=True)
            seed = of_map["seed"].iloc[0]
            title = f"{cell}, seed {seed}, input map {number}: {len(set(codes))} distinct of {len(codes)}"
            blocks.append((title, side, codes))
    across = 24
    rows = [math.ceil(len(codes) / across) for _, _, codes in blocks]
    figure = Figure(figsize=(WIDTH, sum(0.3 + WIDTH / across * n for n in rows)))
    panels = figure.subplots(len(blocks), 1, squeeze=False, height_ratios=[max(n, 1) for n in rows])[:, 0]
    for axes, (title, side, codes) in zip(panels, blocks, strict=True):
        axes.set_title(title, fontsize=9.5)
        _tiles(axes, side, codes, across)
    return figure


def _tiles(axes: Axes, side: int, codes: list[tuple[bool, ...]], across: int) -> None:
    """One light tile a kernel, its −1 cells dark, as one small picture with clear gaps."""
    picture = np.zeros((math.ceil(len(codes) / across) * (side + 1), across * (side + 1), 4))
    light, dark = matplotlib.colors.to_rgba(LIGHT), matplotlib.colors.to_rgba(DARK)
    for index, code in enumerate(codes):
        top, left = index // across * (side + 1), index % across * (side + 1)
        positive = np.reshape(code, (side, side, 1))
        picture[top : top + side, left : left + side] = np.where(positive, light, dark)
    axes.imshow(picture.repeat(8, 0).repeat(8, 1), interpolation="none")  # large: printers blur what they enlarge
    axes.set_anchor("W")
    axes.set_axis_off()


@matplotlib.rc_context(STYLE)
def figure2b(frame: pd.DataFrame) -> Figure:
    """Unique filters in percent per layer, a panel a counting rule, beside random signs and the printed figure."""
    if frame.empty:
        return empty()
    rules = sorted(set(frame["rule"]), reverse=True)
    printed = frame["printed"].iloc[0]
    figure = Figure(figsize=(WIDTH, 3.4))
    panels = figure.subplots(1, len(rules), sharey=True, squeeze=False)[0]
    markers = dict(zip(sorted(set(frame["cell"])), "osD^vP*X", strict=False))
    layers = list(dict.fromkeys(frame.sort_values("layer")["layer"]))
    place = {layer: i for i, layer in enumerate(layers)}
    colours = itertools.cycle((VERMILLION, BLUE, GREEN, PURPLE))
    colour = {cell: next(colours) for cell in markers}
    for axes, rule in zip(panels, rules, strict=True):
        own = frame[frame["rule"] == rule]
        axes.set_title(rule)
        axes.axhline(printed, color=INK, linewidth=1, linestyle=(0, (4, 2)))
        random = own.groupby("layer", sort=False)["random"].mean()
        axes.plot([place[v] for v in random.index], random, "_", color=GREY, markersize=17, markeredgewidth=2.2)
        spread = (len(markers) - 1) / 2
        for i, (cell, points) in enumerate(own.groupby("cell", sort=True)):
            at = points["layer"].map(place) + (i - spread) * 0.22
            axes.plot(
                at,
                points["fraction"],
                markers.get(cell, "o"),
                color=colour.get(cell, PURPLE),
                markersize=6,
                alpha=0.75,
                markeredgewidth=0,
            )
        axes.set_xticks(range(len(layers)), [str(v) for v in layers])
        axes.set_xlim(-0.6, len(layers) - 0.4)
        axes.set_xlabel("convolution layer")
        axes.set_ylim(0, 104)
    panels[0].set_ylabel("unique filters of a layer")
    panels[0].yaxis.set_major_formatter(PercentFormatter(decimals=0))
    handles = [
        *(
            Line2D([], [], marker=m, color=colour[c], linestyle="", markersize=6, label=c)
            for c, m in markers.items()
        ),
        Line2D(
            [], [], marker="_", color=GREY, linestyle="", markersize=14, markeredgewidth=2.2, label="random signs"
        ),
        Line2D([], [], color=INK, linewidth=1, linestyle=(0, (4, 2)), label=f"the paper's {printed:g} %"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


@matplotlib.rc_context(STYLE)
def figure3(frame: pd.DataFrame) -> Figure:
    """Times on a log axis, a panel a measured thing: the paper's machine first, then ours, with ratios."""
    if frame.empty:
        return empty()
    whats = list(dict.fromkeys(frame["what"]))
    panels = [list(_bars(frame[frame["what"] == what])) for what in whats]
    heights = [sum(1 if isinstance(entry, str) else 1 + 0.6 * entry[0].count("\n") for entry in p) for p in panels]
    figure = Figure(figsize=(WIDTH, 0.5 + sum(0.66 + 0.24 * h for h in heights)))
    for axes, what, entries in zip(
        figure.subplots(len(whats), 1, squeeze=False, height_ratios=heights)[:, 0], whats, panels, strict=True
    ):
        axes.set_title("\n".join(textwrap.wrap(what, 44)))
        _bar_panel(axes, entries, frame[frame["what"] == what])
    families = [f for f in FAMILIES if (frame["family"] == f).any()]
    handles = [Patch(facecolor=FAMILIES[f][0], edgecolor=INK, hatch=FAMILIES[f][1], label=f) for f in families]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def _bars(frame: pd.DataFrame) -> Iterator[str | tuple[str, pd.Series]]:
    """From top to bottom: a machine's name, then its candidates (label, line), slowest first."""
    order = frame["source"].ne("paper")
    for (_, machine), lines in frame.groupby([order, "machine"], sort=True):
        yield str(machine)
        for _, line in lines.sort_values("seconds", ascending=False, kind="stable").iterrows():
            label = f"{line['candidate']} ({line['how']})" if line["how"] else str(line["candidate"])
            yield "\n".join(textwrap.wrap(label, 24)), line


def _bar_panel(axes: Axes, entries: list[str | tuple[str, pd.Series]], frame: pd.DataFrame) -> None:
    left = frame["seconds"].min() / 4
    right = frame["seconds"].max() * (frame["seconds"].max() / left) ** 0.42  # room for the labels
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    places, labels, y = [], [], 0.0
    seconds = EngFormatter(unit="s")
    for entry in entries:
        if isinstance(entry, str):
            y += 1.1 if y else 0.85
            start = axes.get_yaxis_transform()
            axes.annotate(entry, (0, y), (4, 0), start, "offset points", fontsize=9, style="italic", va="center")
            continue
        label, line = entry
        extra = 0.6 * label.count("\n")
        y += 1 + extra / 2
        colour, hatch = FAMILIES.get(line["family"], (PURPLE, ""))
        axes.barh(
            y,
            line["seconds"] - left,
            left=left,
            height=0.62,
            color=colour,
            edgecolor=INK,
            hatch=hatch,
            linewidth=0.5,
        )
        if not (pd.isna(line["low"]) or pd.isna(line["high"])):
            axes.hlines(y, line["low"], line["high"], color=INK, linewidth=1.4)
        end = line["seconds"] if pd.isna(line["high"]) else max(line["seconds"], line["high"])
        ratio = "" if pd.isna(line["times"]) or line["family"] == "naive" else f" · {_short(line['times'])}×"
        value = seconds(float(f"{line['seconds']:.3g}"))
        axes.annotate(value + ratio, (end, y), (4, 0), textcoords="offset points", va="center", fontsize=9)
        places.append(y)
        labels.append(label)
        y += extra / 2
    axes.set_ylim(y + 0.7, 0.2)
    axes.set_yticks(places, labels)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(LogLocator(numticks=6))
    axes.xaxis.set_major_formatter(EngFormatter(unit="s"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _short(value: float) -> str:
    """A ratio with two figures below ten, without decimals from there on: 3.4, 23, 121."""
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


@matplotlib.rc_context(STYLE)
def energy(frame: pd.DataFrame) -> Figure:
    """Energy of one image (compute and memory apart) and bytes of weights by net and variant, on log axes."""
    if frame.empty:
        return empty()
    nets = list(dict.fromkeys(frame["net"]))
    variants = [v for v in VARIANTS if (frame["variant"] == v).any()]
    figure = Figure(figsize=(WIDTH, 1.0 + 3 * (0.5 + 0.2 * len(nets) * (len(variants) + 0.6))))
    parts = (
        ("compute_uj", "Compute, energy of one image", EngFormatter(unit="J"), 1e-6),
        ("memory_uj", "Memory accesses, energy of one image", EngFormatter(unit="J"), 1e-6),
        ("bytes", "Weights", EngFormatter(unit="B"), 1.0),
    )
    for axes, (column, title, unit, factor) in zip(figure.subplots(3, 1), parts, strict=True):
        values = frame[column] * factor
        left = values[values > 0].min() / 3
        axes.set_title(title)
        axes.set_xscale("log")
        axes.set_xlim(left, values.max() * (values.max() / left) ** 0.25)
        for i, net in enumerate(nets):
            for j, variant in enumerate(variants):
                line = frame[(frame["net"] == net) & (frame["variant"] == variant)]
                if line.empty:
                    continue
                value, y = float(line[column].iloc[0]) * factor, i * (len(variants) + 0.6) + j
                colour, hatch = VARIANTS[variant]
                axes.barh(
                    y, value - left, left=left, height=0.8, color=colour, edgecolor=INK, hatch=hatch, linewidth=0.5
                )
                label = unit(float(f"{value:.3g}"))
                axes.annotate(label, (value, y), (4, 0), textcoords="offset points", va="center", fontsize=9)
        middle = [i * (len(variants) + 0.6) + (len(variants) - 1) / 2 for i in range(len(nets))]
        axes.set_yticks(middle, ["\n".join(textwrap.wrap(str(net), 22)) for net in nets])
        axes.set_ylim(len(nets) * (len(variants) + 0.6) - 0.8, -0.8)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(LogLocator(numticks=6))
        axes.xaxis.set_major_formatter(unit)
        axes.xaxis.set_minor_formatter(NullFormatter())
    handles = [Patch(facecolor=VARIANTS[v][0], edgecolor=INK, hatch=VARIANTS[v][1], label=v) for v in variants]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure
