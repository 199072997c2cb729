"""What a judge of a claim gives back, and the words of verdicts on factors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from reproduce.report.evidence import Evidence

NEARLY = 0.9  # of a printed factor; from there on it is nearly reached


@dataclass(frozen=True)
class Finding:
    """What was measured of a claim, where, the verdict in words, and the records behind it.

    `brief`: the figure alone, as the head of the page shows it.
    """

    measured: str
    where: str
    verdict: str
    records: str = ""
    again: str = ""
    note: str = ""
    brief: str = ""


def factor(value: float, low: float | None, high: float | None, printed: float) -> str:
    """The verdict on a timed factor: by its interval; without one by its value, which the verdict then says.

    holds: all of it at or above the printed factor; does not hold: all of it below; else cannot be told.
    """
    if low is None or high is None:
        return f"{'holds' if value >= printed else 'does not hold'} in a single timing"
    if low >= printed:
        return "holds"
    return "does not hold" if high < printed else "cannot be told"


def at_least(value: float, printed: float) -> str:
    """The verdict on a counted factor: holds, nearly holds (from NEARLY of the printed one), does not hold."""
    share = value / printed
    return "holds" if share >= 1 else "nearly holds" if share >= NEARLY else "does not hold"


Judge = Callable[[Evidence, dict[str, Any]], list[Finding]]
"""Judges a claim of `experiments/paper.yaml` by the evidence; no finding: it was not measured."""


def machines(names: Iterable[str]) -> str:
    return "; ".join(sorted(set(names)))


def each_once(remarks: Iterable[str]) -> str:
    """The remarks on some records, each once."""
    return "; ".join(sorted({part for remark in remarks for part in remark.split("; ") if part}))
