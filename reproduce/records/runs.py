"""Runs: the key of a run, and the stores that hold runs.

A store is a folder: `runs/` holds the records of finished and failed runs, `work/` checkpoints and locks, `nets/`
the trained weights. A finished run in the user's own store (`results/local/`) is not repeated. Training never
writes into the committed store (`results/`); `reproduce publish` adds to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from reproduce import extensions, spec, yamlfile
from reproduce.datasets.data import Dataset
from reproduce.files import write_sealed, write_whole
from reproduce.identity import Device
from reproduce.nets import products
from reproduce.records import DataHash, Record, key_of, machine, read_record, stem_of
from reproduce.training import step

LOCAL = yamlfile.ROOT / "results" / "local"
PUBLISHED = yamlfile.ROOT / "results"


@dataclass(frozen=True)
class Run:
    """One cell, scale and seed, with the data it is trained on and the kind of device."""

    cell: spec.Cell
    scale: spec.Scale
    seed: int
    settings: spec.Settings
    dataset: Dataset
    variant: str | None = None
    device: Device = "cpu"

    @property
    def parts(self) -> dict[str, str]:
        """What distinguishes this run from others: `records.PARTS`."""
        return {
            "settings": self.settings.digest(),
            "scale": self.scale,
            "seed": str(self.seed),
            "data": self.dataset.digest,
            "order": self.dataset.order,
            "source": machine.source_digest(self.device),
            "device": self.device,
            "mode": self.mode,
        }

    @property
    def mode(self) -> str:
        """How products are computed: `products.mode`, or by autograd if the engine cannot train the net."""
        found = products.mode(self.device)
        return products.by_autograd() if found == "fixed16" and self.why_autograd else found

    @cached_property
    def why_autograd(self) -> str | None:
        """Why its steps on a CPU must go through autograd, in a few words (`step.why_autograd`)."""
        return step.why_autograd(self.settings)

    @property
    def key(self) -> str:
        return key_of(self.parts)

    @property
    def stem(self) -> str:
        return stem_of(self.cell.name, self.scale, self.seed, self.key, self.variant)

    def record(self, started: str, seconds: float, **rest: Any) -> Record:
        """A record of this run; `rest` gives status, curve and, if it finished, the result."""
        return Record(
            format=1,
            cell=self.cell.name,
            scale=self.scale,
            seed=self.seed,
            variant=self.variant,
            key=self.key,
            settings=self.settings.model_dump(mode="json"),
            settings_digest=self.settings.digest(),
            data=DataHash(name=self.dataset.name, digest=self.dataset.digest, order=self.dataset.order),
            code=machine.code(self.device) | {"mode": self.mode} | _uses(),
            machine=machine.machine(self.device),
            libraries=machine.libraries(),
            started=started,
            seconds=seconds,
            **rest,
        )


def _uses() -> dict[str, Any]:
    """Names of the modules that `--use` imported, for the record; their content is part of `source`."""
    return {"uses": [path.name for path in extensions.used()]} if extensions.used() else {}


class Store:
    """A folder of runs. Raises OSError where it cannot be written."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def prepare(self) -> None:
        for name in ("runs", "work", "nets"):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    def finished(self, run: Run) -> Record | None:
        """The record of this run (same key) if it is sound and finished."""
        return self._own(run, "finished")

    def failed(self, run: Run) -> Record | None:
        """The record of this run (same key) if it failed."""
        return self._own(run, "failed")

    def _own(self, run: Run, status: str) -> Record | None:
        try:
            record = read_record(self.runs / f"{run.stem}.json")
        except (OSError, ValueError):
            return None
        return record if record.status == status else None

    def checkpoint(self, run: Run) -> Path:
        return self.root / "work" / f"{run.stem}.ckpt"

    def lock(self, run: Run) -> Path:
        return self.root / "work" / f"{run.stem}.lock"

    def tidy(self, run: Run, done: bool) -> None:
        """Remove temporary files that killed processes left of this run; with `done` its checkpoint too.

        The caller holds the run's lock.
        """
        left = [*(self.root / "work").glob(f"{run.stem}.*.tmp")]
        left += [p for folder in ("runs", "nets") for p in (self.root / folder).glob(f".{run.stem}.*")]
        for path in [*left, *([self.checkpoint(run)] if done else [])]:
            path.unlink(missing_ok=True)

    def net(self, stem: str) -> Path:
        return self.root / "nets" / f"{stem}.safetensors"

    def write(self, record: Record) -> Path:
        """Write a record to a temporary file, then rename it: a killed process leaves no half record."""
        path = self.runs / f"{record.stem}.json"
        write_sealed(path, record.model_dump(mode="json", exclude_none=True))
        return path

    def copy(self, records: Sequence[Record], folder: Path) -> None:
        """Copy the files of these records into `folder`."""
        for name in (f"{record.stem}.json" for record in records):
            write_whole(folder / name, (self.runs / name).read_bytes())


def publish(source: Store, target: Path, say: Any) -> int:
    """Copy new records, failed runs included but no mutants, into `target`; how many were copied.

    Published records stay as they are, except a failed run that has finished since. Damaged records on either
    side, and records under another's file name, are named and left as they are.
    """
    copied = 0
    for path in sorted(source.runs.glob("*.json")):
        try:
            record = read_record(path)
            if record.stem != path.stem:
                raise ValueError(f"{path.name}: its name does not match its content, {record.stem}")
        except OSError as error:
            say(f"left out: {path.name}: {error.strerror}")
            continue
        except ValueError as error:
            say(f"left out: {error}")
            continue
        destination = target / path.name
        if record.variant:
            continue
        try:
            if destination.exists() and (record.status, read_record(destination).status) != ("finished", "failed"):
                continue
        except ValueError as error:
            say(f"left out: the published record of this name is damaged ({error}); remove it to publish yours")
            continue
        if record.code["dirty"]:
            say(f"note: {path.name} was made by code with uncommitted changes")
        if record.status == "failed":
            say(f"note: {path.name} broke off: {record.failure}")
        write_whole(destination, path.read_bytes())
        copied += 1
    return copied


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
