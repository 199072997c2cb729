"""The record of a run: its fields, how it is read, and what makes it invalid."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError

from reproduce import spec, yamlfile
from reproduce.files import read_sealed
from reproduce.records.fields import (
    Count,
    Frozen,
    Known,
    Natural,
    NotNegative,
    Percent,
    explained,
    holding,
)

FORMAT = 1  # of the records below; a record of another is named and left out

Share = Annotated[float, Field(gt=0, le=1)]


class Machine(Known):
    """Where a run was made; tables show `name`."""

    name: str
    cores: Count
    threads: Count
    kernel_threads: Count = 1


class Code(Known):
    """The fields of `machine.code`; older records have no device, mode or threads."""

    revision: str | None
    dirty: bool | None
    source: str
    device: Literal["cpu", "cuda"] | None = None
    mode: str | None = None
    threads: list[Count] = Field(default=[])


class EpochRow(Frozen):
    """One epoch: rate, mean training cost, wrong images; test figures only where the protocol reads them.

    `flipped`: the share of binary weights whose sign at the epoch's end is not that of its start; None in nets
    without any, and in older records.
    """

    epoch: Count
    rate: NotNegative
    train_loss: float
    valid_wrong: Natural
    valid_loss: float
    test_wrong: Natural | None = None
    test_loss: float | None = None
    flipped: float | None = Field(default=None, ge=0, le=1)
    seconds: NotNegative


class DataHash(Frozen):
    name: str
    digest: str
    order: str


class Result(Frozen):
    """Errors in percent: at the best validation epoch and at the last epoch."""

    best_epoch: Count
    valid_error: Percent
    test_error: Percent
    last_test_error: Percent
    valid_images: Count
    test_images: Count
    wrong_best: str | None = None
    """Which test images were wrong at the best validation epoch (`outcomes.pack`); None in older records."""
    wrong_last: str | None = None
    """The same at the last epoch."""


class LayerFilters(Frozen):
    """Shares of distinct kernels in a binary convolution (`filter_counts.layer`)."""

    maps_in: Count
    maps_out: Count
    kernel: Count
    distinct: Share
    distinct_up_to_sign: Share


class Filters(Frozen):
    """A net's binary convolutions: counts of each, and the signs of the first one's (`filter_counts.of_net`)."""

    layers: list[LayerFilters] = Field(min_length=1)
    first: list[Annotated[str, Field(pattern="^[01]+$")]]


class Record(Frozen):
    """One run: settings, data, code and machine; if it finished, its result."""

    format: Literal[1]
    cell: str
    scale: spec.Scale
    seed: Natural
    variant: str | None = None
    """Name of the mutant (`make check-small-mutants`) or rate of the trial (`reproduce tune`); else None."""
    key: str
    status: Literal["finished", "failed"]
    failure: str | None = None
    settings: dict[str, Any]
    settings_digest: str
    data: DataHash
    code: Annotated[dict[str, Any], holding(Code)]
    machine: Annotated[dict[str, Any], holding(Machine)]
    libraries: dict[str, str]
    started: str
    seconds: NotNegative
    weights: Count | None = None
    parameters: Count | None = None
    weights_sha256: str | None = None
    """Digest of the trained net (`weights.digest`); None for a failed run and in older records."""
    result: Result | None = None
    filters: Filters | None = None
    """None where there is no binary convolution, and in records made before they were counted."""
    curve: list[EpochRow]

    @property
    def stem(self) -> str:
        return stem_of(self.cell, self.scale, self.seed, self.key, self.variant)


class Call(Known):
    """A part of a run's training: by what revision of the code, and on what machine (`machine.call`)."""

    revision: str | None
    dirty: bool | None
    name: str
    threads: Count


class Running(Frozen):
    """An unfinished run, from its checkpoint. It has no result, and no verdict may use it."""

    format: Literal[1]
    kind: Literal["running"]
    cell: str
    scale: spec.Scale
    seed: Natural
    key: str
    settings_digest: str
    data: DataHash
    code: Annotated[dict[str, Any], holding(Code)]
    """Training digest, device and mode; revision and `dirty` of the last call."""
    calls: list[Annotated[dict[str, Any], holding(Call)]] = Field(min_length=1)
    epochs_done: Count
    epochs: Count
    """Of the whole run."""
    seconds: NotNegative
    """Of the epochs that are done."""
    valid_images: Count
    curve: list[EpochRow] = Field(min_length=1)

    @property
    def stem(self) -> str:
        return stem_of(self.cell, self.scale, self.seed, self.key)


def stem_of(cell: str, scale: str, seed: int, key: str, variant: str | None = None) -> str:
    """File name of a run, without its ending."""
    variation = f"-{variant}" if variant else ""
    return f"{cell.replace('/', '-')}-{scale}{variation}-seed{seed}-{key[:12]}"


PARTS = ("settings", "scale", "seed", "data", "order", "source", "device", "mode")
"""The parts of a run's key; settings, data, order and source are digests."""


def key_of(parts: Mapping[str, str]) -> str:
    """sha256 of PARTS; older records lack the last two."""
    return hashlib.sha256("/".join(parts[name] for name in PARTS if name in parts).encode()).hexdigest()


def read_record(path: Path) -> Record:
    """A record from its file. ValueError (one line) if it is not a sound record of this format; OSError."""
    content = read_sealed(path)
    if content.get("format") != FORMAT:
        given = yamlfile.short(content.get("format"))
        raise ValueError(f"{path.name}: record format {given}, this version reads {FORMAT}")
    return _validated(Record, content, path)


def read_running(path: Path) -> Running:
    """The record of an unfinished run from its file. ValueError (one line) if it is not a sound one; OSError."""
    return _validated(Running, read_sealed(path), path)


M = TypeVar("M", Record, Running)


def _validated(model: type[M], content: dict[str, Any], path: Path) -> M:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{path.name}: {explained(error)}") from None


def read_records(folder: Path) -> tuple[list[Record], list[str]]:
    """All sound records of a folder, in the order of their names, and a line for each file left out."""
    records, problems = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            records.append(read_record(path))
        except (OSError, ValueError) as error:
            problems.append(str(error))
    return records, problems
