"""What a store holds: runs, failed runs, timings, packed nets. What cannot be used is named and left out.

A store is a folder with `runs/`, `kernels/` and `train/`, each with one JSON file a record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reproduce import data, spec
from reproduce import runs as store
from reproduce.runs import Record

Say = Callable[[str], None]
GROUPS = ("table1", "short", "figure1")
CURVES = "cifar10"  # the data set whose curves Figure 1 shows; others' are not kept in memory


class _Read(BaseModel):
    """What the report reads of a record; other keys may be there."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class Machine(_Read):
    name: str


class Ratio(_Read):
    """How many times faster, with a 95 % bootstrap interval where there is one."""

    ratio: float = Field(gt=0, allow_inf_nan=False)
    low: float | None = None
    high: float | None = None


class Timing(_Read):
    """One line of a benchmark: seconds are medians, `fastest` and `slowest` their range."""

    what: str
    candidate: str
    seconds: float = Field(gt=0, allow_inf_nan=False)
    fastest: float = Field(gt=0, allow_inf_nan=False)
    slowest: float = Field(gt=0, allow_inf_nan=False)
    rounds: int = Field(ge=1)
    times_faster_than: dict[str, Ratio]


class Bench(_Read):
    """A record of `reproduce bench`: of kernels and nets (kinds "cpu", "gpu"), or of training ("train-…")."""

    format: Literal[1]
    kind: Literal["cpu", "gpu", "train-cpu", "train-gpu"]
    quick: bool
    started: str
    machine: Machine
    code: dict[str, Any]
    rows: list[Timing]
    notes: list[str] = []
    path: str = ""


class About(_Read):
    """The run whose net was packed."""

    cell: str
    scale: spec.Scale
    seed: int
    key: str


class Packed(_Read):
    """A record of `reproduce predict --record`: a trained net as a file of bits."""

    format: Literal[1]
    kind: Literal["net"]
    quick: bool
    started: str
    machine: Machine
    code: dict[str, Any]
    about: About
    data: str
    weights: int = Field(ge=1)
    bytes: int = Field(ge=1)
    wrong: int = Field(ge=0)
    images: int = Field(ge=1)
    images_per_second: float = Field(gt=0, allow_inf_nan=False)
    latency: float = Field(gt=0, allow_inf_nan=False)
    differing: list[dict[str, Any]] | None = None
    path: str = ""


@dataclass(frozen=True)
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

    def path(self, record: Record) -> str:
        return f"{self.name}/runs/{record.stem}.json"

    def paths(self, records: Sequence[Record]) -> str:
        return "; ".join(self.path(r) for r in records)


def cells() -> list[spec.Cell]:
    """The cells the report knows: Table 1's, those of a short schedule, Figure 1's."""
    return [c for c in spec.cells() if c.name.split("/")[0] in GROUPS]


def gather(
    folder: Path, cells: Sequence[spec.Cell], say: Say = lambda _: None, name: str | None = None
) -> Evidence:
    """Read a store. Files that are damaged, foreign or of another format are told and left out.

    Record paths begin with `name`, the folder's own if none is given.
    """
    problems: list[str] = []
    read = list(_runs(folder / "runs", problems))
    good = usable(read, cells, problems.append)
    name = folder.resolve().name if name is None else name
    others = [r for part in ("kernels", "train") for r in _others(folder / part, name, problems)]
    checks = [r for part in ("calibration", "mutants") for r in _runs(folder / "check" / part, problems, True)]
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
    )


def _runs(folder: Path, problems: list[str], curves: bool = False) -> Iterator[Record]:
    """The sound records under their own names, without the parts that nothing here reads: thousands must fit."""
    for path in sorted(folder.glob("*.json")):
        try:
            record = store.read(path)
        except (OSError, ValueError) as error:
            problems.append(str(error))
            continue
        if record.stem != path.stem:
            problems.append(f"{path.name}: not its own name, it holds {record.stem}")
            continue
        unread: dict[str, Any] = {"settings": {}, "libraries": {}}
        if not curves and record.data.name != CURVES:
            unread["curve"] = []
        yield record.model_copy(update=unread)


def _others(folder: Path, name: str, problems: list[str]) -> Iterator[Bench | Packed]:
    """The records of benchmarks and packed nets, without trials (`quick`)."""
    for path in sorted(folder.glob("*.json")):
        try:
            content, _ = store.read_sealed(path)
            model = Packed if content.get("kind") == "net" else Bench
            record: Bench | Packed = model.model_validate(content)
        except OSError as error:
            problems.append(f"{path.name}: {error.strerror}")
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            problems.append(f"{path.name}: {'.'.join(map(str, first['loc']))}: {first['msg']}")
        except (ValueError, RecursionError) as error:
            problems.append(str(error))
        else:
            if record.quick:
                problems.append(f"{path.name}: a trial of the benchmark, of tiny sizes")
            else:
                yield record.model_copy(update={"path": f"{name}/{folder.name}/{path.name}"})


def usable(records: Sequence[Record], cells: Sequence[spec.Cell], say: Say = lambda _: None) -> list[Record]:
    """Finished records of these cells as their files stand today, one per cell, scale, seed and image order.

    Of several (after a change of the training code) the latest counts. How many are of other settings or other
    cells is told.
    """
    settings = _settings(cells)
    kept: dict[tuple[str, ...], Record] = {}
    outdated = foreign = 0
    for record in sorted(records, key=lambda r: r.started):
        if record.variant:
            continue
        current = settings.get((record.cell, record.scale))
        foreign += current is None
        outdated += current is not None and record.settings_digest != current
        if record.status == "finished" and record.settings_digest == current:
            kept[(record.cell, record.scale, str(record.seed), record.data.order)] = record
    if outdated:
        say(f"{outdated} record(s) of other settings than today's experiment files")
    if foreign:
        say(f"{foreign} record(s) of other cells than these")
    return sorted(kept.values(), key=lambda r: (r.cell, r.scale, r.data.order, r.seed))


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


def _settings(cells: Sequence[spec.Cell]) -> dict[tuple[str, str], str]:
    """Today's settings of each cell and scale, as digests."""
    return {(c.name, scale): s.digest() for c in cells for scale, s in c.scales.items()}


T = TypeVar("T", Bench, Packed)


def newest(records: Sequence[T], key: Callable[[T], tuple[str, ...]]) -> list[T]:
    """The latest record for each key, in the keys' order."""
    kept = {key(r): r for r in sorted(records, key=lambda r: (r.started, r.path))}
    return [kept[k] for k in sorted(kept)]


def notes(record: Record) -> list[str]:
    """What must be said wherever a figure rests on this run."""
    found = []
    if record.code.get("dirty") is not False:
        found.append("code differs from its revision" if record.code.get("dirty") else "revision not known")
    known = data.DIGESTS.get(record.data.name)
    if known is not None and record.data.digest != known:
        found.append("data differ from the known ones")
    if record.unsealed:
        found.append("no checksum in the record")
    return found
