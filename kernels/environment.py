"""Environment variables, the user's cache folder, the number of CPU cores of this process."""

import math
import os
from functools import cache
from pathlib import Path


class VariableError(ValueError):
    """The value of an environment variable cannot be used; the message is one line that names the variable."""


def variable(name: str) -> str | None:
    """The value of an environment variable; None where it is unset or blank."""
    value = os.environ.get(name, "")
    return value if value.strip() else None


def user_cache(name: str) -> Path | None:
    """The folder `name` in $XDG_CACHE_HOME, else in ~/.cache (it need not exist); None without a home folder.

    In containers $HOME may be unset and the user's id unknown to the system: then there is no home folder.
    """
    if base := variable("XDG_CACHE_HOME"):
        return Path(base, name)
    try:
        return Path.home() / ".cache" / name
    except RuntimeError:
        return None


def cores() -> int:
    """CPU cores that this process may use: its affinity (where the system has one), limited by its cgroup's quota.

    A quota of 2.5 cores counts as 3. The quota is read once per process.
    """
    allowed = getattr(os, "sched_getaffinity", None)
    count = len(allowed(0)) if allowed else os.cpu_count() or 1
    quota = own_quota()
    return count if quota is None else max(1, min(count, math.ceil(quota)))


@cache
def own_quota() -> float | None:
    """`cpu_quota` of this process, read once."""
    return cpu_quota()


def cpu_quota(own: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Number of CPU cores that the cgroups of this process allow, the smallest of all levels; None if unlimited.

    own: the file that names this process's cgroups; mount: the folder of all cgroups. Reads cgroups of version 2
    (`cpu.max`) and version 1 (`cpu.cfs_quota_us`).
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
    """The quota set in the folder of one cgroup, in cores; None if unlimited."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{what}_us").read_text().strip() for what in ("quota", "period"))
    except OSError:
        return None
    return None if quota in ("max", "-1") else int(quota) / int(period)
