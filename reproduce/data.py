"""Data sets: what they hold, how their content is checked, and the paper's splits.

Images are uint8 (N, 28, 28) or (N, 32, 32, 3), labels uint8 (N,). The *content* is checked by an order-independent
digest before every use, so the official order and a mirror's both pass; the order's own hash goes into the run
record. Where the files come from: `fetch`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reproduce import spec

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


class DataError(Exception):
    """A data set that cannot be had or must not be used; the message is one line."""


@dataclass(frozen=True)
class Dataset:
    """A checked data set. `arrays`: uint8 x_train, y_train, x_test, y_test (svhn_test10k: the last two)."""

    name: str
    arrays: Arrays
    digest: str
    """sha256 of the content, whatever the order."""
    order: str
    """sha256 of the arrays as they stand."""


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


def order_digest(arrays: Arrays) -> str:
    """sha256 over the arrays as they stand, by their names."""
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
    return Dataset(name, kept, digest, order_digest(kept))


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
