"""What a store holds: runs, failed runs, timings, packed nets. What cannot be used is named and left out.

A store is a folder with `runs/`, `running/`, `kernels/`, `train/` and `nets/`, each with one JSON file a record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from reproduce import paper, spec
from reproduce.datasets import DATASETS
from reproduce.files import read_sealed
from reproduce.records import (
    Count,
    Known,
    Record,
    Running,
    Seed,
    Text,
    Wrong,
    explained,
    read_record,
    read_running,
)
from reproduce.report.rows import apart, made_by

Say = Callable[[str], None]
NO_CHECKSUM = "no checksum in the record"
once = lru_cache(maxsize=2)
"""For what several parts of a report ask of one `Evidence`; nobody changes what comes back."""


Name = Annotated[str, Field(min_length=1, max_length=200)]
Positive = Annotated[float, Field(ge=1e-12, le=1e12)]
"""Seconds, rates and ratios: what lies beyond is no measurement, and would break an axis."""


class Machine(Known):
    name: Name


class Code(Known):
    """Git revision, and whether the code differed from it."""

    revision: Text | None = None
    dirty: bool | None = None


class Ratio(Known):
    """How many times faster, with a 95 % bootstrap interval where there is one."""

    ratio: Positive
    low: Positive | None = None
    high: Positive | None = None

    @model_validator(mode="after")
    def _whole(self) -> Ratio:
        if (self.low is None) != (self.high is None):
            raise ValueError("low and high: one without the other")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError("low: above high")
        return self


class Timing(Known):
    """One line of a benchmark: seconds are medians, `fastest` and `slowest` their range."""

    what: Name
    candidate: Name
    seconds: Positive
    fastest: Positive
    slowest: Positive
    rounds: Count
    images: Count | None = None
    times_faster_than: dict[Name, Ratio]


class Bench(Known):
    """A record of `reproduce bench`: of kernels and nets (kinds "cpu", "gpu"), or of training ("train-…").

    `notes` say how it was measured, `warnings` which rows were unsteady.
    """

    format: Literal[1]
    kind: Literal["cpu", "gpu", "train-cpu", "train-gpu"]
    quick: bool
    started: Text
    machine: Machine
    code: Code
    rows: list[Timing] = Field(max_length=1000)
    notes: list[Text] = Field(default=[], max_length=1000)
    warnings: list[Text] = Field(default=[], max_length=1000)
    path: str = ""
    unsealed: bool = False
    """Read from a file without a checksum."""


class About(Known):
    """The run whose net was packed."""

    cell: Name
    scale: spec.Scale
    seed: Seed
    key: Name


class Packed(Known):
    """A record of `reproduce predict --record`: a trained net as a file of bits."""

    format: Literal[1]
    kind: Literal["net"]
    quick: bool
    started: Text
    machine: Machine
    code: Code
    about: About
    data: Text
    weights: int = Field(ge=1, le=2**40)
    bytes: int = Field(ge=1, le=2**50)
    wrong: Wrong
    images: Count
    differing: list[dict[str, Any]] | None = None
    path: str = ""
    unsealed: bool = False

    @model_validator(mode="after")
    def _possible(self) -> Packed:
        if max(self.wrong, len(self.differing or [])) > self.images:
            raise ValueError("images: fewer than those that are wrong or differ")
        return self


@dataclass(frozen=True, eq=False)
class Evidence:
    """The usable records of one store, and a line for each file or kind of record left out."""

    name: str
    """The store's folder name, with which record paths begin."""
    cells: tuple[spec.Cell, ...]
    runs: tuple[Record, ...]
    failed: tuple[Record, ...]
    benches: tuple[Bench, ...]
    training: tuple[Bench, ...]
    nets: tuple[Packed, ...]
    checks: tuple[Record, ...]
    """Runs of `check-small`: its calibration, and the planted errors (`variant`)."""
    problems: tuple[str, ...]
    superseded: int = 0
    """Finished runs of which a later one of the same seed counts."""
    running: tuple[Running, ...] = ()
    """Runs under way: shown, and nothing is judged by them."""
    hashes: Mapping[str, str] = field(default_factory=dict)
    """Name of a run's record without its ending -> sha256 of the file."""

    @property
    def empty(self) -> bool:
        """Whether there is no usable record of any kind."""
        kinds = (self.runs, self.failed, self.benches, self.training, self.nets, self.checks, self.running)
        return not any(kinds)

    def path(self, record: Record) -> str:
        return f"{self.name}/runs/{record.stem}.json"

    def paths(self, records: Sequence[Record]) -> str:
        return "; ".join(self.path(r) for r in records)


