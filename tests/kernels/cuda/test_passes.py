"""The passes between the products of a step on a GPU against NumPy's float64, on a GPU or emulated."""

import numpy as np
import pytest

from kernels.cuda import passes

EPS, ALPHA = 1e-4, 0.1
SIZES = [(100, 70), (1, 3), (17, 32), (256, 33)]


def at(array):
    return 0 if array is None else int(array.data.ptr)


def bf16(array):
    """The numbers in a uint16 array, float64."""
    return (array.get().astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def poisoned(cp, *shape, dtype=np.float32):
    return cp.asarray(np.full(shape, 0x7FC1 if dtype == np.uint16 else np.nan, dtype))


@pytest.mark.parametrize("drop", [0.0, 0.2])
@pytest.mark.parametrize("shifts", [1, 61])
def test_images(cp, drop, shifts):
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (50, 61)).astype(np.uint8)
    index, shift = rng.integers(0, 50, 23), rng.standard_normal(shifts).astype(np.float32)
    noise = rng.random((23, 61)).astype(np.float32)
    whole, parts = poisoned(cp, 23, 61), poisoned(cp, 69, 61, dtype=np.uint16)
    there = [cp.asarray(x) for x in (rows, index, shift, noise)]
    addresses = [at(x) for x in there[:3]] + [at(there[3]) if drop else 0]
    passes.images(passes.Images(*addresses, at(whole), at(parts), 23, 61, shifts, 2 / 255, drop))
    want = rows[index] * (2 / 255) + shift.astype(np.float64)
    if drop:
        want *= (noise >= np.float32(drop)) / (1 - drop)
    np.testing.assert_allclose(whole.get(), want, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(bf16(parts).reshape(3, 23, 61).sum(0), whole.get(), rtol=2.0**-24)


def forward(y, gamma, beta):
    """Normalized y, and the result before the sign; float64."""
    mean, inverse = y.mean(0), 1 / np.sqrt(y.var(0) + EPS)
    return mean, inverse, (y - mean) * inverse * gamma + beta


def arrays(rows, units, parts):
    rng = np.random.default_rng(rows * units)
    y = rng.standard_normal((parts, rows, units)).astype(np.float32) * 30
    gamma, beta, bias = (rng.standard_normal(units).astype(np.float32) for _ in range(3))
    return rng, y, gamma, beta, bias


@pytest.mark.parametrize("drop", [0.0, 0.5])
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize(("rows", "units"), SIZES)
def test_forward(cp, rows, units, parts, drop):
    rng, y, gamma, beta, bias = arrays(rows, units, parts)
    moving = rng.standard_normal((2, units)).astype(np.float32)
    noise = rng.random((rows, units)).astype(np.float32)
    held = [cp.asarray(x) for x in (y, bias, gamma, beta, *moving)]
    there = cp.asarray(noise)
    one = 0x4000 if drop else 0x3F80
    mean, inverse, result = forward(y.astype(np.float64).sum(0), gamma.astype(np.float64), beta)
    for last in (False, True):
        made = [poisoned(cp, units) for _ in range(2)]
        signs, out = poisoned(cp, 2 * rows, units, dtype=np.uint16), poisoned(cp, rows, units)
        places = [0, at(out)] if last else [at(signs), 0]
        before = [x.get() for x in held[4:]]
        passes.forward(
            passes.Forward(
                *map(at, held), *map(at, made), at(there) if drop else 0, *places, parts, rows, units, one,
                EPS, ALPHA, drop,
            )
        )  # fmt: skip
        if last:
            np.testing.assert_allclose(out.get(), result, rtol=1e-3, atol=1e-4)
        else:
            sure = np.abs(result) > 1e-4
            want = np.where(result >= 0, 1.0, -1.0) * (np.where(noise >= 0.5, 2, 0) if drop else 1)
            assert np.array_equal(bf16(signs)[:rows][sure], want[sure])
            assert np.array_equal(signs.get()[:rows], signs.get()[rows:])
        np.testing.assert_allclose(made[0].get(), mean, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(made[1].get(), inverse, rtol=1e-4)
        for k, new in enumerate((mean + bias, inverse)):
            np.testing.assert_allclose(
                held[4 + k].get(), before[k] + ALPHA * (new - before[k]), rtol=1e-4, atol=1e-5
            )


def test_zero_is_positive_and_nan_is_kept(cp):
    y = np.array([[0.0, np.nan], [0.0, 1.0]], np.float32)
    ones, zeros = np.ones(2, np.float32), np.zeros(2, np.float32)
    held = [cp.asarray(x) for x in (y, zeros, ones, zeros, zeros, zeros, zeros, zeros)]
    signs = poisoned(cp, 4, 2, dtype=np.uint16)
    passes.forward(passes.Forward(*map(at, held), 0, at(signs), 0, 1, 2, 2, 0x3F80, EPS, ALPHA, 0.0))
    assert np.array_equal(bf16(signs)[:, 0], np.ones(4))
    assert np.isnan(held[4].get()[1])  # the moving mean, in which training looks for NaN


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(("parts", "grads", "drop"), [(1, 2, 0.5), (3, 1, 0.0), (1, 1, None)])
@pytest.mark.parametrize(("rows", "units"), SIZES)
def test_backward(cp, rows, units, parts, grads, drop, masked):
    rng, y, gamma, beta, _ = arrays(rows, units, parts)
    grad = rng.standard_normal((grads, rows, units)).astype(np.float32)
    mean, inverse, result = forward(y.astype(np.float64).sum(0), gamma.astype(np.float64), beta)
    signs = np.full((2 * rows, units), 0x3F80, np.uint16)
    signs[:rows][rng.random((rows, units)) < (drop or 0)] = 0
    mean, inverse = mean.astype(np.float32), inverse.astype(np.float32)
    held = [cp.asarray(x) for x in (y, grad, signs, mean, inverse, gamma, beta)]
    sums, whole = [poisoned(cp, units) for _ in range(2)], poisoned(cp, rows, units)
    halves = poisoned(cp, 2 * rows, units, dtype=np.uint16)
    places = [at(x) for x in held]
    places[2] = 0 if drop is None else places[2]
    kept = 1 / (1 - (drop or 0))
    passes.backward(
        passes.Backward(
            *places, *map(at, sums), at(halves), at(whole), parts, grads, rows, units, int(masked), kept
        )
    )
    g = grad.astype(np.float64).sum(0)
    if drop is not None:
        g = g * kept * (signs[:rows] != 0)
        g = np.where(np.abs(result) > 1, 0, g) if masked else g
    x = (y.astype(np.float64).sum(0) - mean) * inverse
    total, along = g.sum(0), (g * x).sum(0)
    want = gamma * inverse * (g - total / rows - x * along / rows)
    scale = np.abs(gamma * inverse) * (np.abs(g).max(0) + 1)
    assert (np.abs(whole.get() - want) <= 1e-4 * scale).all()
    both = bf16(halves)
    assert (np.abs(both[:rows] + both[rows:] - whole.get()) <= 2.0**-16 * np.abs(whole.get())).all()
    for found, wanted in zip(sums, (along, total), strict=True):
        assert (np.abs(found.get() - wanted) <= 1e-3 * rows**0.5 * (np.abs(g).max(0) + 1)).all()


def test_more_rows_than_a_block_holds_are_refused(cp):
    job = passes.Forward(*[0] * 11, 1, passes.MOST_ROWS + 1, 1, 0x3F80, EPS, ALPHA, 0.0)
    with pytest.raises(ValueError, match="at most 256 rows, not 257"):
        passes.forward(job)


def test_hinge(cp):
    rng = np.random.default_rng(3)
    scores = rng.standard_normal((100, 10)).astype(np.float32) * 2
    labels, index = rng.integers(0, 10, 500), rng.integers(0, 500, 100)
    there = [cp.asarray(x) for x in (scores, labels, index)]
    grad, total = poisoned(cp, 100, 10), cp.asarray(np.array(5.0))
    passes.hinge(passes.Hinge(*map(at, there), at(grad), at(total), 100, 10))
    t = np.where(np.arange(10) == labels[index][:, None], 1.0, -1.0)
    slack = np.maximum(1 - t * scores, 0)
    np.testing.assert_allclose(grad.get(), -2 * t * slack / 1000, rtol=1e-5, atol=1e-9)
    assert float(total.get()) == pytest.approx(5 + (slack**2).mean(), rel=1e-7)
    there[0][...] = np.nan
    passes.hinge(passes.Hinge(*map(at, there), at(grad), at(total), 100, 10))
    assert np.isnan(total.get()) and np.isnan(grad.get()).all()
