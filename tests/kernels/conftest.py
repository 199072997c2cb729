"""The ways a product can be computed, and random ±1 arrays."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from numpy.typing import NDArray

from kernels import cpu
from kernels.cpu import build

Signs = Callable[..., NDArray[np.int64]]


@pytest.fixture(autouse=True, scope="session")
def compiled(shared: Path) -> Iterator[None]:
    """One process compiles the kernels of these sources, if the cache does not hold them; the others wait."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("KERNELS_ISA", raising=False)
        patch.delenv("KERNELS_THREADS", raising=False)
        with FileLock(shared / "cache.lock"), contextlib.suppress(build.BuildError):
            build.load()
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(params=["amx", "avx512", "avx2", "portable"])
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled kernels are forced to each instruction set in turn."""
    if request.param not in cpu.isas():
        pytest.skip(f"this CPU has no {request.param}")
    monkeypatch.setenv("KERNELS_ISA", request.param)


@pytest.fixture(params=["reference", "avx512", "avx2", "portable", "numpy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The backend to name in a call; the CPU backend is forced to each instruction set in turn."""
    if request.param == "reference":
        return "reference"
    if request.param not in cpu.isas():
        pytest.skip(f"this CPU has no {request.param}")
    monkeypatch.setenv("KERNELS_ISA", request.param)
    return "cpu"


@pytest.fixture(scope="session")
def signs() -> Signs:
    """signs(*shape, seed=0): random ±1, int64."""

    def draw(*shape: int, seed: int = 0) -> NDArray[np.int64]:
        return np.random.default_rng([seed, *shape]).integers(0, 2, shape) * 2 - 1

    return draw
