"""Products of {-1, 0, 1} by ±1 against NumPy's integers, on every instruction set, at sizes that fill no tile."""

import numpy as np
import pytest
from layouts import panels_of, unpacked

from kernels.cpu.step import ternary

EDGES = (1, 7, 8, 9, 63, 64, 65, 121)

pytestmark = [
    pytest.mark.skipif(not ternary.available(), reason="no compiled kernels here"),
    pytest.mark.usefixtures("isa"),
]


def values(rng, *shape):
    return rng.integers(-1, 2, shape).astype(np.int8)


def test_panels_are_the_signs_of_any_view(rng):
    x = rng.standard_normal((70, 65)).astype(np.float32)
    x[0, 0], x[1, 1] = 0.0, -0.0
    for view in (x, x.T, x[::3, 5:]):
        np.testing.assert_array_equal(unpacked(panels_of(view)), np.where(view >= 0, 1, -1))
    assert not np.unpackbits(panels_of(x).bytes[-1, :, 1:]).any()  # columns beyond n


def test_the_sum_of_two_planes_is_twice_the_values(rng):
    x = values(rng, 21, 130)
    low, high = ternary.planes(x, zeros=True)
    np.testing.assert_array_equal(unpacked(low).astype(int) + unpacked(high), 2 * x)
    signs = np.where(x >= 0, 1, -1).astype(np.int8)
    low, high = ternary.planes(signs, zeros=False)
    assert high is None
    np.testing.assert_array_equal(unpacked(low), signs)


@pytest.mark.parametrize("m", (1, 4, 5, 97))
@pytest.mark.parametrize("k", (*EDGES, 1000))
@pytest.mark.parametrize("threads", ("1", "3"))
def test_matmul_is_exact(rng, m, k, threads, monkeypatch):
    monkeypatch.setenv("KERNELS_THREADS", threads)
    x = values(rng, m, 1, 1, k)
    for n in (1, 32, 33, 130):
        w = rng.standard_normal((n, k)).astype(np.float32)
        found = ternary.matmul(ternary.codes(x, 0), panels_of(w.T))
        np.testing.assert_array_equal(found, x[:, 0, 0].astype(np.int64) @ np.where(w.T >= 0, 1, -1))


def test_the_largest_sums_are_exact():
    k = ternary.MAX_K
    x = np.ones((2, 1, 1, k), np.int8)
    x[1] = -1
    w = np.ones((k, 2), np.float32)
    w[:, 1] = -1
    found = ternary.matmul(ternary.codes(x, 0), panels_of(w))
    np.testing.assert_array_equal(found, [[k, -k], [-k, k]])
    with pytest.raises(ValueError, match="do not fit"):
        ternary.matmul(np.zeros((1, 8192), np.uint8), ternary.room(k + 1, 2))


@pytest.mark.parametrize("channels", (1, 3, 4, 8, 20))
@pytest.mark.parametrize(("images", "height", "width", "n"), ((3, 5, 7, 70), (2, 11, 35, 20)))
def test_convolution_is_exact_and_its_border_zero(rng, channels, images, height, width, n):
    # 770 positions are two tasks of AMX
    x = values(rng, images, height, width, channels)
    w = np.where(rng.random((9, channels, n)) < 0.5, -1, 1)
    filled = -channels % 8
    panels = panels_of(np.pad(w, ((0, 0), (0, filled), (0, 0))).reshape(-1, n).astype(np.float32))
    found = ternary.conv(ternary.codes(x, 1), panels)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).astype(np.int64)
    wanted = sum(padded[:, t // 3 : t // 3 + height, t % 3 : t % 3 + width] @ w[t] for t in range(9))
    np.testing.assert_array_equal(found, wanted)
