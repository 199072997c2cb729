"""Descriptions of data sets: images, classes and splits, the digest of the content, and the sources."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Arrays = dict[str, Bytes]
"""uint8 x_train, y_train, x_test, y_test: images (N, H, W) or (N, H, W, C) and labels (N,)."""
Split = tuple[Bytes, Bytes]


class DataError(Exception):
    """A data set that is missing or must not be used; the message is one line."""


@dataclass(frozen=True)
class Source:
    """A way to fetch a data set: `fetch(scratch folder)` gives its arrays; `place` is the server it asks."""

    fetch: Callable[[Path], Arrays]
    place: str | None = None
    by_pip: bool = False


@dataclass(frozen=True)
class Description:
    """A data set.

    `files`: images in the file's train and test arrays (either may be absent). `splits`: images of train, valid
    and test that an experiment may ask for, as `split` makes them. `digest`: `content_digest` of the arrays; None
    where it is not known beforehand: then the cached file tells the digest of what was fetched.
    """

    name: str
    title: str
    image: tuple[int, ...]
    """(H, W), or (H, W, C)."""
    classes: int
    files: dict[str, int]
    splits: dict[str, int]
    split: Callable[[Arrays], dict[str, Split]]
    digest: str | None
    how: str
    """How to get it, for a person."""
    sources: tuple[Source, ...]
    part_of: str | None = None
    """Title of the data set that experiments of this one are about, where it is a part of that."""
    known: Callable[[Arrays], bool] = lambda _: True
    """A further check of the content, for a data set without a digest."""

    @property
    def planes(self) -> tuple[int, int, int]:
        """(H, W, C) of an image; gray ones have one plane."""
        height, width, *channels = self.image
        return height, width, *(channels or [1])  # type: ignore[return-value]


def last_validate(count: int) -> Callable[[Arrays], dict[str, Split]]:
    """A split that takes the last `count` images of the training file for validation."""

    def split(arrays: Arrays) -> dict[str, Split]:
        x, y = arrays["x_train"], arrays["y_train"]
        return {
            "train": (x[:-count], y[:-count]),
            "valid": (x[-count:], y[-count:]),
            "test": (arrays["x_test"], arrays["y_test"]),
        }

    return split


def as_bytes(x_train: Any, y_train: Any, x_test: Any, y_test: Any) -> Arrays:
    """The four arrays as uint8; DataError if one holds other numbers than 0 to 255."""
    given = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    found = {}
    for key, value in given.items():
        array = np.asarray(value)
        found[key] = np.ascontiguousarray(array.astype(np.uint8))
        if not np.array_equal(found[key], array):
            raise DataError(f"{key} holds other numbers than 0, 1, … 255")
    return found


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
