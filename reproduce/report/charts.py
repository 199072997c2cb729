"""The figures of the report, each drawn from its tidy frame, and their SVG text.

Every `figureN(frame)` looks at nothing but its frame and gives a matplotlib Figure; an empty frame gives one that says
"no record yet". Line styles, markers and hatches say the same as the colours, so that the figures can be read in grey.
The palette is Okabe and Ito's, for colour-blind readers. Widths are small (5 inches) so that a figure shrunk to a
phone's width keeps letters that can be read.
"""

from __future__ import annotations

import io
import itertools
import math
import re
import textwrap
from collections.abc import Iterator
from xml.etree import ElementTree

import matplotlib
import matplotlib.colors
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

INK = "#1b1e22"  # becomes currentColor: the page's ink, dark or light
BLUE, VERMILLION, GREEN, PURPLE, GREY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7f858d"
VARIABLES = {BLUE: "blue", VERMILLION: "vermillion", GREEN: "green", PURPLE: "purple", GREY: "grey"}
WIDTH = 5.0  # inches
STYLE = sns.axes_style("ticks") | {
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "grid.alpha": 0.35,
    "grid.color": GREY,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.7,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "text.color": INK,
    "text.parse_math": False,  # names come from records: a dollar sign is a dollar sign
    "xtick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.color": INK,
    "ytick.labelsize": 8.5,
}
CURVES = {  # colour, line
    "baseline (float)": (GREEN, "-"),
    "BNN (Theano)": (VERMILLION, (0, (5, 1.5))),
    "BNN (Torch7)": (BLUE, (0, (5, 1.5, 1, 1.5))),
}
OTHER = itertools.product((PURPLE, GREY), ("-", ":"))
FAMILIES = {"naive": (GREY, ""), "library": (BLUE, "///"), "xnor": (VERMILLION, "xxx")}
VERDICTS = {
    "reproduced": (GREEN, "-", "o"),
    "better than the paper": (BLUE, (0, (5, 1.5)), "^"),
    "not reproduced": (VERMILLION, (0, (5, 1.5, 1, 1.5)), "s"),
    "inconclusive": (GREY, (0, (1, 1.2)), "D"),
}
VARIANTS = {"float": (GREY, ""), "binary weights": (BLUE, "///"), "binary": (VERMILLION, "xxx")}
CONTROL = dict.fromkeys([*range(0, 9), 11, 12, *range(14, 32)])  # not allowed in XML
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", XLINK)


