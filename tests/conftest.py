import os
import shlex
import shutil
from pathlib import Path

import emulator
import mutants
import numpy as np
import pytest
import torch
from made import FEWER, change, made_images
from made_examples import registered

from kernels import cache, reals
from kernels.backend import GPU
from kernels.cpu import build
from kernels.cpu.step import ternary
from kernels.cuda import launch
from reproduce.datasets import data
from reproduce.records import machine, runs, sealed
from reproduce.records.reliability import Reliability

torch.set_num_threads(1)  # the nets are tiny, and other cores run other tests
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the same for the commands that tests start


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A folder that all processes of one call of pytest share (pytest-xdist has several)."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def made_mnist(tmp_path_factory):
    """A file of made images of MNIST's shape, a tenth as many, and the digest of its content."""
    x_train, y_train = made_images(FEWER["files"]["train"], seed=1)
    x_test, y_test = made_images(FEWER["files"]["test"], seed=2)
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    path = tmp_path_factory.mktemp("made") / "mnist.npz"
    np.savez(path, **arrays)
    return path, data.content_digest(arrays)


@pytest.fixture
def own():
    """Registrations within a test are undone after it."""
    before = [dict(part) for part in registered()]
    yield
    for part, kept in zip(registered(), before, strict=True):
        part.clear()
        part.update(kept)


@pytest.fixture
def data_folder(tmp_path, monkeypatch, made_mnist):
    """A data folder with made images under the name mnist, whose description is theirs during the test."""
    path, digest = made_mnist
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copyfile(path, folder / "mnist.npz")
    change(monkeypatch, "mnist", digest=digest, **FEWER)
    return folder


@pytest.fixture
def fake_compiler(tmp_path):
    """fake_compiler(body): a compiler that says its version, and else runs these lines of shell; its path."""

    def made(body):
        script = tmp_path / "compiler"
        script.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo fake && exit 0\n{body}\n')
        script.chmod(0o755)
        return str(script)

    return made


@pytest.fixture
def quick(fake_compiler):
    """A compiler that copies the library which is in the cache."""
    build.load()
    made = cache.find(build.stem(*build.find_compiler()), ".so")
    return fake_compiler(f'for target; do :; done; cp {shlex.quote(str(made))} "$target"')


WAYS = {"torch": {"REPRODUCE_PRODUCTS": "float32", "KERNELS_ISA": "numpy"}}
"""The ways of computing a training step on this machine, with the environment variables that choose each."""
if reals.available():
    WAYS["tables"] = {"REPRODUCE_PRODUCTS": "float32"}
if ternary.available():
    WAYS["fixed16"] = {"REPRODUCE_PRODUCTS": "fixed16"}


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """The name of each way, in turn."""
    for name, value in WAYS[request.param].items():
        monkeypatch.setenv(name, value)
    return request.param


def pytest_sessionfinish(session, exitstatus):
    """Writes the figures of the fuzz tests as a record, if asked for and if all of them passed."""
    folder = os.environ.get("FUZZ_RECORD")
    if not folder or exitstatus != 0 or not mutants.FIGURES:
        return
    started = runs.now()
    content = {"format": 1, "kind": "fuzz", "started": started, "machine": machine.machine("cpu")}
    content |= {"libraries": machine.libraries(), "code": machine.code(), "found": mutants.FIGURES}
    sealed.write_new(Reliability.model_validate(content), Path(folder))


CUDA = ("cuda-naive", "cuda-xnor", "cuda-bmma", "cuda-wgmma")


@pytest.fixture(scope="session")
def emulated(shared):
    """The folder in which the CUDA sources are compiled for the host."""
    folder = shared / "emulated"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(params=["host", pytest.param("gpu", marks=pytest.mark.gpu)])
def cp(request, emulated, monkeypatch):
    """CuPy, or its replacement on the host."""
    if request.param == "gpu":
        if reason := launch.no_gpu():
            pytest.skip(reason)
        yield pytest.importorskip("cupy")
    else:
        with emulator.installed(emulated, monkeypatch) as cupy:
            yield cupy


@pytest.fixture(params=CUDA)
def cuda_name(request, cp):
    """Every CUDA backend that runs with `cp`, by name."""
    if reason := GPU[request.param].unavailable():
        pytest.skip(reason)
    return request.param
