"""The record of `make chaos` and `make fuzz`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reproduce.records.fields import Sealed


class Reliability(Sealed):
    """`found`: for each kind of disturbance, counts of what was tried and what came of it."""

    kind: Literal["chaos", "fuzz"]
    found: dict[str, dict[str, float]] = Field(min_length=1)
