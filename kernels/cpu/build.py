"""Compiles the C sources on first use and keeps the library in the cache (kernels.cache).

The digest in the file's name covers sources, flags, compiler and machine, so that a library of other sources is
never loaded. Several processes may build at once.
"""

import ctypes
import hashlib
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

from kernels.cache import cache_folder, find, keep
from kernels.environment import variable

SOURCES = Path(__file__).parent / "csrc"
FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=off", "-fno-strict-aliasing", "-fPIC", "-shared", "-pthread")
VERSION_SECONDS, COMPILE_SECONDS = 30, 300  # time limits of `cc --version` and of compiling


class BuildError(RuntimeError):
    """The library could not be compiled or loaded; the message holds the reason."""


def load() -> ctypes.CDLL:
    """The compiled library, from the cache or built now.

    Warns (RuntimeWarning) if it cannot be written to the cache, so that only this process has it. Raises
    BuildError without a working compiler.
    """
    compiler, version = find_compiler()
    name = stem(compiler, version)
    if (kept := find(name, ".so")) and (library := _opened(kept)):
        return library
    try:
        with tempfile.TemporaryDirectory(prefix="xnor-kernels-") as scratch:
            built = Path(scratch, "kernels.so")
            compile_library(compiler, built)
            try:
                kept = keep(name, ".so", built.read_bytes())
            except OSError as error:
                warnings.warn(
                    f"compiled kernels cannot be kept in {cache_folder() or 'a cache'}, "
                    f"each process builds its own: {error}",
                    RuntimeWarning,
                    stacklevel=2,
                )
            return (kept and _opened(kept)) or ctypes.CDLL(str(built))
    except OSError as error:
        raise BuildError(f"the compiled kernels cannot be loaded: {error}") from error


def _opened(kept: Path) -> ctypes.CDLL | None:
    """The library at `kept`, or a temporary copy of it if the cache is mounted noexec; None if both fail."""
    try:
        return ctypes.CDLL(str(kept))
    except OSError:
        pass
    try:
        with tempfile.TemporaryDirectory(prefix="xnor-kernels-") as scratch:
            return ctypes.CDLL(str(shutil.copy(kept, scratch)))
    except OSError:
        return None


def find_compiler() -> tuple[list[str], str]:
    """Command and version of $CC where it is set, else of the first of cc, gcc and clang that runs."""
    tried, chosen = [["cc"], ["gcc"], ["clang"]], variable("CC")
    if chosen:
        try:
            tried = [shlex.split(chosen)]
        except ValueError as error:
            raise BuildError(f"CC={chosen!r} is no command: {error}") from None
    for command in tried:
        try:
            return command, _run([*command, "--version"], VERSION_SECONDS)
        except BuildError as error:
            reason = error
    if chosen:
        raise BuildError(f"no C compiler answers as CC={chosen!r}: {reason}")
    raise BuildError(f"no C compiler answers: tried {', '.join(shlex.join(command) for command in tried)}")


def _run(command: list[str], seconds: float) -> str:
    """The output of a compiler. BuildError with the reason if it fails or takes longer than `seconds`."""
    name = command[0]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds)
    except OSError as error:
        raise BuildError(f"{name}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise BuildError(f"{name} was not done after {seconds:g} seconds") from None
    if done.returncode != 0:
        reason = "\n".join(done.stderr.decode(errors="replace").strip().splitlines()[-8:])
        raise BuildError(f"{name} failed with exit code {done.returncode}: {reason}")
    return done.stdout.decode(errors="replace")


def stem(compiler: list[str], version: str) -> str:
    """The beginning of the library's file name in the cache; arguments as `find_compiler` gives them."""
    digest = hashlib.sha256(repr((compiler, version, FLAGS, platform.machine())).encode())
    for source in sorted(path for path in SOURCES.rglob("*") if path.is_file()):
        digest.update(repr((source.relative_to(SOURCES).as_posix(), source.read_bytes())).encode())
    return f"kernels-{digest.hexdigest()[:24]}"


def compile_library(compiler: list[str], target: Path) -> None:
    """Compiles all sources into a shared library. Raises BuildError."""
    sources = sorted(str(source) for source in SOURCES.rglob("*.c"))
    _run([*compiler, *FLAGS, *sources, "-o", str(target)], COMPILE_SECONDS)
    if not target.is_file():
        raise BuildError(f"{shlex.join(compiler)} succeeded but made nothing")
