"""Shared by benchmarks: the head of a record, the paper's Figure 3, the table on the terminal."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from reproduce.identity import Device
from reproduce.records import machine
from reproduce.spec import the_paper
from reproduce.terminal import console


def about(
    kind: str, quick: bool, started: str, libraries: dict[str, str], device: Device = "cpu"
) -> dict[str, Any]:
    """The first fields of a benchmark's record; `libraries`: versions of those that only this benchmark uses."""
    found = machine.head(kind, started, device, quick)
    if device == "cpu":
        found["machine"] = found["machine"] | {"clocks_mhz": clocks(), "load": os.getloadavg()}
    return found | {"libraries": found["libraries"] | libraries}


def clocks() -> list[float] | None:
    """Each core's present clock in MHz; None if the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")] or None


def figure3() -> dict[str, Any]:
    """The paper's Figure 3, for a record: where it stands, and its bars."""
    return {key: the_paper()["figure3"][key] for key in ("where", "bars")}


def paper_seconds(what: str, candidate: str, bars: list[dict[str, Any]]) -> float | None:
    """The seconds in the paper's figure, on its GTX 750, that correspond to this row; None if there are none."""
    start = "product of two 8192" if what.startswith("product of 8192") else None
    if what.startswith("MNIST MLP, 10000"):
        start = "MNIST MLP on the 10,000"
    bar = next((b for b in bars if start and b["what"].startswith(start)), None)
    if bar is None:
        return None
    kinds = {"naive": "baseline", "torch float32": "cublas"}
    kinds |= dict.fromkeys((r"xnor\b.*, kernel alone", r"packed\b.*, end to end"), "xnor")  # of any backend
    key = next((kind for pattern, kind in kinds.items() if re.match(pattern, candidate)), None)
    return None if key is None else float(bar[key])


def show(record: dict[str, Any]) -> None:
    """The record as a table, with the paper's seconds beside it."""
    table = Table("", "candidate", "ms", "Gop/s", "of its bound", "× torch float32", "images/s", "paper, GTX 750")
    last = None
    for row in record["rows"]:
        others = row["times_faster_than"]
        against = others.get("torch float32") or others.get("torch float32, end to end")
        printed = paper_seconds(row["what"], row["candidate"], record["paper"]["bars"])
        share = row.get("share_of_bound")
        rate = row.get("images_per_second")
        table.add_row(
            row["what"] if row["what"] != last else "",
            row["candidate"],
            f"{1000 * row['seconds']:.4g}",
            f"{row['operations_per_second'] / 1e9:,.0f}",
            "" if share is None else f"{100 * share:.0f} %",
            ratio_text(against),
            "" if rate is None else f"{rate:,.0f}",
            "" if printed is None else f"{1000 * printed:,.0f} ms",
        )
        last = row["what"]
    out = console(150)
    out.print(table)
    show_notes(out, record)


def ratio_text(ratio: dict[str, Any] | None) -> str:
    """A ratio with its interval, if there is one; empty for None."""
    if ratio is None:
        return ""
    interval = "" if ratio["low"] is None else f" ({ratio['low']:.2f} to {ratio['high']:.2f})"
    return f"{ratio['ratio']:.2f}{interval}"


def show_notes(out: Console, record: dict[str, Any]) -> None:
    """The notes and warnings of a record, a line each."""
    for kind in ("note", "warning"):
        for line in record[f"{kind}s"]:
            out.print(f"{kind}: {line}")
