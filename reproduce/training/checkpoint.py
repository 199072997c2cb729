"""A run's checkpoint file: checked when read; set aside, never deleted, if it cannot be resumed from.

`train.fit` writes it and resumes from it.
"""

from __future__ import annotations

import errno
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

OTHER = {
    "settings": "with other settings",
    "scale": "at another scale",
    "seed": "with another seed",
    "data": "on other data",
    "order": "with another image order",
    "source": "by other code",
    "device": "on another device",
    "mode": "in another mode",
}


def difference(of: object, identity: dict[str, str]) -> str:
    """How a checkpoint's run, `of`, differs from this run, in words."""
    if not isinstance(of, dict):
        return OTHER["source"]  # checkpoints of older versions do not say more
    return ", ".join(words for name, words in OTHER.items() if of.get(name) != identity.get(name))


def sound(path: Path, identity: dict[str, str], say: Callable[[str], None]) -> bool:
    """Whether the checkpoint is undamaged and of this run; if not, it is set aside and the run starts afresh."""
    try:
        run = saved(path)["run"]
        if run["of"] == identity and run["curve"] and run["calls"]:
            return True
        reason = f"was begun {difference(run['of'], identity)} ({len(run['curve'])} epochs)"
    except Exception as error:  # a file cut or changed at any byte can fail in any way
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # the machine failed, not the file
        if out_of_memory(error) and _whole(path):
            raise
        reason = f"is damaged ({type(error).__name__})"
    kept = set_aside(path)
    say(f"checkpoint {path.name} {reason}, starting afresh; the old one is kept as {kept.name}")
    return False


def set_aside(path: Path) -> Path:
    """Rename a file to NAME.other, or to NAME.other.2, .3, … where that is taken; the new path."""
    target, number = path.with_name(f"{path.name}.other"), 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.other.{number}")
    os.rename(path, target)
    return target


def _whole(path: Path) -> bool:
    """Whether an archive's checksums fit, found with little memory."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except MemoryError:
        return True
    except Exception:  # as above
        return False


def out_of_memory(error: BaseException) -> bool:
    """Whether memory was not enough: Python's, NumPy's, CuPy's (MemoryError), torch's on a GPU or on a CPU.

    torch's error for a file that cannot be written completely hides the reason, which is in its context.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("can't allocate memory", "not enough memory", "CUDA error: out of memory")
    if isinstance(error, RuntimeError) and any(word in str(error) for word in words):
        return True
    before = error.__cause__ or error.__context__
    return isinstance(error, RuntimeError) and before is not None and out_of_memory(before)


def saved(path: Path) -> Any:
    """What torch.save wrote, on the CPU; no code in the file is run. Any exception if a byte is not as written."""
    with zipfile.ZipFile(path) as file:  # torch writes checksums, but does not check them when it reads
        if (damaged := file.testzip()) is not None:
            raise zipfile.BadZipFile(damaged)
    return torch.load(path, map_location="cpu", weights_only=True)
