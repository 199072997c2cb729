import os
from pathlib import Path

import mutants
import numpy as np
import pytest
import torch
from made import made_images

from kernels import reals
from reproduce import data, machine, runs

torch.set_num_threads(1)  # the nets here are tiny, and the other core may be busy


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    """A data folder with made images under the name mnist, its digest pinned for the test."""
    x_train, y_train = made_images(60000, seed=1)
    x_test, y_test = made_images(10000, seed=2)
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    folder = tmp_path / "data"
    folder.mkdir()
    np.savez(folder / "mnist.npz", **arrays)
    monkeypatch.setitem(data.DIGESTS, "mnist", data.content_digest(arrays))
    return folder


WAYS = {"torch": {"REPRODUCE_PRODUCTS": "torch"}}
"""The ways a training step can be computed on this machine, and the environment that chooses each."""
if reals.available():
    WAYS["kernels"] = {"REPRODUCE_PRODUCTS": "kernels"}


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """Every way in turn; its name."""
    for name, value in WAYS[request.param].items():
        monkeypatch.setenv(name, value)
    return request.param


def pytest_sessionfinish(session, exitstatus):
    """The figures of the fuzz tests as a record, if asked for and all of them passed."""
    folder = os.environ.get("FUZZ_RECORD")
    if not folder or exitstatus != 0 or not mutants.FIGURES:
        return
    started = runs.now()
    content = {"format": 1, "kind": "fuzz", "started": started, "machine": machine.machine("cpu")}
    content |= {"libraries": machine.libraries(), "code": machine.code(), "found": mutants.FIGURES}
    stamp = started.replace(":", "").replace("-", "").split("+")[0]
    runs.write_sealed(Path(folder) / f"fuzz-{stamp}.json", content)
