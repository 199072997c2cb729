"""Runs: what one is keyed by, and the stores they lie in.

A store is a folder: `runs/` holds finished records, `work/` checkpoints and locks, `nets/` the trained weights.
The user's own store (`results/local/`) is skipped from; the committed one (`results/runs/`) is evidence only.
"""

from __future__ import annotations

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
    """One cell, scale and seed, with the data it is to be trained on and the kind of device."""

    cell: spec.Cell
    scale: spec.Scale
    seed: int
    settings: spec.Settings
    dataset: Dataset
    variant: str | None = None
    device: Device = "cpu"

    @property
    def parts(self) -> dict[str, str]:
        """What tells this run from others: `records.PARTS`."""
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
        """How its products are computed: `products.mode`, but by autograd where the engine knows not all of it."""
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
    """Names of the modules in use, for the record; their content is in `source`."""
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
        """The record of this very run, if it is there, readable and its own."""
        path = self.runs / f"{run.stem}.json"
        try:
            record = read_record(path)
        except (OSError, ValueError):
            return None
        return record if record.key == run.key and record.status == "finished" else None

    def unusable(self, run: Run) -> str | None:
        """What is wrong with the file under this run's name, in a line; None if nothing, or there is none."""
        path = self.runs / f"{run.stem}.json"
        try:
            record = read_record(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            return f"{path.name}: {error.strerror}"
        except ValueError as error:
            return str(error)
        return None if record.key == run.key else f"{path.name}: of another run"

    def broken(self, run: Run) -> Record | None:
        """The record of this very run if it broke off."""
        try:
            record = read_record(self.runs / f"{run.stem}.json")
        except (OSError, ValueError):
            return None
        return record if record.key == run.key and record.status == "failed" else None

    def checkpoint(self, run: Run) -> Path:
        return self.root / "work" / f"{run.stem}.ckpt"

    def lock(self, run: Run) -> Path:
        return self.root / "work" / f"{run.stem}.lock"

    def tidy(self, run: Run, done: bool) -> None:
        """Remove what killed processes left of this run, whose lock is held; with `done` its checkpoint too."""
        left = [*(self.root / "work").glob(f"{run.stem}.*.tmp")]
        left += [p for folder in ("runs", "nets") for p in (self.root / folder).glob(f".{run.stem}.*")]
        for path in [*left, *([self.checkpoint(run)] if done else [])]:
            path.unlink(missing_ok=True)

    def net(self, stem: str) -> Path:
        return self.root / "nets" / f"{stem}.safetensors"

    def write(self, record: Record) -> Path:
        """Write a record under a scratch name, then rename it: it is there whole or not at all."""
        path = self.runs / f"{record.stem}.json"
        write_sealed(path, record.model_dump(mode="json", exclude_none=True))
        return path


def publish(source: Store, target: Path, say: Any = print) -> int:
    """Copy runs that are new into `target`, those that broke off too, but no mutants; how many were copied.

    What is there stays as it is, but for a broken run that has finished since. What is damaged, here or there, and
    a record under another's name are told and left as they are.
    """
    target.mkdir(parents=True, exist_ok=True)
    copied = 0
    for path in sorted(source.runs.glob("*.json")):
        try:
            record = read_record(path)
            if record.stem != path.stem:
                raise ValueError(f"{path.name}: not its own name, it holds {record.stem}")
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
            if destination.exists() and not _finished_since(record, read_record(destination)):
                continue
        except ValueError as error:
            say(f"left out: what is published there is no sound record ({error}); remove it to publish yours")
            continue
        if record.code["dirty"]:
            say(f"note: {path.name} was made by code that differs from its revision")
        if record.status == "failed":
            say(f"note: {path.name} broke off: {record.failure}")
        write_whole(destination, path.read_bytes())
        copied += 1
    return copied


def _finished_since(record: Record, published: Record) -> bool:
    """Whether a published run broke off and `record` has carried it to its end."""
    return record.status == "finished" and published.status == "failed"


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
