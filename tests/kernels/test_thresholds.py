"""The fused forms against a comparison of the plain product."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernels import Thresholds, unpack, xnor_conv2d, xnor_conv2d_threshold, xnor_matmul, xnor_matmul_threshold

LOWEST, HIGHEST = np.iinfo(np.int64).min, np.iinfo(np.int64).max


def expected(dot, level, below):
    """The comparison in Python integers, one unit at a time."""
    units = [
        [(int(d) <= int(t)) if under else (int(d) >= int(t)) for d in column]
        for column, t, under in zip(dot.reshape(-1, dot.shape[-1]).T, level, below, strict=True)
    ]
    return np.where(np.array(units).T, 1, -1).reshape(dot.shape)


@pytest.mark.parametrize("k", [1, 64, 65, 1000, 100003])
@pytest.mark.parametrize("n", [1, 16, 63, 64, 65, 130])
def test_bits_are_the_comparison(way, signs, k, n):
    a, b = signs(5, k), signs(n, k, seed=1)
    rng = np.random.default_rng(n)
    level, below = rng.integers(-(k**0.5), k**0.5 + 1, n).astype(np.int64), rng.random(n) < 0.5
    h = xnor_matmul_threshold(a, b, Thresholds(level, below), way)
    assert h.shape == (5, n)
    assert np.array_equal(unpack(h), expected(a @ b.T, level, below))


@pytest.mark.parametrize("below", [False, True])
def test_thresholds_at_and_far_beyond_the_reachable_range(way, below):
    k = 70
    a = np.stack([np.ones(k), -np.ones(k)])
    near = [-k - 2, -k - 1, -k, -k + 1, 0, k - 1, k, k + 1, k + 2]
    far = [-(2**32) - 1, -(2**31) - 1, -(2**31), 2**31 - 1, 2**31, 2**32 + 1]
    level = np.array([LOWEST, LOWEST + 1, *near, *far, HIGHEST - 1, HIGHEST])
    b, under = np.ones((len(level), k)), np.full(len(level), below)
    h = xnor_matmul_threshold(a, b, Thresholds(level, under), way)
    assert np.array_equal(unpack(h), expected(np.array([[k], [-k]]).repeat(len(level), 1), level, under))


def test_ties_are_plus_one_in_both_directions(way, signs):
    a, b = signs(4, 100), signs(6, 100, seed=1)
    dot = xnor_matmul(a, b, way)
    for row, values in enumerate(dot):
        for below in (False, True):
            bits = unpack(xnor_matmul_threshold(a, b, Thresholds(values, np.full(6, below)), way))
            assert (bits[row] == 1).all()


@pytest.mark.parametrize("cout", [10, 64, 100])
@pytest.mark.parametrize(("padding", "stride"), [(1, 1), (0, 2), (3, 1)])
def test_fused_convolution(way, signs, cout, padding, stride):
    x, w = signs(2, 6, 7, 65), signs(cout, 3, 3, 65, seed=1)
    rng = np.random.default_rng(cout)
    level, below = rng.integers(-20, 21, cout), rng.random(cout) < 0.5
    level[:2] = LOWEST, HIGHEST
    h = xnor_conv2d_threshold(x, w, Thresholds(level, below), padding, stride, way)
    dot = xnor_conv2d(x, w, padding, stride, "reference")
    assert h.shape == dot.shape
    assert np.array_equal(unpack(h), expected(dot, level, below))


def test_layers_chain_without_unpacking(way, signs):
    a, b, c = signs(5, 200), signs(96, 200, seed=1), signs(7, 96, seed=2)
    hidden = xnor_matmul_threshold(a, b, Thresholds(np.zeros(96, int)), way)
    assert np.array_equal(xnor_matmul(hidden, c, way), np.where(a @ b.T >= 0, 1, -1) @ c.T)


def test_no_rows(way, signs):
    assert xnor_matmul_threshold(signs(0, 9), signs(4, 9), Thresholds(np.zeros(4, int)), way).shape == (0, 4)


@given(
    m=st.integers(1, 9),
    n=st.integers(1, 80),
    k=st.integers(1, 200),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_threshold_and_direction(way, m, n, k, seed, data):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 2, (m, k)) * 2 - 1, rng.integers(0, 2, (n, k)) * 2 - 1
    one = st.one_of(st.integers(-k - 2, k + 2), st.integers(LOWEST, HIGHEST))
    level = np.array(data.draw(st.lists(one, min_size=n, max_size=n)), np.int64)
    below = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    h = xnor_matmul_threshold(a, b, Thresholds(level, below), way)
    assert np.array_equal(unpack(h), expected(a @ b.T, level, below))


@pytest.mark.parametrize(
    ("level", "below", "error"),
    [
        (np.zeros((4, 1), int), None, ValueError),
        (0, None, ValueError),
        (np.zeros(4), None, TypeError),
        (np.zeros(4, np.uint64), None, TypeError),
        (np.zeros(4, int), np.zeros(3, bool), ValueError),
        (np.zeros(4, int), np.zeros(4, int), TypeError),
    ],
)
def test_invalid_rules_are_refused(level, below, error):
    with pytest.raises(error):
        Thresholds(level, below)


def test_a_rule_is_fixed():
    level = np.array([1, 2])
    rule = Thresholds(level)
    level[0] = 100
    assert rule.level.tolist() == [1, 2] and rule.below.tolist() == [False, False]
    with pytest.raises(ValueError, match="read-only"):
        rule.level[0] = 3


@pytest.mark.parametrize("units", [0, 3])
def test_a_rule_for_another_number_of_units_is_refused(units):
    with pytest.raises(ValueError, match=f"{units} output units and 4 thresholds"):
        xnor_matmul_threshold(np.ones((2, 5)), np.ones((units, 5)), Thresholds(np.zeros(4, int)))
    with pytest.raises(ValueError, match=f"{units} output units and 4 thresholds"):
        xnor_conv2d_threshold(np.ones((1, 4, 4, 5)), np.ones((units, 3, 3, 5)), Thresholds([0, 0, 0, 0]))
