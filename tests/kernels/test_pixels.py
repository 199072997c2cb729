"""The first layer's products of bytes, and pooling of bits, against plain integer arithmetic."""

import copy
import pickle

import numpy as np
import pytest

from kernels import LocalThresholds, maxpool2x2, pack, unpack
from kernels.pixels import pixel_conv2d, pixel_conv2d_threshold


def expected(x, w, padding):
    """The product by its definition, in int64, with a zero border."""
    border = (padding, padding)
    image = np.pad(x.astype(np.int64), ((0, 0), border, border, (0, 0)))
    height, width = (image.shape[i] - w.shape[i] + 1 for i in (1, 2))
    total = np.zeros((len(x), height, width, len(w)), np.int64)
    for i in range(w.shape[1]):
        for j in range(w.shape[2]):
            total += image[:, i : i + height, j : j + width] @ w[:, i, j].T
    return total


SHAPES = [  # images, H, W, C, Cout, taps, padding
    (3, 1, 1, 784, 50, 1, 0),
    (9, 1, 1, 65, 16, 1, 0),
    (70, 1, 1, 3, 130, 1, 0),
    (2, 6, 5, 3, 20, 3, 1),
    (1, 3, 3, 1, 1, 3, 1),
    (2, 4, 4, 3, 49, 3, 0),
    (1, 2, 2, 3, 64, 5, 2),
    (0, 4, 4, 3, 8, 3, 1),
    (1, 1, 1, 32768, 17, 1, 0),
]


def made(shape, seed=0):
    n, height, width, c, cout, taps, padding = shape
    rng = np.random.default_rng([seed, *shape])
    x = rng.integers(0, 256, (n, height, width, c)).astype(np.uint8)
    x[:1] = 255
    w = rng.integers(0, 2, (cout, taps, taps, c)) * 2 - 1
    w[0] = 1
    return x, w, padding


@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_exact(way, shape):
    x, w, padding = made(shape)
    packed = pack(w)
    right = expected(x, w, padding)
    assert np.array_equal(pixel_conv2d(x, packed, padding, way), right)


@pytest.mark.parametrize("shape", SHAPES)
def test_bits_are_the_comparison_at_each_position(way, shape):
    x, w, padding = made(shape)
    right = expected(x, w, padding)
    rng = np.random.default_rng(1)
    n, height, width, units = right.shape
    row, column = rng.integers(0, 3, height), rng.integers(0, 2, width)
    level = rng.integers(-300, 300, (3, 2, units))
    if n:
        level[row[0], column[0]] = right[0, 0, 0]  # ties
    level[..., -1:] = [[[2**62], [-(2**62)]], [[-(2**40)], [2**40]], [[0], [0]]]
    below = rng.random(units) < 0.5
    here = level[row[:, None], column]
    bits = np.where(below, right <= here, right >= here)
    rule = LocalThresholds(level, below, row, column)
    h = pixel_conv2d_threshold(x, pack(w), rule, padding, way)
    assert h.shape == right.shape and np.array_equal(unpack(h) > 0, bits)


def test_a_rule_copies_its_arrays_and_its_copies_do_not_keep_addresses():
    level, below, where = np.zeros((1, 1, 2), np.int64), np.zeros(2, bool), np.zeros(4, np.int64)
    rule = LocalThresholds(level, below, where, where)
    x, w = np.zeros((1, 4, 4, 3), np.uint8), pack(np.ones((2, 3, 3, 3)))
    before = pixel_conv2d_threshold(x, w, rule, 1)
    level[:] = 9
    for same in (rule, pickle.loads(pickle.dumps(rule)), copy.deepcopy(rule)):
        assert (same.derived == {}) == (same is not rule)
        assert np.array_equal(pixel_conv2d_threshold(x, w, same, 1).words, before.words)
    with pytest.raises(ValueError, match="read-only"):
        rule.level[:] = 9


def test_many_images_over_several_threads(way, monkeypatch):
    monkeypatch.setenv("KERNELS_THREADS", "3")
    shape = (40, 9, 8, 3, 100, 3, 1)
    x, w, padding = made(shape)
    assert np.array_equal(pixel_conv2d(x[::-1], pack(w), padding, way), expected(x[::-1], w, padding))


def test_wrong_operands_are_refused():
    x, w = np.zeros((1, 4, 4, 3), np.uint8), pack(np.ones((2, 3, 3, 3)))
    with pytest.raises(TypeError, match="not ndarray of int64"):
        pixel_conv2d(x.astype(np.int64), w, 1)
    with pytest.raises(ValueError, match="do not fit"):
        pixel_conv2d(x[..., :2], w, 1)
    with pytest.raises(ValueError, match="do not fit"):
        pixel_conv2d(x[:, :2], w, 0)
    with pytest.raises(ValueError, match="1 to 32768"):
        pixel_conv2d(np.zeros((1, 1, 1, 32769), np.uint8), pack(np.ones((1, 1, 1, 32769))))
    with pytest.raises(ValueError, match="1 to 32768"):
        pixel_conv2d(x, pack(np.ones((2, 0, 3, 3))))
    none = np.zeros(4, np.int64)
    rule = LocalThresholds(np.zeros((1, 1, 3), np.int64), np.zeros(3, bool), none, none)
    with pytest.raises(ValueError, match="a rule for another"):
        pixel_conv2d_threshold(x, w, rule, 1)
    with pytest.raises(ValueError, match="beyond the levels"):
        LocalThresholds(np.zeros((1, 1, 3), np.int64), np.zeros(3, bool), none + 1, none)


@pytest.mark.parametrize("shape", [(2, 4, 6, 5), (1, 8, 8, 128), (3, 5, 7, 65), (0, 4, 4, 3), (1, 1, 4, 3)])
def test_pooling_bits_is_pooling_integers(way, shape):
    rng = np.random.default_rng(shape)
    dot = rng.integers(-9, 10, shape)
    level, below = rng.integers(-9, 10, shape[3]), rng.random(shape[3]) < 0.5

    def bits(values):
        return np.where(below, values <= level, values >= level)

    n, height, width, c = shape
    h2, w2 = height // 2, width // 2
    largest = dot[:, : 2 * h2, : 2 * w2].reshape(n, h2, 2, w2, 2, c).max(axis=(2, 4))
    pooled = maxpool2x2(pack(bits(dot)), pack(below), way)
    assert pooled.shape == largest.shape
    assert np.array_equal(unpack(pooled) > 0, bits(largest))
    with pytest.raises(ValueError, match="do not fit"):
        maxpool2x2(pack(bits(dot)), pack(np.ones(c + 1)), way)


def test_no_filters_and_padding_of_any_whole_number_type():
    x = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3)).astype(np.uint8)
    assert pixel_conv2d(x, pack(np.zeros((0, 3, 3, 3), np.int8)), 1).shape == (1, 4, 4, 0)
    w = pack(np.random.default_rng(1).integers(0, 2, (2, 3, 3, 3)).astype(bool))
    found = pixel_conv2d(x, w, np.uint8(128))
    assert found.shape == (1, 258, 258, 2) and not found[:, :126].any()
    np.testing.assert_array_equal(found[:, 127:131, 127:131], pixel_conv2d(x, w, 1))
    with pytest.raises(TypeError, match="padding must be a whole number"):
        pixel_conv2d(x, w, 1.0)
