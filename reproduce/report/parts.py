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
    """A column that people see. `digits`: numbers with so many decimals (None: as it is); `hint`: a tooltip."""

    key: str
    heading: str
    digits: int | None = None
    unit: str = ""
    hint: str = ""


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
    """A drawing of `frame` alone, which is tidy; `alt` says in a sentence what it shows."""

    name: str
    caption: str
    alt: str
    frame: pd.DataFrame
    draw: Callable[[pd.DataFrame], Drawing]

    @cached_property
    def svg(self) -> str:
        """The drawing as SVG text, made once for the page and the picture beside it."""
        from reproduce.report import look

        return look.svg(self.draw(self.frame), f"figure-{self.name}-drawing", self.alt)


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
