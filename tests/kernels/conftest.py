"""The ways a product can be computed, and random ±1 arrays."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels import cpu

Signs = Callable[..., NDArray[np.int64]]


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The kernels under test are compiled by this session, not found in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERNELS_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("KERNELS_ISA", raising=False)
        patch.delenv("KERNELS_THREADS", raising=False)
        yield


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
