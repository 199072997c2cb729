"""Where a record was made: machine, library versions, code revision, training digest."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from kernels.cpu import thread_count
from kernels.environment import VariableError, variable
from reproduce import extensions, identity
from reproduce.nets import products, ways
from reproduce.yamlfile import CHECKOUT, ROOT


@cache
def _project_digest(device: identity.Device) -> str:
    return identity.digest(device)


def source_digest(device: identity.Device) -> str:
    """Digest of the training code for this kind of device, read from the files at the first call.

    The code of modules in use (`extensions`) is part of it.
    """
    own, others = _project_digest(device), extensions.digests()
    return hashlib.sha256("\n".join([own, *others]).encode()).hexdigest() if others else own


def code(device: identity.Device = "cpu") -> dict[str, Any]:
    """The code that makes the numbers of a run on this kind of device, for its record.

    revision: git's; dirty: whether the code differs from it (None: not known). source: training digest. mode: how
    products are computed. threads: the number of CPU threads on a CPU, where numbers can depend on it, else [].
    """
    return {
        **_revision(),
        "source": source_digest(device),
        "device": device,
        "mode": products.mode(device),
        "threads": [torch.get_num_threads()] if device == "cpu" else [],
    }


@cache
def _revision() -> dict[str, Any]:
    """Git revision, and whether the code differs from it.

    Without a repository $REPRODUCE_REVISION says it: 40 hexadecimal digits, with "-dirty" behind
    them if the code differs, as `git describe --always --abbrev=40 --exclude '*' --dirty` prints it. VariableError
    for anything else there. Without either, both are None: not known.
    """
    own = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}

    def git(*words: str) -> str | None:
        try:
            command = ["git", "-C", str(ROOT), *words]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=own)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    top = git("rev-parse", "--show-toplevel")
    if top is None or not CHECKOUT or Path(top).resolve() != ROOT.resolve():
        return _told_revision()
    changed = git("status", "--porcelain", "--", "reproduce", "kernels", "experiments", "pyproject.toml")
    return {"revision": git("rev-parse", "HEAD"), "dirty": None if changed is None else bool(changed)}


def _told_revision() -> dict[str, Any]:
    told = variable("REPRODUCE_REVISION")
    if told is None:
        return {"revision": None, "dirty": None}
    if not re.fullmatch(r"[0-9a-f]{40}(-dirty)?", told):
        raise VariableError(f"REPRODUCE_REVISION is 40 hexadecimal digits, with or without -dirty, not {told!r}")
    return {"revision": told[:40], "dirty": told.endswith("-dirty")}


@cache
def machine(device: str) -> dict[str, Any]:
    """The hardware of `device` ("cpu" or "cuda"); tables show `name`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cpu = _cpu_name()
    found: dict[str, Any] = {"cpu": cpu, "cores": cores, "threads": torch.get_num_threads()}
    found["kernel_threads"] = thread_count()
    found["system"] = f"{platform.system()} {platform.machine()}"
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
        if without := ways.left_out():
            found["without"] = list(without)
        found["capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
    found["name"] = found.get("gpu") or f"{cpu}, {cores} cores"
    return found


def call(device: str) -> dict[str, Any]:
    """A record's entry for each call of the command that trained a part of its run."""
    here, by = machine(device), _revision()
    return {
        "revision": by["revision"],
        "dirty": by["dirty"],
        "name": here["name"],
        "threads": here["threads"],
        "kernel_threads": here["kernel_threads"],
        "libraries": libraries(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        pairs = [line.split(":", 1) for line in lines if ":" in line]
    except OSError:
        return platform.processor() or platform.machine()
    fields = {key.strip(): value.strip() for key, value in pairs}
    name = fields.get("model name", platform.machine()).split("@")[0].strip()
    if "cpu family" in fields:  # virtual machines give vague names: "AMD EPYC" spans six generations
        name += f" (family {fields['cpu family']} model {fields.get('model')})"
    return name


def head(kind: str, started: str, device: identity.Device = "cpu", quick: bool = False) -> dict[str, Any]:
    """The first fields of every record that is not a run's (`fields.Sealed`)."""
    made = {"machine": machine(device), "libraries": libraries(), "code": code(device)}
    return {"format": 1, "kind": kind, "quick": quick, "started": started, **made}


@cache
def libraries() -> dict[str, str]:
    """Versions of Python and of the libraries on which the numbers depend."""
    found = {"python": platform.python_version(), "torch": str(torch.__version__)}
    return found | versions("lightning", "numpy", "scipy")


def versions(*packages: str) -> dict[str, str]:
    """The versions of those packages that are installed."""
    found = {}
    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
