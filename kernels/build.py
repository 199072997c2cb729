"""Compiles the C sources on first use and keeps the library in a cache folder, named by its content.

The folder is $KERNELS_CACHE, else `xnor-kernels` in the user's cache folder ($XDG_CACHE_HOME or ~/.cache). A
library's name is a digest of sources, flags, compiler and machine, so a stale one is never loaded. It is
compiled in a temporary folder and moved in whole under its name: several processes may build at once, the
last one stays.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

SOURCES = Path(__file__).parent / "csrc"
FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=off", "-fno-strict-aliasing", "-fPIC", "-shared", "-pthread")


class BuildError(RuntimeError):
    """The library could not be compiled or loaded; the message holds the reason."""


def cache_folder() -> Path:
    """Where compiled libraries are kept (it need not exist)."""
    if chosen := os.environ.get("KERNELS_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "xnor-kernels"


def load() -> ctypes.CDLL:
    """The compiled library, from the cache or built now.

    Warns (RuntimeWarning) where the cache folder cannot be written and the library serves this process only.
    Raises BuildError where there is no working compiler.
    """
    compiler, version = _compiler()
    target = cache_folder() / f"kernels-{_digest(compiler, version)}.so"
    if target.is_file():
        try:
            return ctypes.CDLL(str(target))
        except OSError:
            pass  # damaged, or of a foreign machine: built anew over it
    try:
        with tempfile.TemporaryDirectory(prefix="xnor-kernels-") as scratch:
            built = Path(scratch, target.name)
            _compile(compiler, built)
            try:
                _install(built, target)
            except OSError as error:
                warnings.warn(
                    f"compiled kernels cannot be kept in {target.parent}, processes build their own: {error}",
                    RuntimeWarning,
                    stacklevel=2,
                )
                return ctypes.CDLL(str(built))
            return ctypes.CDLL(str(target))
    except OSError as error:
        raise BuildError(f"the compiled kernels cannot be loaded: {error}") from error


def _compiler() -> tuple[list[str], str]:
    """Command and version of $CC where it is set, else of the first of cc, gcc and clang that answers."""
    chosen = os.environ.get("CC")
    tried = [shlex.split(chosen)] if chosen else [["cc"], ["gcc"], ["clang"]]
    for command in tried:
        try:
            answer = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return command, answer.stdout
    raise BuildError(f"no C compiler answers: tried {', '.join(shlex.join(command) for command in tried)}")


def _digest(compiler: list[str], version: str) -> str:
    digest = hashlib.sha256(repr((compiler, version, FLAGS, platform.machine())).encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(repr((source.name, source.read_bytes())).encode())
    return digest.hexdigest()[:24]


def _compile(compiler: list[str], target: Path) -> None:
    sources = sorted(str(source) for source in SOURCES.glob("*.c"))
    command = [*compiler, *FLAGS, *sources, "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        reason = "\n".join(done.stderr.strip().splitlines()[-8:])
        raise BuildError(f"{shlex.join(compiler)} failed with exit code {done.returncode}: {reason}")
    if not target.is_file():
        raise BuildError(f"{shlex.join(compiler)} succeeded but made nothing")


def _install(built: Path, target: Path) -> None:
    """Copies `built` to a scratch name beside `target` and renames it; leaves nothing behind on failure."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=target.stem, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as scratch, built.open("rb") as source:
            shutil.copyfileobj(source, scratch)
            scratch.flush()
            os.fsync(scratch.fileno())
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise
