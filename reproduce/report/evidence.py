"""What a store holds: runs, failed runs, timings, packed nets. What cannot be used is named and left out.

A store is a folder with `runs/`, `running/`, `kernels/`, `train/`, `layers/` and `nets/`, each with one JSON file
a record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from reproduce import spec
from reproduce.datasets import DATASETS
from reproduce.records import Record, Running, read_record, read_running, sealed
from reproduce.records.benchmark import Bench
from reproduce.records.packed_net import PackedRecord
from reproduce.report.rows import apart, grouped, made_by
from reproduce.spec import the_paper as the_paper

Say = Callable[[str], None]
once = lru_cache(maxsize=2)
"""For what several parts of a report ask of one `Evidence`; nobody changes what comes back."""


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
    nets: tuple[PackedRecord, ...]
    checks: tuple[Record, ...]
    """Runs from which the bounds of `check-small` were computed."""
    problems: tuple[str, ...]
    layers: tuple[Bench, ...] = ()
    running: tuple[Running, ...] = ()
    """Runs under way: shown, and nothing is judged by them."""
    hashes: Mapping[str, str] = field(default_factory=dict)
    """Name of a run's record without its ending -> sha256 of the file."""

    @property
    def empty(self) -> bool:
        """Whether there is no usable record of any kind."""
        timed = (self.benches, self.training, self.layers)
        return not any((self.runs, self.failed, *timed, self.nets, self.checks, self.running))

    def path(self, record: Record) -> str:
        return f"{self.name}/runs/{record.stem}.json"

    def paths(self, records: Sequence[Record]) -> str:
        return "; ".join(self.path(r) for r in records)


def cells(own: Path | None = None) -> list[spec.Cell]:
    """The cells of a report: the project's without those of the check, and those of the folder `own`.

    If both have a cell of one name, the one in `own` counts.
    """
    every = [*spec.cells(), *(spec.cells(None, own) if own is not None else [])]
    return list({c.name: c for c in every if c.experiment.check is None}.values())


def gather(
    folder: Path, cells: Sequence[spec.Cell], say: Say = lambda _: None, name: str | None = None
) -> Evidence:
    """Read a store. Files that are damaged, foreign or of another format are reported by `say` and left out.

    Record paths begin with `name`, the folder's own if none is given.
    """
    problems: list[str] = []
    read = list(_runs(folder / "runs", problems, {cell.name for cell in cells if cell.ablation}))
    good = usable(read, cells, problems.append)
    older = len(_todays(read, cells, "finished")) - len(good)
    if older:
        problems.append(f"{older} record(s) of seeds that have a later one, made the same way")
    name = folder.resolve().name if name is None else name
    under_way = _running(folder / "running", {r.stem for r in read}, cells, problems)
    others = [r for part in ("kernels", "train", "layers", "nets") for r in _others(folder / part, name, problems)]
    checks = list(_runs(folder / "check" / "calibration", problems, set()))
    for problem in problems:
        say(f"left out: {problem}")
    return Evidence(
        name=name,
        cells=tuple(cells),
        runs=tuple(good),
        failed=tuple(failed(read, good, cells)),
        benches=tuple(b for b in others if isinstance(b, Bench) and b.kind in ("cpu", "gpu")),
        training=tuple(b for b in others if isinstance(b, Bench) and b.kind == "train-cpu"),
        layers=tuple(b for b in others if isinstance(b, Bench) and b.kind == "layers"),
        nets=tuple(n for n in others if isinstance(n, PackedRecord)),
        checks=tuple(checks),
        problems=tuple(problems),
        running=tuple(under_way),
        hashes={
            r.stem: hashlib.sha256((folder / "runs" / f"{r.stem}.json").read_bytes()).hexdigest() for r in good
        },
    )


R = TypeVar("R")
N = TypeVar("N", Record, Running)


def _read(folder: Path, read: Callable[[Path], R], problems: list[str]) -> Iterator[tuple[Path, R]]:
    """The records of a folder that can be read; each other file adds a line to `problems`, without its folder."""
    for path in sorted(folder.glob("*.json")):
        try:
            yield path, read(path)
        except OSError as error:
            problems.append(f"{path.name}: {error.strerror or type(error).__name__}")
        except ValueError as error:
            problems.append(str(error))


def _sound(folder: Path, read: Callable[[Path], N], problems: list[str]) -> Iterator[N]:
    """The records of a folder whose files have the right names."""
    for path, record in _read(folder, read, problems):
        if record.stem == path.stem:
            yield record
        else:
            problems.append(f"{path.name}: its name does not match its content, {record.stem}")


def _runs(folder: Path, problems: list[str], curves: set[str]) -> Iterator[Record]:
    """The sound records without the parts that no report reads, so that thousands fit into memory.

    `curves`: the cells whose curves are read at small scale, too.
    """
    for record in _sound(folder, read_record, problems):
        read = {part: record.settings[part] for part in ("data", "net", "train") if part in record.settings}
        unread: dict[str, Any] = {"settings": read, "libraries": {}}
        if record.scale == "small" and record.cell not in curves:
            unread["curve"] = []
        yield record.model_copy(update=unread)


def _running(folder: Path, ended: set[str], cells: Sequence[spec.Cell], problems: list[str]) -> list[Running]:
    """The sound records of runs of these cells that are under way; `ended`: names of runs that have a record."""
    settings = {(c.name, scale): s for c in cells for scale, s in c.scales.items()}
    found = []
    for record in _sound(folder, read_running, problems):
        name, current = f"{record.stem}.json", settings.get((record.cell, record.scale))
        if current is None:
            problems.append(f"{name}: an unfinished run of a cell that is not in this report")
        elif (current.digest(), current.data.name) != (record.settings_digest, record.data.name):
            problems.append(f"{name}: an unfinished run of other settings than today's experiment files")
        elif record.stem in ended:
            problems.append(f"{name}: an unfinished run, but there is a record of this run")
        else:
            found.append(record)
    return found


def _others(folder: Path, name: str, problems: list[str]) -> Iterator[Bench | PackedRecord]:
    """The records of benchmarks and packed nets, without trials (`quick`)."""
    for path, record in _read(folder, sealed.read, problems):
        if not isinstance(record, Bench | PackedRecord):
            problems.append(f"{path.name}: a record of another kind ({record.kind})")
        elif record.quick:
            problems.append(f"{path.name}: a trial of the benchmark, of tiny sizes")
        else:
            yield record.model_copy(update={"path": f"{name}/{folder.name}/{path.name}"})


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
    done = {r.key for r in good}
    return [r for r in _todays(records, cells, "failed") if r.key not in done]


def _todays(records: Sequence[Record], cells: Sequence[spec.Cell], status: str) -> list[Record]:
    """Records of these cells, as their files stand today, with this status and without a planted error."""
    settings = _settings(cells)
    own = [r for r in records if r.status == status and not r.variant]
    return [r for r in own if r.settings_digest == settings.get((r.cell, r.scale))]


def by_order(records: Sequence[Record]) -> dict[tuple[str, str, str], list[list[Record]]]:
    """For each cell, scale and image order, sorted by these: the records in groups that may be pooled."""
    groups = grouped(records, lambda r: (r.cell, str(r.scale), r.data.order))
    return {key: apart(group) for key, group in sorted(groups.items())}


def _settings(cells: Sequence[spec.Cell]) -> dict[tuple[str, str], str]:
    """Today's settings of each cell and scale, as digests."""
    return {(c.name, scale): s.digest() for c in cells for scale, s in c.scales.items()}


T = TypeVar("T", Bench, PackedRecord)


def newest(records: Sequence[T], key: Callable[[T], tuple[str, ...]]) -> list[T]:
    """The latest record for each key, in the keys' order."""
    kept = {key(r): r for r in sorted(records, key=lambda r: (r.started, r.path))}
    return [kept[k] for k in sorted(kept)]


def notes(record: Record | Running | Bench | PackedRecord) -> list[str]:
    """The warnings that go with every figure computed from this record."""
    if isinstance(record, Bench | PackedRecord):
        return _of_code(record.code.dirty)
    found = _of_code(record.code["dirty"])
    known = DATASETS.get(record.data.name)
    if known is None:
        found.append("unknown data set")
    elif known.digest is not None and record.data.digest != known.digest:
        found.append("data differ from the known ones")
    return found


def marks(*records: Record | Running | Bench | PackedRecord) -> dict[str, Any]:
    """The columns `note` (all notes of these records) and `dirty` (whether there is one) of a table's row."""
    found = sorted({note for record in records for note in notes(record)})
    return {"dirty": bool(found), "note": "; ".join(found)}


def _of_code(dirty: bool | None) -> list[str]:
    return [] if dirty is False else ["code had uncommitted changes" if dirty else "code revision unknown"]