def svg(figure: Figure, name: str, alt: str = "") -> str:
    """`figure` as one <svg> element, equal for equal figures, to stand in a page or in a file of its own.

    `name` goes before every id, so that several figures can stand in one page; `alt` is what a screen reader says.
    Letters stay letters. The ink is currentColor and the palette CSS variables with the printed colours behind them.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata=nothing)
    root = ElementTree.fromstring(buffer.getvalue().translate(CONTROL))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{{{SVG}}}metadata":
                parent.remove(child)
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                value = f"{name}-{value}"
            value = re.sub(r"url\(#", f"url(#{name}-", value)
            if key == f"{{{XLINK}}}href":
                value = re.sub("^#", f"#{name}-", value)
            if key == "d":
                value = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", value)
            element.set(key, _variables(value))
        if element.tag == f"{{{SVG}}}style" and element.text:
            element.text = _variables(element.text)
    root.set("id", name)
    root.set("role", "img")
    root.set("aria-label", alt or name)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _variables(value: str) -> str:
    for colour, variable in VARIABLES.items():
        value = value.replace(colour, f"var(--{variable}, {colour})")
    return value.replace(INK, "currentColor")


@matplotlib.rc_context(STYLE)
def figure1(frame: pd.DataFrame) -> Figure:
    """Validation error and training cost against epoch: our mean and band over seeds, the paper's ranges behind.

    The paper's digitised ranges are upright bars, with an arrow where they reach above the printed axis (NaN).
    """
    if frame.empty:
        return _empty()
    quantities = [q for q in ("validation error", "training cost") if (frame["quantity"] == q).any()]
    figure = Figure(figsize=(WIDTH, 0.7 + 2.5 * len(quantities)))
    panels = figure.subplots(len(quantities), 1, sharex=True, squeeze=False)[:, 0]
    looks = dict(CURVES)
    for series in sorted(set(frame["series"]) - set(CURVES)):
        looks[series] = (PURPLE, ":")
    paper, ours = (frame[frame["source"] == source] for source in ("paper", "ours"))
    for axes, quantity in zip(panels, quantities, strict=True):
        axes.set_title(quantity[0].upper() + quantity[1:])
        axes.set_ylabel("percent" if quantity == "validation error" else "squared hinge")
        printed = paper[paper["quantity"] == quantity]
        top = 25.0 if len(printed) else math.inf
        for shift, (series, points) in zip((-4, 0, 4), printed.groupby("series", sort=True), strict=False):
            _ranges(axes, points, looks[series][0], shift, top)
        for (series, scale), line in ours[ours["quantity"] == quantity].groupby(["series", "scale"], sort=True):
            line = line.sort_values("epoch")
            colour, style = looks[series]
            thin = scale == "short" and (ours["scale"] == "paper").any()
            axes.plot(line["epoch"], line["value"], color=colour, linestyle=style, linewidth=0.9 if thin else 1.6)
            axes.fill_between(line["epoch"], line["low"], line["high"], color=colour, alpha=0.18, linewidth=0)
        if top < math.inf:
            axes.set_ylim(0, top)
        else:
            axes.set_ylim(bottom=0)
    panels[-1].set_xlabel("epoch")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    figure.legend(handles=_curve_legend(frame, looks), loc="outside lower center", ncols=2)
    return figure


def _ranges(axes: Axes, points: pd.DataFrame, colour: str, shift: float, top: float) -> None:
    """The paper's ranges, `shift` epochs aside; what is above the printed axis (NaN) ends in an arrow at `top`."""
    low, high = points["low"].fillna(top), points["high"].fillna(top)
    epoch = points["epoch"] + shift
    # a range narrower than the digitising can tell would not be seen
    axes.vlines(epoch, low, np.maximum(high, low + 0.3), color=colour, alpha=0.45, linewidth=4.5)
    above = epoch[points["high"].isna()]
    if len(above):
        axes.plot(above, [top] * len(above), "^", color=colour, alpha=0.8, markersize=6, clip_on=False)


