"""Reads what checkpoints contain. Those that do not fit a run are renamed, never deleted.

A checkpoint of other code, data or settings becomes `NAME.ckpt.other` in the store's `work` folder, which
`reproduce clean` empties. If code, data and settings change back, the run resumes from it.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reproduce.records import runs


@dataclass(frozen=True)
class Begun:
    """The content of a checkpoint apart from weights."""

    of: dict[str, Any]
    """The parts of its run's key (`records.PARTS`)."""
    curve: list[dict[str, Any]]
    calls: list[dict[str, Any]]
    """`machine.call` of each call that trained it."""
    seconds: float

    @property
    def epochs(self) -> int:
        return len(self.curve)


def begun(path: Path) -> Begun | None:
    """The content of a checkpoint, without its weights; None if it is missing or cannot be read."""
    import torch

    try:
        with zipfile.ZipFile(path) as file:  # torch.load does not look at the checksums
            file.read(next(name for name in file.namelist() if name.endswith("/data.pkl")))
        run = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["run"]
        return Begun(run["of"], run["curve"], run["calls"], run["seconds"])
    except Exception:  # a file cut or changed at any byte can fail in any way
        return None


def set_others_aside(run: runs.Run, store: runs.Store, say: Callable[[str], None]) -> None:
    """Set aside the checkpoints of this run's cell, scale and seed that have other code, data or settings.

    Checkpoints in use by another process stay, as do those of another device or mode, which can still be resumed
    there. A checkpoint of this run that was set aside earlier is taken back. The caller holds the run's lock.
    """
    from filelock import FileLock, Timeout

    from reproduce.training import checkpoint

    own, parts = store.checkpoint(run), run.parts
    for path in sorted(own.parent.glob("*.ckpt")):
        if path == own or path.stem[:-12] != own.stem[:-12]:
            continue
        found = begun(path)
        if found is None:
            continue
        how = f"begun {checkpoint.difference(found.of, parts)} ({found.epochs} epochs)"
        others = {name for name in parts if found.of.get(name) != parts[name]}
        if others & {"device", "mode"}:
            if others <= {"device", "mode"} and not own.exists():
                say(f"    checkpoint {path.name}: {how}, kept and not resumed here")
            continue
        try:
            with FileLock(path.with_suffix(".lock"), timeout=0):
                aside = checkpoint.set_aside(path)
        except (Timeout, FileNotFoundError):  # in use by another process
            continue
        say(f"    checkpoint {path.name}: {how}, starting afresh; the old one is kept as {aside.name}")
    for path in sorted(own.parent.glob(f"{own.name}.other*")):
        found = begun(path)
        if not own.exists() and found is not None and found.of == parts:
            os.rename(path, own)
            say(f"    checkpoint {path.name}: of this run ({found.epochs} epochs), resumed")