@cache
def the_paper() -> dict[str, Any]:
    """What the paper prints (`experiments/paper.yaml`), read once."""
    return paper.read()


def cells(own: Path | None = None) -> list[spec.Cell]:
    """The cells the report knows: the project's, but for the checks', and those of the folder `own`.

    Of two of one name that of `own` counts.
    """
    every = [*spec.cells(), *(spec.cells(None, own) if own is not None else [])]
    return list({c.name: c for c in every if c.experiment.check is None}.values())


def gather(
    folder: Path, cells: Sequence[spec.Cell], say: Say = lambda _: None, name: str | None = None
) -> Evidence:
    """Read a store. Files that are damaged, foreign or of another format are told and left out.

    Record paths begin with `name`, the folder's own if none is given.
    """
    problems: list[str] = []
    read = list(_runs(folder / "runs", problems))
    good = usable(read, cells, problems.append)
    older = len(_current(read, cells)) - len(good)
    if older:
        problems.append(f"{older} record(s) of seeds that have a later one, made the same way")
    name = folder.resolve().name if name is None else name
    under_way = _running(folder / "running", {r.stem for r in read}, cells, problems)
    others = [r for part in ("kernels", "train", "nets") for r in _others(folder / part, name, problems)]
    checks = [r for part in ("calibration", "mutants") for r in _runs(folder / "check" / part, problems, True)]
    problems = [_line(problem) for problem in problems]
    for problem in problems:
        say(f"left out: {problem}")
    return Evidence(
        name=name,
        cells=tuple(cells),
        runs=tuple(good),
        failed=tuple(failed(read, good, cells)),
        benches=tuple(b for b in others if isinstance(b, Bench) and not b.kind.startswith("train")),
        training=tuple(b for b in others if isinstance(b, Bench) and b.kind.startswith("train")),
        nets=tuple(n for n in others if isinstance(n, Packed)),
        checks=tuple(checks),
        problems=tuple(problems),
        superseded=older,
        running=tuple(under_way),
        hashes={r.stem: _sha256(folder / "runs" / f"{r.stem}.json") for r in good},
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


R = TypeVar("R", Record, Running)


def _sound(folder: Path, read: Callable[[Path], R], problems: list[str]) -> Iterator[R]:
    """The records of a folder that can be read and lie under their own names; of the others, why not."""
    for path in sorted(folder.glob("*.json")):
        try:
            record = read(path)
        except OSError as error:
            problems.append(_unread(path, error))
        except ValueError as error:
            problems.append(str(error))
        except RecursionError:
            problems.append(f"{path.name}: nested too deeply")
        else:
            if record.stem == path.stem:
                yield record
            else:
                problems.append(f"{path.name}: not its own name, it holds {record.stem}")


def _runs(folder: Path, problems: list[str], curves: bool = False) -> Iterator[Record]:
    """The sound records without the parts that nothing here reads: thousands must fit."""
    for record in _sound(folder, read_record, problems):
        read = {part: record.settings[part] for part in ("data", "net") if part in record.settings}
        unread: dict[str, Any] = {"settings": read, "libraries": {}}
        if not curves and record.scale == "small":
            unread["curve"] = []
        yield record.model_copy(update=unread)


def _running(folder: Path, ended: set[str], cells: Sequence[spec.Cell], problems: list[str]) -> list[Running]:
    """The sound records of runs of these cells that are under way; `ended`: names of runs that have a record."""
    settings = {(c.name, scale): s for c in cells for scale, s in c.scales.items()}
    found = []
    for record in _sound(folder, read_running, problems):
        name, current = f"{record.stem}.json", settings.get((record.cell, record.scale))
        if current is None:
            problems.append(f"{name}: under way, of another cell than these")
        elif (current.digest(), current.data.name) != (record.settings_digest, record.data.name):
            problems.append(f"{name}: under way, of other settings than today's experiment files")
        elif record.stem in ended:
            problems.append(f"{name}: said to be under way, but there is a record of this run")
        else:
            found.append(record)
    return found


def _others(folder: Path, name: str, problems: list[str]) -> Iterator[Bench | Packed]:
    """The records of benchmarks and packed nets, without trials (`quick`)."""
    for path in sorted(folder.glob("*.json")):
        try:
            content, sealed = read_sealed(path)
            model = Packed if content.get("kind") == "net" else Bench
            record: Bench | Packed = model.model_validate(content)
        except OSError as error:
            problems.append(_unread(path, error))
        except ValidationError as error:
            problems.append(f"{path.name}: {explained(error)}")
        except ValueError as error:
            problems.append(str(error))
        except RecursionError:
            problems.append(f"{path.name}: nested too deeply")
        else:
            if record.quick:
                problems.append(f"{path.name}: a trial of the benchmark, of tiny sizes")
            elif not path.name.isprintable():
                problems.append(f"{path.name}: a name that cannot be printed")
            else:
                found = {"path": f"{name}/{folder.name}/{path.name}", "unsealed": not sealed}
                yield record.model_copy(update=found)


def _unread(path: Path, error: OSError) -> str:
    """Why a file cannot be read, without the folders of this machine."""
    return f"{path.name}: {error.strerror or type(error).__name__}"


def _line(text: str) -> str:
    """One line that can be printed, whatever names and keys from elsewhere stand in it."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= 300 else f"{shown[:299]}…"


def usable(records: Sequence[Record], cells: Sequence[spec.Cell], say: Say = lambda _: None) -> list[Record]:
    """Finished records of these cells as their files stand today, one per cell, scale, seed, image order and code.

    Of several whose numbers are made the same way (`rows.made_by`) the latest counts. How many are of other
    settings, of other cells or of planted errors is told.
    """
    settings = _settings(cells)
    kept: dict[tuple[Any, ...], Record] = {}
    outdated = foreign = planted = 0
    for record in sorted(records, key=lambda r: r.started):
        if record.variant:
            planted += 1
            continue
        current = settings.get((record.cell, record.scale))
        foreign += current is None
        outdated += current is not None and record.settings_digest != current
        if record.status == "finished" and record.settings_digest == current:
            kept[(record.cell, record.scale, record.seed, record.data.order, made_by(record))] = record
    if outdated:
        say(f"{outdated} record(s) of other settings than today's experiment files")
    if foreign:
        say(f"{foreign} record(s) of other cells than these")
    if planted:
        say(f"{planted} record(s) of errors planted on purpose")
    return sorted(kept.values(), key=lambda r: (r.cell, r.scale, r.data.order, r.seed, made_by(r)))


def failed(records: Sequence[Record], good: Sequence[Record], cells: Sequence[spec.Cell]) -> list[Record]:
    """Runs of these cells that broke off because a number was not finite, and did not finish later."""
    settings, done = _settings(cells), {r.key for r in good}
    return [
        r
        for r in records
        if r.status == "failed"
        and not r.variant
        and r.settings_digest == settings.get((r.cell, r.scale))
        and r.key not in done
    ]


def _current(records: Sequence[Record], cells: Sequence[spec.Cell]) -> list[Record]:
    """Finished records of these cells as their files stand today."""
    settings = _settings(cells)
    return [
        r
        for r in records
        if r.status == "finished" and not r.variant and r.settings_digest == settings.get((r.cell, r.scale))
    ]


def by_order(records: Sequence[Record]) -> dict[tuple[str, str, str], list[list[Record]]]:
    """For each cell, scale and image order, sorted by these: the records in groups that may be pooled."""
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.cell, record.scale, record.data.order), []).append(record)
    return {key: apart(group) for key, group in sorted(groups.items())}


def _settings(cells: Sequence[spec.Cell]) -> dict[tuple[str, str], str]:
    """Today's settings of each cell and scale, as digests."""
    return {(c.name, scale): s.digest() for c in cells for scale, s in c.scales.items()}


T = TypeVar("T", Bench, Packed)


def newest(records: Sequence[T], key: Callable[[T], tuple[str, ...]]) -> list[T]:
    """The latest record for each key, in the keys' order."""
    kept = {key(r): r for r in sorted(records, key=lambda r: (r.started, r.path))}
    return [kept[k] for k in sorted(kept)]


def notes(record: Record | Running) -> list[str]:
    """What must be said wherever a figure rests on this run."""
    found = _of_code(record.code["dirty"])
    known = DATASETS.get(record.data.name)
    if known is None:
        found.append("data of a name that is not known")
    elif known.digest is not None and record.data.digest != known.digest:
        found.append("data differ from the known ones")
    if isinstance(record, Record) and record.unsealed:
        found.append(NO_CHECKSUM)
    return found


def note(record: Bench | Packed) -> str:
    """What must be said wherever a figure rests on this benchmark or packed net."""
    return "; ".join([*_of_code(record.code.dirty), *([NO_CHECKSUM] if record.unsealed else [])])


def _of_code(dirty: bool | None) -> list[str]:
    return [] if dirty is False else ["code differs from its revision" if dirty else "revision not known"]
