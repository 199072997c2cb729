"""Compiles the C sources on first use and keeps the library in a cache folder.

The folder is $KERNELS_CACHE, else `xnor-kernels` in the user's cache folder ($XDG_CACHE_HOME or ~/.cache). A
file's name holds two digests: one of what it was made from (sources, flags, compiler, machine), so that a library
of other sources is never loaded, and one of its own content, so that a damaged one is not loaded either. Files
are written in whole under their names: several processes may build at once. Their permissions follow the umask.
"""

import ctypes
import hashlib
import os
import platform
import secrets
import shlex
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

from kernels.environment import user_cache, variable

SOURCES = Path(__file__).parent / "csrc"
FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=off", "-fno-strict-aliasing", "-fPIC", "-shared", "-pthread")
ANSWERS, COMPILES = 30, 300  # seconds within which a compiler must say its version, and be done


class BuildError(RuntimeError):
    """The library could not be compiled or loaded; the message holds the reason."""


def cache_folder() -> Path | None:
    """Where compiled libraries are kept (it need not exist); None where the user has no home folder."""
    chosen = variable("KERNELS_CACHE")
    return Path(chosen) if chosen else user_cache("xnor-kernels")


def load() -> ctypes.CDLL:
    """The compiled library, from the cache or built now.

    Warns (RuntimeWarning) where it cannot be kept in the cache folder and serves this process only. Raises
    BuildError where there is no working compiler.
    """
    compiler, version = _compiler()
    stem = f"kernels-{_digest(compiler, version)}"
    if (kept := find(stem, ".so")) and (library := _opened(kept)):
        return library
    try:
        with tempfile.TemporaryDirectory(prefix="xnor-kernels-") as scratch:
            built = Path(scratch, "kernels.so")
            _compile(compiler, built)
            try:
                kept = keep(stem, ".so", built.read_bytes())
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
    """The library at `kept`, or a temporary copy of it where the cache is mounted without the right to execute."""
    try:
        return ctypes.CDLL(str(kept))
    except OSError:
        pass
    try:
        with tempfile.TemporaryDirectory(prefix="xnor-kernels-") as scratch:
            return ctypes.CDLL(str(shutil.copy(kept, scratch)))
    except OSError:
        return None


def _compiler() -> tuple[list[str], str]:
    """Command and version of $CC where it is set, else of the first of cc, gcc and clang that answers."""
    tried, chosen = [["cc"], ["gcc"], ["clang"]], variable("CC")
    if chosen:
        try:
            tried = [shlex.split(chosen)]
        except ValueError as error:
            raise BuildError(f"CC={chosen!r} is no command: {error}") from None
    for command in tried:
        try:
            return command, _run([*command, "--version"], ANSWERS)
        except BuildError as error:
            reason = error
    if chosen:
        raise BuildError(f"no C compiler answers as CC={chosen!r}: {reason}")
    raise BuildError(f"no C compiler answers: tried {', '.join(shlex.join(command) for command in tried)}")


def _run(command: list[str], seconds: float) -> str:
    """What a compiler prints. BuildError with the reason if it fails or is not done within `seconds`."""
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


def _digest(compiler: list[str], version: str) -> str:
    digest = hashlib.sha256(repr((compiler, version, FLAGS, platform.machine())).encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(repr((source.name, source.read_bytes())).encode())
    return digest.hexdigest()[:24]


def _compile(compiler: list[str], target: Path) -> None:
    sources = sorted(str(source) for source in SOURCES.glob("*.c"))
    _run([*compiler, *FLAGS, *sources, "-o", str(target)], COMPILES)
    if not target.is_file():
        raise BuildError(f"{shlex.join(compiler)} succeeded but made nothing")


def find(stem: str, suffix: str) -> Path | None:
    """The cached file of this stem with the content that was written, or None; damaged ones are removed."""
    folder = cache_folder()
    for path in sorted(folder.glob(f"{stem}-*{suffix}")) if folder else ():
        try:
            if path.name == _named(stem, suffix, path.read_bytes()):
                return path
            path.unlink()
        except OSError:  # another user's, or removed meanwhile
            continue
    return None


def keep(stem: str, suffix: str, content: bytes) -> Path:
    """Write `content` into the cache folder, whole or not at all: its path, for `find`. Raises OSError."""
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
