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
from typing import Any

import matplotlib
import matplotlib.colors
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from reproduce.report import wording
from reproduce.report.html import look
from reproduce.report.html.look import BLUE, DARK, GREEN, GREY, INK, LIGHT, PURPLE, STYLE, VERMILLION, WIDTH, empty

LOOKS: dict[tuple[str, str], tuple[str, Any, float, str]] = {  # source and scale: colour, line, width, name
    ("ours", "paper"): (VERMILLION, "-", 1.6, "ours, paper's scale"),
    ("ours", "short"): (BLUE, "-", 0.9, "ours, short schedule"),
    ("unfinished", "paper"): (VERMILLION, "--", 1.2, "unfinished, paper's scale"),
    ("unfinished", "short"): (BLUE, "--", 1.2, "unfinished, short schedule"),
    ("unfinished", "small"): (PURPLE, ":", 1.2, "unfinished, small net"),
    ("paper", "paper"): (GREY, "-", 4.0, "the paper's Figure 1"),
}
TICKS = [digit * 10.0**power for power in range(-6, 4) for digit in (1, 2, 5)]
FAMILIES = {"naive": (GREY, ""), "library": (BLUE, "///"), "xnor": (VERMILLION, "xxx")}
DOTS = [
    {"marker": marker, "color": colour, "linestyle": "", "markersize": 6}
    for marker, colour in zip("osD^", (VERMILLION, BLUE, GREEN, PURPLE), strict=True)
]
VARIANTS = {"float": (GREY, ""), "binary weights": (BLUE, "///"), "binary": (VERMILLION, "xxx")}


@matplotlib.rc_context(STYLE)
def curves(frame: pd.DataFrame) -> list[Figure]:
    """A small multiple a net: validation error and training cost against the epoch, a line a run, on log axes.

    The paper's digitised ranges are upright bars, with an arrow where they reach above the printed axis (NaN).
    """
    if frame.empty:
        return [empty()]
    return [_net(str(net), lines) for net, lines in frame.groupby("net", sort=False)]


def _net(net: str, frame: pd.DataFrame) -> Figure:
    quantities = [q for q in ("validation error", "training cost") if (frame["quantity"] == q).any()]
    figure = Figure(figsize=(WIDTH, 0.5 + 1.7 * len(quantities)))
    panels = figure.subplots(len(quantities), 1, sharex=True, squeeze=False)[:, 0]
    for axes, quantity in zip(panels, quantities, strict=True):
        here = frame[frame["quantity"] == quantity]
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylabel(f"{quantity}, %" if quantity == "validation error" else quantity)
        for _, line in here[here["source"] != "paper"].groupby("run"):
            colour, style, width, _ = LOOKS[line["source"].iloc[0], line["scale"].iloc[0]]
            axes.plot(line["epoch"], line["value"], color=colour, linestyle=style, linewidth=width)
        _ranges(axes, here[here["source"] == "paper"])
        axes.grid(axis="x")
        axes.xaxis.set_major_locator(FixedLocator(TICKS))
        axes.yaxis.set_major_locator(FixedLocator(TICKS))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_locator(NullLocator())
    panels[-1].set_xlabel("epoch")
    there = dict.fromkeys(zip(frame["source"], frame["scale"], strict=True))
    handles = []
    for colour, style, width, name in (LOOKS[key] for key in LOOKS if key in there):
        handles.append(Line2D([], [], color=colour, linestyle=style, linewidth=width, label=name))
    figure.legend(handles=handles, loc="outside lower left", ncols=2, handlelength=1.8)
    return look.titled(figure, wording.curve(net, frame))


def _ranges(axes: Axes, points: pd.DataFrame) -> None:
    """The paper's ranges; what is above the printed axis (NaN) ends in an arrow at its top, 25 %."""
    top = 25.0
    axes.vlines(points["epoch"], points["low"].fillna(top), points["high"].fillna(top), color=GREY, linewidth=4)
    above = points[points["high"].isna()]["epoch"]
    axes.plot(above, [top] * len(above), "^", color=GREY, markersize=6)


@matplotlib.rc_context(STYLE)
def figure2a(frame: pd.DataFrame) -> Figure:
    """The binary kernels of one first convolution, sorted so that equal ones stand together, a block a map."""
    if frame.empty:
        return empty()
    blocks = {}
    for number, of_map in frame.groupby("map", sort=True):
        signs = of_map.pivot_table(index="filter", columns=["y", "x"], values="sign").to_numpy()
        blocks[number] = sorted(map(tuple, signs > 0), reverse=True)
    across, count = 24, frame["filter"].nunique()
    rows = math.ceil(count / across)
    figure = Figure(figsize=(WIDTH, len(blocks) * (0.3 + WIDTH / across * rows)))
    panels = figure.subplots(len(blocks), 1, squeeze=False)[:, 0]
    for axes, (number, codes) in zip(panels, blocks.items(), strict=True):
        axes.set_title(f"input map {number}: {len(set(codes))} distinct of {count}")
        _tiles(axes, math.isqrt(len(codes[0])), codes, across)
    return look.titled(figure, wording.kernels(sum(len(set(c)) for c in blocks.values()), len(blocks) * count))


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
    cells = sorted(set(frame["cell"]))
    dots = dict(zip(cells, itertools.cycle(DOTS)))
    dash: dict[str, Any] = {"color": GREY, "marker": "_", "linestyle": "", "markeredgewidth": 2.2}
    dotted: dict[str, Any] = {"color": INK, "linewidth": 1, "linestyle": (0, (4, 2))}
    place = {layer: i for i, layer in enumerate(sorted(set(frame["layer"])))}
    for axes, rule in zip(panels, rules, strict=True):
        own = frame[frame["rule"] == rule]
        axes.set_title(rule)
        axes.axhline(printed, **dotted)
        random = own.groupby("layer")["random"].mean()
        axes.plot([place[v] for v in random.index], random, markersize=17, **dash)
        for i, (cell, points) in enumerate(own.groupby("cell", sort=True)):
            at = points["layer"].map(place) + (i - (len(cells) - 1) / 2) * 0.22
            axes.plot(at, points["fraction"], **dots[cell], alpha=0.75, markeredgewidth=0)
        axes.set_xticks(range(len(place)), [str(v) for v in place])
        axes.set_xlim(-0.6, len(place) - 0.4)
        axes.set_xlabel("convolution layer")
        axes.set_ylim(0, 104)
    panels[0].set_ylabel("unique filters of a layer")
    panels[0].yaxis.set_major_formatter(PercentFormatter(decimals=0))
    handles = [Line2D([], [], label=cell, **dot) for cell, dot in dots.items()]
    handles.append(Line2D([], [], markersize=14, label="random signs", **dash))
    handles.append(Line2D([], [], label=f"the paper's {printed:g} %", **dotted))
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return look.titled(figure, wording.unique(frame))


