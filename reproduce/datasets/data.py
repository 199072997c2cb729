"""Data sets as they are used: how their content is checked, and the splits that an experiment asks for.

The *content* is checked by an order-independent digest before every use, so the official order and a mirror's both
pass; the order's own hash goes into the run record. What each data set is: `datasets`. Where the files come from:
`fetch`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from reproduce import spec
from reproduce.datasets import DATASETS
from reproduce.datasets.description import Arrays as Arrays
from reproduce.datasets.description import DataError as DataError
from reproduce.datasets.description import Split as Split
from reproduce.datasets.description import content_digest as content_digest


@dataclass(frozen=True)
class Dataset:
    """A checked data set. `arrays`: uint8 x_train, y_train, x_test, y_test (svhn_test10k: the last two)."""

    name: str
    arrays: Arrays
    digest: str
    """sha256 of the content, whatever the order."""
    order: str
    """sha256 of the arrays in their order."""


def order_digest(arrays: Arrays) -> str:
    """sha256 over the arrays in their order, sorted by name."""
    total = hashlib.sha256()
    for key in sorted(arrays):
        total.update(np.ascontiguousarray(arrays[key]).data)
    return total.hexdigest()


def checked(name: str, arrays: dict[str, Any], pinned: str | None) -> Dataset:
    """The data set if its shapes, labels and content are right; DataError saying what is not.

    `pinned`: the digest that the content must have; None: any.
    """
    kept: Arrays = {}
    about = DATASETS[name]
    for part, count in about.files.items():
        for key, wanted in ((f"x_{part}", (count, *about.image)), (f"y_{part}", (count,))):
            array = arrays.get(key)
            if not isinstance(array, np.ndarray):
                raise DataError(f"{name}: no array {key!r}")
            if array.dtype != np.uint8 or array.shape != wanted:
                raise DataError(f"{name}: {key} is {array.dtype} {array.shape}, not uint8 {wanted}")
            kept[key] = array
        if kept[f"y_{part}"].max() >= about.classes:
            raise DataError(f"{name}: y_{part} has labels over {about.classes - 1}")
    digest = content_digest(kept)
    if pinned not in (None, digest):
        raise DataError(f"{name}: its content is not {name}'s (digest {digest[:12]}, expected {str(pinned)[:12]})")
    if not about.known(kept):
        raise DataError(f"{name}: its content is not {name}'s (the first 10,000 test images are others)")
    return Dataset(name, kept, digest, order_digest(kept))


def splits(dataset: Dataset, data: spec.Data) -> dict[str, Split]:
    """(images, labels) of train, valid and test, each the first `data.<split>` of the data set's own split.

    SpecError if a split is smaller than asked for.
    """
    parts = DATASETS[dataset.name].split(dataset.arrays)
    sizes = {"train": data.train, "valid": data.valid, "test": data.test}
    for part, wanted in sizes.items():
        if wanted > len(parts[part][1]):
            raise spec.SpecError(f"data.{part}: {dataset.name} has {len(parts[part][1])}, not {wanted}")
    return {part: (xs[: sizes[part]], ys[: sizes[part]]) for part, (xs, ys) in parts.items()}
