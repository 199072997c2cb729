"""What the caller's environment says: variables, the user's cache folder, the CPU cores of this process."""

import math
import os
from functools import cache
from pathlib import Path


class VariableError(ValueError):
    """An environment variable has a value that cannot be used; the message is one line that names it."""


def variable(name: str) -> str | None:
    """The value of an environment variable; None where it is unset or blank."""
    value = os.environ.get(name, "")
    return value if value.strip() else None


def user_cache(name: str) -> Path | None:
    """The folder `name` in $XDG_CACHE_HOME, else in ~/.cache (it need not exist); None without a home folder.

    A user has no home folder where $HOME is unset and the system does not know the user's id, as in containers.
    """
    if base := variable("XDG_CACHE_HOME"):
        return Path(base, name)
    try:
        return Path.home() / ".cache" / name
    except RuntimeError:
        return None


def cores() -> int:
    """CPU cores this process may use: its affinity (where the system says), and no more than its cgroup's quota.

    A quota of 2.5 cores counts as 3. It is read once a process: every product asks for the cores.
    """
    allowed = getattr(os, "sched_getaffinity", None)
    count = len(allowed(0)) if allowed else os.cpu_count() or 1
    quota = own_quota()
    return count if quota is None else max(1, min(count, math.ceil(quota)))


@cache
def own_quota() -> float | None:
    """`cpu_quota` of this process when it was first asked for."""
    return cpu_quota()


def cpu_quota(own: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> float | None:
    """CPU seconds a second that the cgroups of this process allow, the least of all levels; None if any number.

    own: the file that names this process's cgroups; mount: where their folders are. Of version 2 (`cpu.max`) and
    version 1 (`cpu.cfs_quota_us`).
    """
    try:
        lines = own.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no Linux
        return None
    found = []
    for line in lines:
        number, controllers, place = line.split(":", 2)
        if number == "0":
            tops = [mount]
        elif "cpu" in controllers.split(","):
            tops = [mount / controllers, mount / "cpu"]
        else:
            continue
        for top in tops:
            levels = [top / place.lstrip("/"), *(top / place.lstrip("/")).parents]
            found += [_quota(level) for level in levels if level.is_relative_to(top)]
    return min((quota for quota in found if quota is not None), default=None)


def _quota(folder: Path) -> float | None:
    """The quota that is set in one cgroup's folder; None if none is."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{what}_us").read_text().strip() for what in ("quota", "period"))
    except OSError:
        return None
    return None if quota in ("max", "-1") else int(quota) / int(period)
