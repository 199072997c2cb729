"""Updates of latent weights, and their signs: equal bit for bit to the same operations in NumPy."""

import numpy as np
import pytest
from layouts import panels_of, unpacked
from test_fixed import error, quantized, reals

from kernels.cpu.step import fixed, norm, ternary

SIZES = ((1, 1, 1), (5, 9, 70), (100, 66, 130), (129, 12, 64), (300, 65, 1100))
"""Batch, outputs, inputs."""
RULES = (
    fixed.Rule("adam", 0.9, 0.999, 1e-8, 3e-3, 1.0),
    fixed.Rule("adam", 0.9, 0.999, 1e-8, 1e-2, np.inf),
    fixed.Rule("shift_adamax", 0.9, 0.99, 1e-7, 2.0**-7, 1.0),
)

pytestmark = pytest.mark.skipif(not ternary.available(), reason="no compiled kernels here")


def updated(rule, g, w, m, v):
    """New w, m, v by the formulas, every operation in float32."""
    one = np.float32
    m = m + (g - m) * one(1 - rule.beta1)
    if rule.kind == "adam":
        v = v * one(rule.beta2) + (g * g) * one(1 - rule.beta2)
        under = np.sqrt(v) + one(rule.eps)
    else:
        under = v = norm.ap2(np.maximum(v * one(rule.beta2), np.abs(g))) + one(rule.eps)
    w = w - (m / under) * one(rule.rate)
    return np.clip(w, one(-rule.bound), one(rule.bound)), m, v


def latent(rng, *shape):
    """Weights on both sides of the clipping bounds and around 0, with moments of earlier steps."""
    w = rng.uniform(-1, 1, shape).astype(np.float32)
    w[rng.random(shape) < 0.1] = 1
    w[rng.random(shape) < 0.1] *= np.float32(1e-3)
    return w, reals(rng, *shape), reals(rng, *shape) ** 2


def gradient(g, x, scale, zeros):
    """scale · gᵀ · x in fixed point for x of 0 and ±1; `zeros`: with two planes."""
    out = np.zeros((g.shape[1], x.shape[1]), np.float32)
    for b in range(0, len(g), fixed.BLOCK):
        q, step = quantized(np.ascontiguousarray(g[b : b + fixed.BLOCK].T), fixed.LIMIT / (1 + zeros))
        sums = q @ x[b : b + fixed.BLOCK].astype(np.int64)
        assert zeros or not (sums % 2).any()
        factor = np.float32(2 * scale) * step
        out += factor[:, None] * (sums if zeros else sums // 2).astype(np.float32)
    return out


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("zeros", (False, True))
@pytest.mark.parametrize("rule", RULES)
def test_update_has_the_bits_of_its_definition(rng, isa, size, zeros, rule):
    batch, n_out, n_in = size
    g = reals(rng, batch, n_out)
    x = rng.choice(np.array([-1, 0, 1] if zeros else [-1, 1], np.int8), (batch, n_in))
    low, high = ternary.planes(x, zeros)
    w, m, v = latent(rng, n_out, n_in)
    right = updated(rule, gradient(g, x, 0.3, zeros), w, m, v)
    to_in, to_out = ternary.room(n_out, n_in), ternary.room(n_in, n_out)
    fixed.update(g, low, high, 0.3, w, m, v, rule, to_in, to_out)
    for found, wanted in zip((w, m, v), right, strict=True):
        np.testing.assert_array_equal(found, wanted)
    for panels, matrix in ((to_in, w), (to_out, w.T)):
        np.testing.assert_array_equal(panels.bytes, panels_of(matrix).bytes)


@pytest.mark.parametrize("zeros", (False, True))
def test_the_gradients_error_is_as_documented(rng, isa, zeros):
    g = rng.standard_normal((100, 50)).astype(np.float32)
    x = rng.choice(np.array([-1, 0, 1] if zeros else [-1, 1], np.int8), (100, 70))
    w, m, v = latent(rng, 50, 70)
    m[:] = 0
    rule = fixed.Rule("adam", 0.0, 0.999, 1e-8, 1e-3, 1.0)  # m is the gradient
    fixed.update(g, *ternary.planes(x, zeros), 1.0, w, m, v, rule, ternary.room(50, 70), ternary.room(70, 50))
    right = g.astype(np.float64).T @ x
    assert 1e-4 < error(m * (0.5 if zeros else 1.0), right) < (1.5e-3 if zeros else 6e-4)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", ((), (1,), (13,), (7, 5000)))
def test_update_from_an_array(rng, isa, rule, shape):
    g = np.asarray(reals(rng, *(shape or (1,)))).reshape(shape)
    w, m, v = (array.reshape(shape) for array in latent(rng, *(shape or (1,))))
    right = updated(rule, g, w, m, v)
    fixed.update_from(g, w, m, v, rule)
    for found, wanted in zip((w, m, v), right, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_nan_is_kept(isa):
    for rule in RULES:
        g = np.array([np.nan] * 9, np.float32)
        w, m, v = (np.zeros(9, np.float32) for _ in range(3))
        fixed.update_from(g, w, m, v, rule)
        assert np.isnan(w).all() and np.isnan(m).all()


def test_the_number_of_threads_changes_no_bit(rng, monkeypatch):
    g, x = reals(rng, 100, 200), rng.choice(np.array([-1, 0, 1], np.int8), (100, 1200))
    latents, found = latent(rng, 200, 1200), []
    for threads in ("1", "2", "3"):
        monkeypatch.setenv("KERNELS_THREADS", threads)
        w, m, v = (array.copy() for array in latents)
        to_in, to_out = ternary.room(200, 1200), ternary.room(1200, 200)
        fixed.update(g, *ternary.planes(x, True), 1.0, w, m, v, RULES[0], to_in, to_out)
        found.append(b"".join(array.tobytes() for array in (w, m, v, to_in.bytes, to_out.bytes)))
    assert len(set(found)) == 1


@pytest.mark.parametrize("shape", ((1, 1), (9, 70), (130, 64), (64, 129)))
def test_signs_of_both_layouts(rng, shape):
    x = rng.standard_normal(shape).astype(np.float32)
    x[0, 0] = -0.0
    x[-1, -1] = np.nan
    for matrix in (x, x.T):
        np.testing.assert_array_equal(fixed.signs(matrix).bytes, panels_of(matrix).bytes)


@pytest.mark.parametrize("cin", (1, 8, 70))
@pytest.mark.parametrize("cout", (3, 65))
def test_signs_of_taps(rng, cin, cout):
    w = rng.standard_normal((cout, 3, 3, cin)).astype(np.float32)
    forwards = ternary.room(9 * fixed.filled(cin), cout)
    backwards = ternary.room(9 * fixed.filled(cout), cin)
    fixed.conv_signs(w, forwards, backwards)
    signs = np.where(w >= 0, 1, -1).reshape(cout, 9, cin)
    np.testing.assert_array_equal(unpacked(forwards).reshape(9, -1, cout)[:, :cin], signs.transpose(1, 2, 0))
    np.testing.assert_array_equal(
        unpacked(backwards).reshape(9, -1, cin)[:, :cout], signs.transpose(1, 0, 2)[::-1]
    )
