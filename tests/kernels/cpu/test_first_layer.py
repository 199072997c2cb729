"""The update of a first layer: against float64, and bit for bit on all instruction sets and numbers of threads."""

import math

import numpy as np
import pytest
from layouts import unpacked

from kernels import cpu
from kernels.cpu.step import first_layer, fixed, ternary

ISAS = [isa for isa in cpu.isas() if isa != "numpy"]
SIZES = ((1, 1, 1), (7, 5, 17), (100, 70, 784), (129, 9, 33), (300, 65, 40))

pytestmark = pytest.mark.skipif(not ternary.available(), reason="no compiled kernels here")


def made(size, seed=0):
    batch, rows, columns = size
    rng = np.random.default_rng(seed)
    g = rng.standard_normal((batch, rows)).astype(np.float32)
    x = rng.integers(-255, 256, (batch, columns)).astype(np.int16)
    w = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
    m, v = rng.standard_normal((2, rows, columns)).astype(np.float32)
    return g, x, w, m, np.abs(v)


def updated(size, kind="adam", beta1=0.9):
    g, x, w, m, v = made(size)
    to_out = ternary.room(x.shape[1], g.shape[1])
    first_layer.update(g, x, 0.5, w, m, v, fixed.Rule(kind, beta1, 0.999, 1e-8, 0.01, 1.0), to_out)
    return w, m, v, to_out


@pytest.mark.parametrize("size", SIZES)
def test_the_gradient_is_float64s_within_16_bits_and_the_update_is_from_it(size):
    w, m, v, to_out = updated(size, beta1=0.0)  # m is then the gradient
    g, x, w0, _, v0 = made(size)
    exact = 0.5 * g.T.astype(np.float64) @ x
    limit = 0.5 * 255 * math.sqrt(size[0]) * np.abs(g).max(0) / 32767
    assert (np.abs(m - exact) <= limit[:, None] + 1e-5 * np.abs(exact).max()).all()
    other_w, other_m, other_v = w0.copy(), np.zeros_like(m), v0.copy()
    fixed.update_from(m, other_w, other_m, other_v, fixed.Rule("adam", 0.0, 0.999, 1e-8, 0.01, 1.0))
    np.testing.assert_allclose(w, other_w, atol=1e-6)
    np.testing.assert_allclose(v, other_v, rtol=1e-6)
    np.testing.assert_array_equal(unpacked(to_out), np.where(w.T >= 0, 1, -1))


@pytest.mark.parametrize("kind", ("adam", "shift_adamax"))
def test_bits_do_not_depend_on_threads_or_instruction_set(kind, monkeypatch):
    found = []
    for isa in ISAS:
        for threads in ("1", "3"):
            monkeypatch.setenv("KERNELS_ISA", isa)
            monkeypatch.setenv("KERNELS_THREADS", threads)
            found.append(updated((131, 71, 100), kind))
    for other in found[1:]:
        for mine, theirs in zip(found[0][:3], other[:3], strict=True):
            np.testing.assert_array_equal(mine.view(np.uint32), theirs.view(np.uint32))
        np.testing.assert_array_equal(found[0][3].bytes, other[3].bytes)


def test_a_gradient_that_is_not_finite_is_visible():
    g, x, w, m, v = made((10, 3, 5))
    g[4, 1] = np.inf
    first_layer.update(g, x, 1.0, w, m, v, fixed.Rule("adam", 0.9, 0.999, 1e-8, 0.01, 1.0), ternary.room(5, 3))
    assert np.isnan(w[1]).all() and np.isfinite(w[[0, 2]]).all()
