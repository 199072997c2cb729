"""How the report's figures look: ink, palette, style, and their text as SVG.

The palette is Okabe and Ito's, for colour-blind readers, with a darker purple. Widths are small (5 inches) so that
a figure shrunk to a phone's width keeps letters that can be read.
"""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

INK = "#1b1e22"  # becomes currentColor: the page's ink, dark or light
BLUE, VERMILLION, GREEN, PURPLE, GREY = "#0072b2", "#d55e00", "#009e73", "#b3608f", "#7f858d"
VARIABLES = {BLUE: "blue", VERMILLION: "vermillion", GREEN: "green", PURPLE: "purple", GREY: "grey"}
DEFAULTS = {k: v for k, v in matplotlib.rcParamsDefault.items() if not k.startswith("backend")}
"""Matplotlib's own settings, whatever the user's matplotlibrc says (TeX for all text, say)."""
LIGHT, DARK = "#e3d9c3", "#44617f"  # tiles, the same on a light and a dark page
WIDTH = 5.0  # inches
STYLE = DEFAULTS | {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "figure.titlesize": 10.5,
    "figure.titleweight": "bold",
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "grid.alpha": 0.35,
    "grid.color": GREY,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.7,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "legend.handlelength": 3,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "text.color": INK,
    "text.parse_math": False,  # names come from records: a dollar sign is a dollar sign
    "xtick.color": INK,
    "xtick.labelsize": 9.5,
    "ytick.color": INK,
    "ytick.labelsize": 9.5,
}
CONTROL = dict.fromkeys([*range(0, 9), 11, 12, *range(14, 32)])  # not allowed in XML
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", XLINK)


def svg(figure: Figure, name: str, alt: str = "") -> str:
    """`figure` as one <svg> element, equal for equal figures, to stand in a page or in a file of its own.

    `name` goes before every id, so that several figures can stand in one page; `alt` is what a screen reader says.
    Letters stay letters. The ink is currentColor, the palette CSS variables with the printed colours behind them.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with (
        matplotlib.rc_context(DEFAULTS | {"svg.hashsalt": name, "svg.fonttype": "none"}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader's fonts draw the letters, not ours
        if (layout := figure.get_layout_engine()) is not None:
            layout.execute(figure)
            figure.set_layout_engine("none")  # else the whole figure is drawn twice
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
            if key in ("d", "x", "y", "transform"):
                value = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", value)
                value = re.sub(r"\s+", " ", value).strip()
            if key == "style":
                value = value.replace("font-family: 'DejaVu Sans'; ", "")  # said once, below
            element.set(key, _variables(value))
        if element.tag == f"{{{SVG}}}style" and element.text:
            element.text = _variables(element.text)
        if element.tag == f"{{{SVG}}}g":  # nothing refers to a group, and its indentation says nothing
            element.attrib.pop("id", None)
            element.text = "\n"
        if not (element.tail or "").strip():
            element.tail = "\n"
    root.set("id", name)
    root.set("font-family", "DejaVu Sans")
    root.set("preserveAspectRatio", "xMinYMin meet")
    root.set("role", "img")
    root.set("aria-label", alt or name)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _variables(value: str) -> str:
    for colour, variable in VARIABLES.items():
        value = value.replace(colour, f"var(--{variable}, {colour})")
    return value.replace(INK, "currentColor")


AT_NIGHT = {BLUE: "#56a9e0", VERMILLION: "#f0803c", GREEN: "#2fbf93", PURPLE: "#dd9bbd", GREY: "#9aa0a8"}
"""The palette on dark ground, as in page.css."""
INK_AT_NIGHT = "#e5e2da"


def alone(text: str, dark: bool) -> str:
    """The text of `svg` with colours of its own, for a page that has no style sheet of ours."""
    for colour, variable in VARIABLES.items():
        text = text.replace(f"var(--{variable}, {colour})", AT_NIGHT[colour] if dark else colour)
    return text.replace("currentColor", INK_AT_NIGHT if dark else INK)


def beside(axes: Axes, x: float, y: float, text: str) -> None:
    """Small text to the right of a point."""
    axes.annotate(text, (x, y), (4, 0), textcoords="offset points", va="center", fontsize=9)


def legend(figure: Figure, looks: Mapping[str, tuple[str, str]], names: Sequence[str]) -> None:
    """A legend of bars below a figure: for each name its colour and hatch from `looks`."""
    patches = [Patch(facecolor=looks[n][0], edgecolor=INK, hatch=looks[n][1], label=n) for n in names]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches))


def titled(figure: Figure, finding: str) -> Figure:
    """`figure` with what it shows above it, in lines that fit its width; each makes it higher."""
    lines = textwrap.wrap(finding, 54, break_on_hyphens=False)
    figure.set_figheight(figure.get_figheight() + 0.19 * len(lines))
    figure.suptitle("\n".join(lines), x=0.01, ha="left")
    return figure


def empty() -> Figure:
    """What stands where a figure has no data."""
    figure = Figure(figsize=(WIDTH, 0.8))
    axes = figure.subplots()
    axes.set_axis_off()
    axes.text(0.5, 0.5, "no record yet", ha="center", va="center", style="italic")
    return figure
