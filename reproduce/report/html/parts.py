"""What the report is made of: sections with tables and figures, each with the frame it shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure as Drawing


@dataclass(frozen=True)
class Column:
    """A column that people see. `digits`: numbers with so many decimals (None: as it is); `hint`: a tooltip.

    `to`: the key of the other end, where this is an interval.
    """

    key: str
    heading: str
    digits: int | None = None
    unit: str = ""
    hint: str = ""
    to: str = ""


@dataclass(frozen=True)
class Table:
    """One line per row of `frame`; `name` is the stem of its CSV and its anchor in the page.

    The frame may also hold `records` (paths of record files, relative to the folder that holds the store, joined
    by "; "), `again` (the command that measures the row again), `quoted` (a row of the literature) and `dirty`
    (marked with a star; `note`, which then must be there, says why).
    """

    name: str
    caption: str
    frame: pd.DataFrame
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Figure:
    """A drawing of `frame` alone, which is tidy, or several; `alt` says in a sentence what they show."""

    name: str
    caption: str
    alt: str
    frame: pd.DataFrame
    draw: Callable[[pd.DataFrame], Drawing | list[Drawing]]

    @cached_property
    def svgs(self) -> tuple[str, ...]:
        """The drawings as SVG text, made once for the page and the pictures beside it."""
        from reproduce.report.html import look

        drawn = self.draw(self.frame)
        every = drawn if isinstance(drawn, list) else [drawn]
        return tuple(look.svg(one, f"figure-{self.name}-{i}", self.alt) for i, one in enumerate(every, 1))

    @property
    def files(self) -> dict[str, str]:
        """The pictures beside the page: NAME.svg, NAME-2.svg …"""
        return {f"{self.name}{f'-{i}' if i > 1 else ''}.svg": svg for i, svg in enumerate(self.svgs, 1)}


FOLDS = {
    "": "",
    "model": "Claims that rest on arithmetic or on a model, and hardware that was not built",
    "imagenet": "ImageNet (only in the paper's NIPS version)",
}


@dataclass(frozen=True)
class Verdict:
    """A line of the page's first table: what is claimed and found, and the verdict in a word or two.

    `detail` stands behind a disclosure, `records` are paths joined by "; ", `fold` is one of FOLDS. A line with a
    `note`, as in a table's frame, is marked with a star.
    """

    claim: str
    printed: str
    found: str
    word: str
    detail: str
    records: str = ""
    fold: str = ""
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page: paragraphs of plain text, then tables and figures."""

    anchor: str
    title: str
    text: tuple[str, ...]
    parts: tuple[Table | Figure, ...]


def csv(frame: pd.DataFrame) -> str:
    """The frame as CSV: dots, six significant digits, one kind of line end."""
    text: str = frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    return text