def _curve_legend(frame: pd.DataFrame, looks: dict[str, tuple[object, object]]) -> list[Line2D | Patch]:
    here = [s for s in looks if (frame["series"] == s).any()]
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=looks[s][0], linestyle=looks[s][1], label=s) for s in here
    ]
    if (frame["source"] == "ours").any():
        handles.append(Patch(color=GREY, alpha=0.3, linewidth=0, label="ours: mean, band over seeds"))
    if (frame["source"] == "paper").any():
        handles.append(
            Line2D([], [], color=GREY, alpha=0.6, linewidth=4.5, label="paper: range read off Figure 1")
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
        return _empty()
    blocks = []
    for cell, kernels in frame.groupby("cell", sort=True):
        kernels = kernels[kernels["seed"] == kernels["seed"].min()]
        for number, of_map in kernels.groupby("map", sort=True):
            table = of_map.pivot_table(index="filter", columns=["y", "x"], values="sign")
            side = math.isqrt(table.shape[1])
            codes = sorted(map(tuple, table.to_numpy() > 0), reverse=True)
            seed = of_map["seed"].iloc[0]
            title = f"{cell}, seed {seed}, input map {number}: {len(set(codes))} of {len(codes)} distinct"
            blocks.append((title, side, codes))
    across = 24
    rows = [math.ceil(len(codes) / across) for _, _, codes in blocks]
    figure = Figure(figsize=(WIDTH, sum(0.3 + WIDTH / across * n for n in rows)))
    panels = figure.subplots(len(blocks), 1, squeeze=False, height_ratios=[max(n, 1) for n in rows])[:, 0]
    for axes, (title, side, codes) in zip(panels, blocks, strict=True):
        axes.set_title(title, fontsize=8.5)
        _tiles(axes, side, codes, across)
    return figure


def _tiles(axes: Axes, side: int, codes: list[tuple[bool, ...]], across: int) -> None:
    """One light tile a kernel, its −1 cells dark, as one small picture with clear gaps."""
    picture = np.zeros((math.ceil(len(codes) / across) * (side + 1), across * (side + 1), 4))
    light, dark = matplotlib.colors.to_rgba("#e3d9c3"), matplotlib.colors.to_rgba("#3b4048")
    for index, code in enumerate(codes):
        top, left = index // across * (side + 1), index % across * (side + 1)
        positive = np.reshape(code, (side, side, 1))
        picture[top : top + side, left : left + side] = np.where(positive, light, dark)
    axes.imshow(picture, interpolation="none")
    axes.set_anchor("W")
    axes.set_axis_off()


@matplotlib.rc_context(STYLE)
def figure2b(frame: pd.DataFrame) -> Figure:
    """Unique filters in percent per layer, one panel a counting rule, beside random signs and the printed 42 %."""
    if frame.empty:
        return _empty()
    rules = sorted(set(frame["rule"]), reverse=True)
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
        axes.axhline(42, color=INK, linewidth=1, linestyle=(0, (4, 2)))
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
        Line2D([], [], color=INK, linewidth=1, linestyle=(0, (4, 2)), label="the paper's 42 %"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


@matplotlib.rc_context(STYLE)
def figure3(frame: pd.DataFrame) -> Figure:
    """Times on a log axis, one panel a measured thing; the paper's machine first, then ours, each with its ratios."""
    if frame.empty:
        return _empty()
    whats = list(dict.fromkeys(frame["what"]))
    panels = [list(_bars(frame[frame["what"] == what])) for what in whats]
    heights = [sum(1 if isinstance(entry, str) else 1 + 0.6 * entry[0].count("\n") for entry in p) for p in panels]
    figure = Figure(figsize=(WIDTH, 0.5 + sum(0.62 + 0.225 * h for h in heights)))
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
            yield "\n".join(textwrap.wrap(str(line["candidate"]), 24)), line


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
            axes.text(
                0, y, "  " + entry, transform=axes.get_yaxis_transform(), fontsize=8, style="italic", va="center"
            )
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
        axes.annotate(value + ratio, (end, y), (4, 0), textcoords="offset points", va="center", fontsize=8)
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
        return _empty()
    nets = list(dict.fromkeys(frame["net"]))
    variants = [v for v in VARIANTS if (frame["variant"] == v).any()]
    figure = Figure(figsize=(WIDTH, 1.0 + 3 * (0.45 + 0.19 * len(nets) * (len(variants) + 0.6))))
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
                axes.annotate(label, (value, y), (4, 0), textcoords="offset points", va="center", fontsize=8)
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


@matplotlib.rc_context(STYLE)
def simulation(frame: pd.DataFrame) -> Figure:
    """Share of every verdict against the shift in margins: a row a number of seeds, a column a spread."""
    if frame.empty:
        return _empty()
    counts, spreads = sorted(set(frame["n"])), sorted(set(frame["spread"]))
    figure = Figure(figsize=(WIDTH, 0.9 + 1.45 * len(counts)))
    panels = figure.subplots(len(counts), len(spreads), sharex=True, sharey=True, squeeze=False)
    for (i, n), (j, spread) in itertools.product(enumerate(counts), enumerate(spreads)):
        axes, here = panels[i][j], frame[(frame["n"] == n) & (frame["spread"] == spread)]
        axes.set_title(f"{n} seeds, spread {spread:g}", fontsize=8.5)
        axes.axhline(0.05, color=INK, linewidth=0.6, linestyle=(0, (1, 2)))
        axes.axhline(0.95, color=INK, linewidth=0.6, linestyle=(0, (1, 2)))
        for verdict, (colour, style, marker) in VERDICTS.items():
            line = here[here["verdict"] == verdict].sort_values("shift")
            axes.plot(
                line["shift"], line["share"], marker, color=colour, linestyle=style, markersize=3.5, linewidth=1.3
            )
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    for axes in panels[-1]:
        axes.set_xlabel("shift, margins")
    known = [v for v in VERDICTS if (frame["verdict"] == v).any()]
    handles = [
        Line2D(
            [], [], color=VERDICTS[v][0], linestyle=VERDICTS[v][1], marker=VERDICTS[v][2], markersize=4, label=v
        )
        for v in known
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _empty() -> Figure:
    figure = Figure(figsize=(WIDTH, 0.8))
    axes = figure.subplots()
    axes.set_axis_off()
    axes.text(0.5, 0.5, "no record yet", ha="center", va="center", style="italic")
    return figure
