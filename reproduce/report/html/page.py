"""The report as one HTML file that needs nothing else: no request, no font, no script to read it.

page.html is the template (Jinja escapes what it fills in), page.css its look, page.js sorts tables. The same
sections give the same bytes: no clock, no path of this machine.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from reproduce.report.html.parts import FOLDS, Column, Figure, Section, Table, Verdict

HERE = Path(__file__).parent
LONG = 24  # rows up to which a table is not folded; one of verdicts never is
WIDE = 16  # characters from which a text may break, and takes a line of its own on a phone
TONES = {  # how a verdict begins -> how it looks
    "reproduced": "good",
    "holds": "good",
    "better": "good",
    "not reproduced": "bad",
    "does not hold": "bad",
    "fails": "bad",
    "inconclusive": "open",
    "nearly": "open",
    "cannot be told": "open",
    "single timing": "open",
    "by some counts": "open",
}


def page(
    title: str,
    sentences: Sequence[str],
    sections: Sequence[Section],
    home: str = "results/report",
    pictures: Sequence[Figure] = (),
    verdicts: Sequence[Verdict] = (),
) -> str:
    """The whole page. `home` is the folder it will lie in, from where the records' paths start (STORE/report).

    The first screen: `sentences`, `pictures` and `verdicts`. A section's tables link to data/NAME.csv, its figures
    to NAME.svg too, both beside the page; the text of a section with tables or figures stands at the end.
    """
    views = [
        {"anchor": s.anchor, "title": s.title, "text": s.text, "parts": [_part(part, home) for part in s.parts]}
        for s in sections
    ]
    folds = {fold: [(v, _links(v.records, home)) for v in verdicts if v.fold == fold] for fold in FOLDS}
    return _template().render(
        title=title,
        sentences=sentences,
        sections=views,
        pictures=[_part(part, home) for part in pictures],
        folds={fold: lines for fold, lines in folds.items() if lines},
        fold_titles=FOLDS,
        tone=tone,
        style=Markup(_text("page.css")),
        script=Markup(_text("page.js")),
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["prose"] = prose
    return environment.get_template("page.html")


def _text(name: str) -> str:
    """A file of this package, to stand within the page."""
    return (HERE / name).read_text(encoding="utf-8").strip()


def prose(text: str) -> Markup:
    """Plain text with `names of code` between backticks."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _part(part: Table | Figure, home: str) -> dict[str, Any]:
    if isinstance(part, Figure):
        found: dict[str, Any] = {
            "kind": "figure",
            "svgs": [Markup(svg) for svg in part.svgs],
            "files": list(part.files),
        }
    else:
        found = {"kind": "table", "files": [], **_table(part, home)}
    return {"caption": part.caption} | found | {"id": f"{found['kind']}-{part.name}", "name": part.name}


def _table(table: Table, home: str) -> dict[str, Any]:
    frame, caption = table.frame, table.caption
    columns = list(table.columns)
    for column in table.columns:  # a machine that is the same in all rows is said once
        values = list(frame[column.key])
        if column.key == "machine" and len(values) > 1 and len(set(values)) == 1 and values[0] not in ("", None):
            columns.remove(column)
            caption += f" {column.heading.capitalize()}: {values[0]}."
    flags = {key: frame[key].fillna(False).astype(bool) for key in ("quoted", "dirty") if key in frame}
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(frame.to_dict("records")):
        cells = [_cell(column, line, frame[column.key]) for column in columns]
        rows.append(
            {
                "cells": cells,
                "quoted": "quoted" in flags and flags["quoted"].iloc[number],
                "note": shown(line["note"]) if "dirty" in flags and flags["dirty"].iloc[number] else "",
                "records": _links(line.get("records"), home),
                "again": shown(line.get("again")),
                "what": ", ".join(c["text"] for c in cells[:2] if c["text"]),
            }
        )
    return {
        "caption": caption,
        "columns": [{"column": c, "number": _numeric(c, frame[c.key])} for c in columns],
        "rows": rows,
        "folded": len(rows) > LONG and not any(c.key == "verdict" for c in columns),
        "evidence": any(row["records"] or row["again"] for row in rows),
        "notes": sorted({note for row in rows for note in row["note"].split("; ") if note}),
        "hints": [c for c in columns if c.hint],
    }


def _cell(column: Column, line: dict[Any, Any], values: pd.Series) -> dict[str, Any]:
    value = line[column.key]
    text = shown(value, column.digits)
    if column.to and text:
        text += f" to {shown(line[column.to], column.digits)}"
    number = _numeric(column, values)
    return {
        "text": text,
        "label": f"{column.heading} ({column.unit})" if column.unit else column.heading,
        "value": f"{float(value):.9g}" if number and text else "",
        "kind": "empty" if not text else "number" if number else "wide" if len(text) > WIDE else "",
        "tone": tone(text) if column.key == "verdict" else "",
    }


def _numeric(column: Column, values: pd.Series) -> bool:
    """Whether a column is numeric: sorted as numbers and aligned to the right."""
    found = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    return found or column.digits is not None


def shown(value: object, digits: int | None = None) -> str:
    """A value as people see it: nothing for what is missing, a number with `digits` decimals, text as it is.

    A number that would be shown as 0 without being 0: "< 0.001".
    """
    if value is None or pd.isna(value):  # type: ignore[call-overload]
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if digits is not None:
        if isinstance(value, float) and 0 < value < 0.5 * 10**-digits:
            return f"< {10**-digits:.{digits}f}"
        return str(value) if isinstance(value, int) and not digits else f"{value:.{digits}f}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def tone(verdict: str) -> str:
    """How a verdict's badge looks: good, bad, open, or plain where nothing was judged."""
    return next((look for begin, look in TONES.items() if verdict.startswith(begin)), "plain")


def _links(records: object, home: str) -> list[tuple[str, str]]:
    """File name and relative link of each path in "a; b"; both paths start at the folder that holds the store."""
    root = "/" + "~/" * 16  # some folder deep down: paths and `home` may begin with "../"
    paths = [path for path in shown(records).split("; ") if path]
    return [(posixpath.basename(path), quote(posixpath.relpath(root + path, root + home))) for path in paths]
