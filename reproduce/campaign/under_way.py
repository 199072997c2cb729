"""Unfinished runs: read from their checkpoints and published as records of their own.

`results/running` holds one file for each, with the curve so far and no result. Tables, verdicts and claims do not
use it, and it is removed once the run's record is published.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from reproduce import spec
from reproduce.campaign import checkpoints
from reproduce.files import write_sealed
from reproduce.records import DataHash, EpochRow, Running, explained, key_of, stem_of
from reproduce.records.runs import Store

FOLDER = "running"
Say = Callable[[str], None]


def in_store(store: Store, cells: Sequence[spec.Cell], say: Say) -> list[Running]:
    """The store's runs of these cells that have a checkpoint, by their names.

    A checkpoint that cannot be read, or belongs to other cells or settings, is named and left out.
    """
    found = []
    for path in sorted((store.root / "work").glob("*.ckpt")):
        try:
            found.append(_from_checkpoint(path, cells))
        except ValueError as error:
            say(f"left out: {path.name}: {error}")
    return found


def _from_checkpoint(path: Path, cells: Sequence[spec.Cell]) -> Running:
    """The run of a checkpoint. ValueError (one line) if there is no such run."""
    begun = checkpoints.begun(path)
    if begun is None:
        raise ValueError("not a checkpoint that can be read")
    of, call = begun.of, begun.calls[-1]
    try:
        key, scale, seed = key_of(of), of["scale"], int(of["seed"])
        cell = next((c for c in cells if stem_of(c.name, scale, seed, key) == path.stem), None)
        settings = None if cell is None else cell.at(scale)
        if cell is None or settings is None:
            raise ValueError("of other cells than these")
        if settings.digest() != of["settings"]:
            raise ValueError("of other settings than today's experiment files")
        batch, images = settings.train.batch, settings.data.valid
        return Running(
            format=1,
            kind="running",
            cell=cell.name,
            scale=scale,
            seed=seed,
            key=key,
            settings_digest=of["settings"],
            data=DataHash(name=settings.data.name, digest=of["data"], order=of["order"]),
            code={name: of[name] for name in ("source", "device", "mode")}
            | {name: call[name] for name in ("revision", "dirty")},
            calls=begun.calls,
            epochs_done=begun.epochs,
            epochs=settings.train.epochs,
            seconds=begun.seconds,
            valid_images=images - images % batch if settings.data.drop_incomplete else images,
            curve=[EpochRow(**row) for row in begun.curve],
        )
    except ValidationError as error:
        raise ValueError(explained(error)) from None


def publish(store: Store, target: Path, cells: Sequence[spec.Cell], say: Say) -> int:
    """Write `target`/running/STEM.json for each of the store's runs that is under way; how many there are.

    Earlier files of a cell, scale and seed that has a record in `target`/runs, or is under way in this store, are
    removed. Others stay.
    """
    ended = {path.stem for path in (target / "runs").glob("*.json")}
    under_way = [run for run in in_store(store, cells, say) if run.stem not in ended]
    seeds = {_without_key(stem) for stem in [*ended, *(run.stem for run in under_way)]}
    for path in (target / FOLDER).glob("*.json"):
        if _without_key(path.stem) in seeds:
            path.unlink()
    for run in under_way:
        write_sealed(target / FOLDER / f"{run.stem}.json", run.model_dump(mode="json", exclude_none=True))
    return len(under_way)


def _without_key(stem: str) -> str:
    """The part of a file's name that tells cell, scale and seed."""
    return stem.rsplit("-", 1)[0]
