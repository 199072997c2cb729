"""Trained nets for other tools: ONNX, QONNX, NumPy; each file proven to predict what the packed net does."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import util
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from reproduce.packed import PackedNet
from reproduce.packed.export import npz, onnx, qonnx


class Format(Protocol):
    """The functions that the module of a format must have."""

    def build(self, net: PackedNet) -> bytes:
        """The file. ValueError where the net cannot be exported so."""

    def run(self, content: bytes, images: NDArray[Any]) -> NDArray[np.float64]:
        """Scores (N, classes) by a program that is not this one, of images as the packed net takes them."""


FORMATS: dict[str, Format] = {"onnx": onnx, "qonnx": qonnx, "npz": npz}
SUFFIXES = {"onnx": ".onnx", "qonnx": ".qonnx.onnx", "npz": ".npz"}
NEEDS = {"onnx": ("onnx", "onnxruntime"), "qonnx": ("onnx", "onnxruntime", "qonnx"), "npz": ()}
"""The packages that each format needs."""


def missing(kind: str) -> str:
    """The packages that a format needs and that are not installed, in words; empty if all are."""
    return " and ".join(name for name in NEEDS[kind] if util.find_spec(name) is None)


@dataclass(frozen=True)
class Proof:
    """The comparison of an exported file's predictions with the packed net's, image by image."""

    images: int
    wrong: int
    """Images that the packed net puts into a wrong class."""
    differing: list[int]
    """Indices of the images that the file puts into another class."""
    largest_difference: float
    """Between two scores of the same image and class."""


def prove(content: bytes, kind: str, net: PackedNet, images: NDArray[Any], labels: NDArray[Any]) -> Proof:
    """Run a file of the format `kind` on images, one or more, as `net` takes them, beside the packed net."""
    mine, found = net.scores(images), FORMATS[kind].run(content, images)
    classes = mine.argmax(1)
    differing = (classes != found.argmax(1)).nonzero()[0].tolist()
    wrong = int((classes != labels).sum())
    return Proof(len(images), wrong, differing, float(np.abs(mine - found).max()))
