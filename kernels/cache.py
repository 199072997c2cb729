"""The folder where compiled kernels are kept: $KERNELS_CACHE, else `xnor-kernels` in the user's cache folder.

A file's name holds a digest of what it was made from (`stem`) and a digest of its own content: a damaged file is
not found. Files are written under a temporary name and renamed, so several processes may write at once. Their
permissions follow the umask.
"""

import hashlib
import os
import secrets
from pathlib import Path

from kernels.environment import user_cache, variable


def cache_folder() -> Path | None:
    """The folder (it need not exist); None where $KERNELS_CACHE is unset and the user has no home folder."""
    chosen = variable("KERNELS_CACHE")
    return Path(chosen) if chosen else user_cache("xnor-kernels")


def find(stem: str, suffix: str) -> Path | None:
    """The undamaged file whose name begins with `stem`, or None; damaged ones are removed."""
    folder = cache_folder()
    for path in sorted(folder.glob(f"{stem}-*{suffix}")) if folder else ():
        try:
            if path.name == _named(stem, suffix, path.read_bytes()):
                return path
            path.unlink()
        except OSError:  # of another user, or removed in the meantime
            continue
    return None


def keep(stem: str, suffix: str, content: bytes) -> Path:
    """Writes `content` to the cache, whole or not at all, for `find`: its path. Raises OSError."""
    folder = cache_folder()
    if folder is None:
        raise OSError("this user has no home folder; set KERNELS_CACHE to a folder for them")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / _named(stem, suffix, content)
    scratch = folder / f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}"
    try:
        with open(scratch, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)
    return target


def _named(stem: str, suffix: str, content: bytes) -> str:
    return f"{stem}-{hashlib.sha256(content).hexdigest()[:24]}{suffix}"
