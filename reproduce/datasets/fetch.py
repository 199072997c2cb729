"""The data folder: cached files, checked when read, and the sources they are fetched from.

The cached form of a data set is `<folder>/<name>.npz`: uint8 `x_train`, `y_train`, `x_test`, `y_test`.
`data.checked` compares its content with the digest in the data set's description.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from kernels.environment import user_cache, variable
from reproduce import yamlfile
from reproduce.datasets import DATASETS
from reproduce.datasets.data import DataError, Dataset, checked, content_digest
from reproduce.datasets.description import Source
from reproduce.terminal import last_line


class Unread(DataError):
    """The machine could not read the cached file, which may be sound."""


def folder(given: Path | None = None) -> Path:
    """The data folder: `given`, else $REPRODUCE_DATA, else a cache of the user's, else DataError."""
    if given is not None:
        return given
    if chosen := variable("REPRODUCE_DATA"):
        return Path(chosen)
    if cache := user_cache("bnn-reproduce"):
        return cache
    raise DataError("no data folder: this user has no home folder; give --data FOLDER or set REPRODUCE_DATA")


def _read(name: str, path: Path) -> Dataset:
    """The data set in a cached file. Unread where the machine failed, another DataError where the file did."""
    try:
        return _parsed(name, path)
    except DataError:
        raise
    except Exception as error:  # a cut or altered archive can raise any
        kind, number = type(error).__name__, getattr(error, "errno", None)
        if number not in (None, errno.EINVAL):  # EINVAL: an altered archive points before its own beginning
            raise Unread(f"{name}: {path} cannot be read: {os.strerror(number)}; it stays as it is") from None
        if isinstance(error, MemoryError) and _whole(path):
            raise Unread(f"{name}: not enough memory to read {path}; it stays as it is") from None
    raise DataError(f"{name}: {path.name} is damaged ({kind})")


def _parsed(name: str, path: Path) -> Dataset:
    about = DATASETS[name]
    numbers = sum(about.files.values()) * (math.prod(about.image) + 1)
    largest = 8 * numbers + 2**20  # room for wider numbers, which `checked` names
    if not path.is_file():
        raise Unread(f"{name}: {path} is not a regular file")
    try:
        yamlfile.of_limit(path, largest)
    except ValueError as error:
        raise DataError(f"{name}: {path.name} is not {name}'s: {error}") from None
    with np.load(path, allow_pickle=False) as file:
        if sum(member.file_size for member in file.zip.infolist()) > largest:
            raise DataError(f"{name}: {path.name} is not {name}'s: it unpacks to more than {largest:,} bytes")
        arrays = {key: file[key] for key in file.files}
    pinned = about.digest
    if pinned is None:
        pinned = str(arrays.pop("digest")) if "digest" in arrays else None
    return checked(name, arrays, pinned)


def _whole(path: Path) -> bool:
    """Whether an archive's checksums fit, found with little memory."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except MemoryError:
        return True
    except Exception:  # an altered archive can fail in any way
        return False


# --- sources --------------------------------------------------------------------------------------------------

ANSWER_SECONDS = 3.0


def _silent(sources: Sequence[Source]) -> dict[Source, str]:
    """Each source whose server takes no connection within ANSWER_SECONDS, with a message; all are asked at once.

    Without a network a look-up of a name, and pip, would wait for minutes. Behind a proxy the proxy is asked
    instead. A pip source is not asked if pip is configured for another index than PyPI.
    """
    proxies = urllib.request.getproxies()
    asked: dict[Source, tuple[str, threading.Event]] = {}
    for source in sources:
        if source.place is None or (source.by_pip and _pip_looks_elsewhere()):
            continue
        proxy = proxies.get(source.place.partition(":")[0])
        if proxy and "://" not in proxy:  # as curl and pip take it
            proxy = f"http://{proxy}"
        asked[source] = proxy or source.place, threading.Event()
        threading.Thread(target=_ask, args=asked[source], daemon=True).start()
    end = time.monotonic() + ANSWER_SECONDS
    return {
        source: _no_answer(urllib.parse.urlsplit(place), place != source.place)
        for source, (place, answered) in asked.items()
        if not answered.wait(max(0.0, end - time.monotonic()))
    }


def _no_answer(url: urllib.parse.SplitResult, proxy: bool) -> str:
    """That a server or a proxy does not answer; without the password that a proxy's address may hold."""
    if proxy:
        return f"the proxy {url.netloc.rpartition('@')[2]} of the environment does not answer"
    return f"no network: {url.hostname} does not answer"


