"""The record of `reproduce bench`: times of kernels and nets, of training steps, or of single layers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal

from pydantic import Field, model_validator

from reproduce.records.fields import Count, Measured, NotNegative, Positive, Sealed

Family = Literal["naive", "library", "xnor"]
UNSTEADY = 0.10
"""A time with a larger spread is called unsteady."""
CUT_OFF = "cut off before: "
"""A note on what the time limit kept from being measured begins with this."""


class Ratio(Measured):
    """How many times faster, with a 95 % bootstrap interval where there is one."""

    ratio: Positive
    low: Positive | None = None
    high: Positive | None = None


class Timing(Measured):
    """One row: seconds are medians over `rounds`, `fastest` and `slowest` their range."""

    what: str
    candidate: str
    family: Family
    """Which of Figure 3's three kinds of kernel the candidate is."""
    seconds: Positive
    fastest: Positive
    slowest: Positive
    rounds: Count
    spread: NotNegative = 0.0
    """10th to 90th percentile of the rounds, as a share of the median."""
    images: Count | None = None
    """The images that `seconds` is for."""
    timed_images: Count | None = None
    """The images that were timed; None: all of them."""
    random_weights: bool = False
    """Whether the net had random weights, not trained ones."""
    times_faster_than: dict[str, Ratio]

    @property
    def scaled(self) -> bool:
        """Whether fewer images were timed and the time was multiplied."""
        return None not in (self.images, self.timed_images) and self.timed_images != self.images

    @property
    def steady(self) -> bool:
        return self.spread <= UNSTEADY


class Bench(Sealed):
    """A record of `reproduce bench`. `notes` say how it was measured, `warnings` which rows were unsteady."""

    kind: Literal["cpu", "gpu", "train-cpu", "layers"]
    quick: bool
    rows: list[Timing]
    notes: list[str] = Field(default=[])
    warnings: list[str] = Field(default=[])

    @property
    def cut_off(self) -> bool:
        """Whether the time limit came before the last of its measurements."""
        return any(note.startswith(CUT_OFF) for note in self.notes)

    @model_validator(mode="before")
    @classmethod
    def _fields_of_older_records(cls, content: Any) -> Any:
        """Older records lack these fields: their notes say which times were scaled and which weights random."""
        with suppress(KeyError):  # a field is missing: validation names it
            content = content | {"rows": [_completed(row, content.get("notes", ())) for row in content["rows"]]}
        return content


def family_of(candidate: str) -> Family:
    """Which of Figure 3's three kinds of kernel a candidate is, by its name."""
    if candidate.startswith("naive"):
        return "naive"
    return "xnor" if re.match(r"xnor|packed|bmma|wgmma", candidate) else "library"


def _completed(row: dict[str, Any], notes: Sequence[str]) -> dict[str, Any]:
    what, candidate = row["what"], row["candidate"]
    found: dict[str, Any] = {"family": family_of(candidate)}
    for head, _, body in (note.partition(": ") for note in notes):
        of_candidate = "" if head == candidate else head.removesuffix(f", {candidate}")
        few = re.search(r"\bon (\d+) images", body)
        if few and of_candidate != head and what.startswith(of_candidate) and int(few[1]) < (row["images"] or 0):
            found["timed_images"] = int(few[1])
        if head and "random weights" in body and what.startswith(head):
            found["random_weights"] = True
    return found | row