@matplotlib.rc_context(STYLE)
def figure3(frame: pd.DataFrame) -> list[Figure]:
    """Times on a log axis, a panel a measured thing: the paper's machine first, then ours, with ratios."""
    if frame.empty:
        return [empty()]
    figures = []
    for what, lines in frame.groupby("what", sort=False):
        entries = list(_bars(lines))
        height = sum(1 if isinstance(entry, str) else 1 + 0.6 * entry[0].count("\n") for entry in entries)
        figure = Figure(figsize=(WIDTH, 0.8 + 0.24 * height))
        _bar_panel(figure.subplots(), entries, lines)
        look.legend(figure, FAMILIES, [f for f in FAMILIES if (lines["family"] == f).any()])
        figures.append(look.titled(figure, wording.speed(str(what), lines)))
    return figures


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
        axes.barh(y, line["seconds"] - left, 0.62, left, color=colour, edgecolor=INK, hatch=hatch, linewidth=0.5)
        if not (pd.isna(line["low"]) or pd.isna(line["high"])):
            axes.hlines(y, line["low"], line["high"], color=INK, linewidth=1.4)
        end = line["seconds"] if pd.isna(line["high"]) else max(line["seconds"], line["high"])
        known = line["family"] != "naive" and not pd.isna(line["times"])
        ratio = f" · {wording.short(line['times'])}×" if known else ""
        value = seconds(float(f"{line['seconds']:.3g}"))
        look.beside(axes, end, y, value + ratio)
        places.append(y)
        labels.append(label)
        y += extra / 2
    axes.set_ylim(y + 0.7, 0.2)
    axes.set_yticks(places, labels)
    _log_bars(axes, EngFormatter(unit="s"), frame["seconds"].max())


@matplotlib.rc_context(STYLE)
def energy(frame: pd.DataFrame) -> list[Figure]:
    """Energy of one image (compute and memory apart) and bytes of weights by net and variant, on log axes."""
    if frame.empty:
        return [empty()]
    parts = (
        ("compute_uj", "Energy of one image's arithmetic, by the model", EngFormatter(unit="J"), 1e-6),
        ("memory_uj", "Energy of one image's memory accesses, by the model", EngFormatter(unit="J"), 1e-6),
        ("bytes", "Bytes of the weights", EngFormatter(unit="B"), 1.0),
    )
    return [_energy(frame, *part) for part in parts]


def _energy(frame: pd.DataFrame, column: str, title: str, unit: EngFormatter, factor: float) -> Figure:
    nets = list(dict.fromkeys(frame["net"]))
    variants = [v for v in VARIANTS if (frame["variant"] == v).any()]
    step = len(variants) + 0.6
    figure = Figure(figsize=(WIDTH, 0.8 + 0.2 * len(nets) * step))
    axes = figure.subplots()
    values = frame[column] * factor
    left = values[values > 0].min() / 3
    axes.set_xscale("log")
    axes.set_xlim(left, values.max() * (values.max() / left) ** 0.25)
    for line in frame.to_dict("records"):
        value = line[column] * factor
        y = nets.index(line["net"]) * step + variants.index(line["variant"])
        colour, hatch = VARIANTS[line["variant"]]
        axes.barh(y, value - left, 0.8, left, color=colour, edgecolor=INK, hatch=hatch, linewidth=0.5)
        look.beside(axes, value, y, unit(float(f"{value:.3g}")))
    middle = [i * step + (len(variants) - 1) / 2 for i in range(len(nets))]
    axes.set_yticks(middle, ["\n".join(textwrap.wrap(str(net), 22)) for net in nets])
    axes.set_ylim(len(nets) * step - 0.8, -0.8)
    _log_bars(axes, unit, values.max())
    look.legend(figure, VARIANTS, variants)
    return look.titled(figure, wording.energy(frame, column, title))


def _log_bars(axes: Axes, unit: EngFormatter, longest: float) -> None:
    """The axes of bars that lie on a log axis: powers of ten up to the longest bar, at most four of them."""
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    powers = range(math.ceil(math.log10(axes.get_xlim()[0])), math.floor(math.log10(longest)) + 1)
    axes.xaxis.set_major_locator(FixedLocator([10.0**power for power in powers[:: -(-len(powers) // 4) or 1]]))
    axes.xaxis.set_major_formatter(unit)
    axes.xaxis.set_minor_locator(NullLocator())