def _ask(place: str, answered: threading.Event) -> None:
    url = urllib.parse.urlsplit(place)
    with contextlib.suppress(OSError, ValueError):  # ValueError: a port that is no number
        port = url.port or (443 if url.scheme == "https" else 80)
        socket.create_connection((url.hostname or "", port), ANSWER_SECONDS).close()
        answered.set()


def _pip_looks_elsewhere() -> bool:
    command = [sys.executable, "-m", "pip", "config", "list"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    return any(option in said for option in ("index-url", "find-links", "proxy"))


def load(name: str, where: Path | None = None, say: Callable[[str], None] = lambda _: None) -> Dataset:
    """The data set `name` from the data folder, or from its sources and then cached. DataError if neither works.

    A cached file that does not pass the check is set aside as `<name>.npz.damaged` and fetched anew; one that
    could not be looked at stays where it is. Of several processes one fetches, the others wait for its file.
    """
    where = folder(where)
    path = where / f"{name}.npz"
    problems = []
    if path.exists():
        try:
            return _read(name, path)
        except Unread:
            raise
        except DataError as error:
            problems.append(str(error))
    try:
        where.mkdir(parents=True, exist_ok=True)
        with _alone(name, where, say):
            return _replaced(name, path, say)
    except OSError as error:
        problems.append(f"the data folder {where} cannot be written: {error.strerror}")
    raise DataError(_missing(name, path, problems))


def _missing(name: str, path: Path, problems: list[str]) -> str:
    how = f"{DATASETS[name].how}, or put it at {path}, {_format(name)}"
    return f"{name} is missing ({'; '.join(problems)}): {how}"


def _format(name: str) -> str:
    """A description of a data set's cached file, for a person."""
    about = DATASETS[name]
    arrays = [
        f"{array} {shape}".replace(",)", ")")
        for part, count in about.files.items()
        for array, shape in ((f"x_{part}", (count, *about.image)), (f"y_{part}", (count,)))
    ]
    return f"a NumPy .npz file of uint8 arrays {', '.join(arrays)}"


@contextlib.contextmanager
def _alone(name: str, where: Path, say: Callable[[str], None]) -> Iterator[None]:
    """No other process fetches this data set meanwhile. OSError where the folder cannot be written."""
    lock = FileLock(where / f".{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"{name}: another process is fetching it")
        lock.acquire()
    try:
        for left in where.glob(f"{_scratch(name)}*"):  # of a killed process: the lock shows that none is at work
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        lock.release()


def _replaced(name: str, path: Path, say: Callable[[str], None]) -> Dataset:
    """`load` for the one process that may change the cached file."""
    problems = []
    if path.exists():
        try:
            return _read(name, path)
        except Unread:
            raise
        except DataError as error:
            problems.append(str(error))
            say(f"{error}; set aside as {path.name}.damaged, looking for another copy")
            try:
                path.replace(path.with_name(f"{path.name}.damaged"))
            except OSError as denied:
                raise DataError(f"{error}, and cannot be replaced: {denied.strerror}") from None
    sources = DATASETS[name].sources
    silent = _silent(sources)
    for source in sources:
        if source in silent:
            problems.append(silent[source])
            continue
        called = source.fetch.__name__.replace("_", " ")
        say(f"{name}: trying {called}")
        try:
            return _fetch(name, source, path)
        except DataError as error:
            problems.append(str(error))
        except Exception as error:  # a mirror can fail in any way; none of them is fatal here
            reason = last_line(str(error)) or type(error).__name__
            problems.append(f"{called.split()[0]}: {reason}")
    aside = path.with_name(f"{path.name}.damaged")
    if aside.exists():
        problems.append(f"{aside.name}, set aside, is still there")
    raise DataError(_missing(name, path, problems))


def _scratch(name: str) -> str:
    """Prefix of the names of temporary folders; folders with this prefix may be removed."""
    return f".bnn-reproduce-{name}-"


def _fetch(name: str, source: Source, path: Path) -> Dataset:
    scratch = Path(tempfile.mkdtemp(prefix=_scratch(name), dir=path.parent))
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)
    try:
        arrays = source.fetch(scratch)
        dataset = checked(name, arrays, DATASETS[name].digest or content_digest(arrays))
        with open(scratch / "done.npz", "wb") as file:
            np.savez(file, allow_pickle=False, **dataset.arrays, digest=np.array(dataset.digest))
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch / "done.npz", path)
        return dataset
    finally:
        socket.setdefaulttimeout(timeout)
        shutil.rmtree(scratch, ignore_errors=True)
