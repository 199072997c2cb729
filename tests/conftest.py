import os
import shutil
from pathlib import Path

import emulator
import mutants
import numpy as np
import pytest
import torch
from made import change, made_images

import kernels
from kernels import reals, ternary
from kernels.cuda import launch
from reproduce import data, files, machine, runs

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
    change(monkeypatch, "mnist", digest=data.content_digest(arrays))
    return folder


WAYS = {"torch": {"REPRODUCE_PRODUCTS": "float32", "KERNELS_ISA": "numpy"}}
"""The ways a training step can be computed on this machine, and the environment that chooses each."""
if reals.available():
    WAYS["tables"] = {"REPRODUCE_PRODUCTS": "float32"}
if ternary.available():
    WAYS["fixed16"] = {"REPRODUCE_PRODUCTS": "fixed16"}


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
    files.write_sealed(Path(folder) / f"fuzz-{stamp}.json", content)


CUDA = ("cuda-naive", "cuda-xnor", "cuda-bmma", "cuda-wgmma")


@pytest.fixture(scope="session")
def emulated(tmp_path_factory):
    """Where the CUDA sources are compiled for the host."""
    return tmp_path_factory.mktemp("emulated")


@pytest.fixture(params=["host", pytest.param("gpu", marks=pytest.mark.gpu)])
def cp(request, emulated, monkeypatch):
    """CuPy, or what stands for it."""
    if request.param == "gpu":
        if reason := launch.no_gpu():
            pytest.skip(reason)
        yield pytest.importorskip("cupy")
    elif shutil.which("g++") is None:
        pytest.skip("the emulator needs g++")
    else:
        with emulator.installed(emulated, monkeypatch) as cupy:
            yield cupy


@pytest.fixture(params=CUDA)
def cuda_name(request, cp):
    """Every CUDA backend that runs there, by name."""
    if reason := kernels._BACKENDS[request.param].unavailable():
        pytest.skip(reason)
    return request.param
