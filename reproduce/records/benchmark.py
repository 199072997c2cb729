"""The record of `reproduce bench`: times of kernels and nets, of training steps, or of single layers."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, model_validator

from reproduce.records.fields import MANY, Count, Measured, Name, Positive, Sealed, Text

Family = Literal["naive", "library", "xnor"]
UNSTEADY = 0.10
"""A time with a larger spread is called unsteady."""


class Ratio(Measured):
    """How many times faster, with a 95 % bootstrap interval where there is one."""

    ratio: Positive
    low: Positive | None = None
    high: Positive | None = None


class Timing(Measured):
    """One row: seconds are medians over `rounds`, `fastest` and `slowest` their range."""

    what: Name
    candidate: Name
    family: Family
    """Which of Figure 3's three kinds of kernel the candidate is."""
    seconds: Positive
    fastest: Positive
    slowest: Positive
    rounds: Count
    spread: float = Field(default=0.0, ge=0, le=MANY)
    """10th to 90th percentile of the rounds, as a share of the median."""
    images: Count | None = None
    """The images that `seconds` is for."""
    timed_images: Count | None = None
    """The images that were timed; None: all of them."""
    random_weights: bool = False
    """Whether the net had random weights, not trained ones."""
    times_faster_than: dict[Name, Ratio]

    @property
    def scaled(self) -> bool:
        """Whether fewer images were timed and the time was multiplied."""
        return None not in (self.images, self.timed_images) and self.timed_images != self.images

    @property
    def steady(self) -> bool:
        return self.spread <= UNSTEADY


class Bench(Sealed):
    """A record of `reproduce bench`. `notes` say how it was measured, `warnings` which rows were unsteady."""

    kind: Literal["cpu", "gpu", "train-cpu", "train-gpu", "layers"]
    quick: bool
    rows: list[Timing] = Field(max_length=1000)
    notes: list[Text] = Field(default=[], max_length=1000)
    warnings: list[Text] = Field(default=[], max_length=1000)

    @model_validator(mode="before")
    @classmethod
    def _fields_of_older_records(cls, content: Any) -> Any:
        """Older records lack these fields: their notes say which times were scaled and which weights random."""
        rows = content.get("rows") if isinstance(content, dict) else None
        if not isinstance(rows, list):
            return content
        notes = [note for note in content.get("notes", ()) if isinstance(note, str)]
        return content | {"rows": [_completed(row, notes) if isinstance(row, dict) else row for row in rows]}


def family_of(candidate: str) -> Family:
    """Which of Figure 3's three kinds of kernel a candidate is, by its name."""
    if candidate.startswith("naive"):
        return "naive"
    return "xnor" if re.match(r"xnor|packed|bmma|wgmma", candidate) else "library"


def _completed(row: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    what, candidate, images = (row.get(key) for key in ("what", "candidate", "images"))
    if not isinstance(what, str) or not isinstance(candidate, str):
        return row
    found: dict[str, Any] = {"family": family_of(candidate)}
    for head, _, body in (note.partition(": ") for note in notes):
        of_candidate = "" if head == candidate else head.removesuffix(f", {candidate}")
        few = re.search(r"\bon (\d{1,9}) images", body)
        if few and isinstance(images, int) and int(few[1]) < images:
            if of_candidate != head and what.startswith(of_candidate):
                found["timed_images"] = int(few[1])
        if head and "random weights" in body and what.startswith(head):
            found["random_weights"] = True
    return found | row
