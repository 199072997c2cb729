"""The record of `make compare-products`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reproduce.records.fields import Measured, Natural, NotNegative, Percent, Sealed


class Difference(Measured):
    """Mean of 16 bits less float32 over pairs of seeds, its standard error and 95 % interval, in points."""

    mean: float
    standard_error: NotNegative
    low: float
    high: float


class Mode(Measured):
    """The runs in one mode, in the order of the cell's seeds: errors in percent, seconds of training."""

    source: str
    threads: int | None
    test_error: list[Percent]
    last_test_error: list[Percent]
    seconds: list[NotNegative]


class ComparedCell(Measured):
    """One cell trained in both modes with the same seeds."""

    cell: str
    scale: str
    seeds: list[Natural] = Field(min_length=2)
    modes: dict[str, Mode] = Field(min_length=2, max_length=2)
    difference: Difference
    last_difference: Difference
    valid_difference_by_epoch: list[float]


class Products(Sealed):
    """`command` made the record; `libraries` are versions by name."""

    kind: Literal["products"]
    command: str
    libraries: dict[str, str]
    cells: list[ComparedCell] = Field(min_length=1)
