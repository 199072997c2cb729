"""Pixels, pooling and the choice of the class on a GPU against the host: emulated, and with -m gpu on a GPU."""

import numpy as np
import pytest
import torch

import kernels
from kernels import GpuPacked, LocalThresholds, maxpool2x2, pack, pixels, to_gpu, to_host
from kernels.cuda import between
from kernels.cuda import pixels as gpu_pixels


def convolved(x, w, padding):
    """x (N, H, W, C) by w (Cout, kh, kw, C) in torch's float64, exact for these sizes."""
    nchw = (torch.from_numpy(array.astype(np.float64)).permute(0, 3, 1, 2) for array in (x, w))
    return torch.nn.functional.conv2d(*nchw, padding=padding).permute(0, 2, 3, 1).numpy().astype(np.int64)


GEOMETRIES = [
    # images, height, width, channels, units, taps, padding
    (5, 1, 1, 784, 130, 1, 0),
    (3, 1, 1, 50, 5, 1, 0),
    (3, 6, 5, 3, 70, 3, 1),
    (2, 4, 4, 20, 33, 3, 2),
    (150, 4, 4, 1, 2, 4, 0),
]


def image_case(images, height, width, channels, units, taps, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (images, height, width, channels)).astype(np.uint8)
    x[0], x[-1] = 255, 0
    return x, rng.integers(0, 2, (units, taps, taps, channels)) * 2 - 1


@pytest.mark.parametrize("case", GEOMETRIES)
def test_pixels_are_multiplied_exactly(cp, monkeypatch, case):
    *sizes, padding = case
    monkeypatch.setattr(gpu_pixels, "WINDOW_BYTES", 3000)  # several rounds of windows
    x, w = image_case(*sizes)
    found = pixels.pixel_conv2d(cp.asarray(x), pack(w), padding)
    want = convolved(x, w, padding)
    assert found.dtype == np.int32 and np.array_equal(found.get(), want)
    out = cp.empty(want.shape, np.int32)
    assert pixels.pixel_conv2d(cp.asarray(x), pack(w), padding, out=out) is out
    assert np.array_equal(out.get(), want)


@pytest.mark.parametrize("places", ["one", "each"])
@pytest.mark.parametrize("case", GEOMETRIES)
def test_pixels_meet_the_thresholds_of_their_places(cp, monkeypatch, case, places):
    *sizes, padding = case
    monkeypatch.setattr(gpu_pixels, "WINDOW_BYTES", 3000)
    x, w = image_case(*sizes)
    want = convolved(x, w, padding)
    rng = np.random.default_rng(1)
    classes = want.shape[1:3] if places == "each" else (1, 1)
    level = rng.integers(-2000, 2001, (*classes, sizes[4]))
    level[0, 0, :2] = 2**40, -(2**40)
    where = (np.arange(count) % c for count, c in zip(want.shape[1:3], classes, strict=True))
    rule = LocalThresholds(level, rng.random(sizes[4]) < 0.5, *where)
    bits = pixels.pixel_conv2d_threshold(cp.asarray(x), pack(w), rule, padding)
    assert isinstance(bits, GpuPacked) and bits.shape == want.shape
    assert np.array_equal(kernels.unpack(bits) > 0, rule.apply(want))
    words = bits.words.get()
    assert not words[..., -(-sizes[4] // 64) :].any()  # padding bits are zero for the next product
    tail = sizes[4] % 64
    assert tail == 0 or not (words[..., sizes[4] // 64] >> np.uint64(tail)).any()


def test_bytes_that_do_not_begin_on_a_granule_are_copied(cp):
    x, w = image_case(4, 1, 1, 32, 5, 1)
    room = cp.asarray(np.concatenate([np.zeros(3, np.uint8), x.reshape(-1)]))
    shifted = room[3:].reshape(x.shape)
    assert np.array_equal(pixels.pixel_conv2d(shifted, pack(w)).get(), convolved(x, w, 0))


def test_pixels_that_are_no_bytes_are_refused(cp):
    x, w = image_case(2, 4, 4, 3, 5, 3)
    with pytest.raises(TypeError, match="uint8"):
        pixels.pixel_conv2d(cp.asarray(x.astype(np.int32)), pack(w))
    with pytest.raises(ValueError, match="do not fit"):
        pixels.pixel_conv2d(cp.asarray(x[..., :2]), pack(w))
    with pytest.raises(TypeError, match="'cpu' takes arrays on the host"):
        pixels.pixel_conv2d(cp.asarray(x), pack(w), backend="cpu")
    with pytest.raises(TypeError, match="filters on a GPU"):
        pixels.pixel_conv2d(x, to_gpu(pack(w)))


@pytest.mark.parametrize("shape", [(3, 6, 4, 70), (2, 5, 7, 128), (1, 2, 2, 1), (2, 1, 4, 9)])
def test_pooling_is_that_of_the_host(cp, signs, shape):
    x, falling = pack(signs(*shape)), pack(signs(shape[3], seed=1))
    want = maxpool2x2(x, falling, "reference")
    for mask in (falling, to_gpu(falling)):
        found = maxpool2x2(to_gpu(x), mask)
        assert isinstance(found, GpuPacked) and found.shape == want.shape
        assert np.array_equal(to_host(found).words, want.words)
    with pytest.raises(TypeError, match="falling on a GPU"):
        maxpool2x2(x, to_gpu(falling))


@pytest.mark.parametrize("rows", [0, 1, 700])
def test_the_chosen_class_is_that_of_numpy(cp, rows):
    rng = np.random.default_rng(2)
    dot = rng.integers(-40, 41, (rows, 10)).astype(np.int32)
    parts = [rng.choice([0.0, 0.1, -1.3, 7.25], 10) for _ in range(4)]  # many ties
    y = ((dot + parts[0]) - parts[1]) * parts[2] + parts[3]
    found = between.affine_argmax(cp.asarray(dot), between.affine_table(*parts))
    assert found.dtype == np.int64 and np.array_equal(found.get(), y.argmax(1))
    assert rows < 2 or (np.sort(y, 1)[:, -1] == np.sort(y, 1)[:, -2]).any()


def test_each_step_of_the_decision_is_rounded(cp):
    """A fused multiply-add would skip a rounding and choose the second unit."""
    a = 1 + 2.0**-30  # a * a = 1 + 2^-29 + 2^-60, rounded 1 + 2^-29
    parts = [np.array([a - 1, 1.0]), np.zeros(2), np.array([a, 2.0**-61]), np.array([-1 - 2.0**-29, 0])]
    dot = np.array([[1, 0]], np.int32)
    y = ((dot + parts[0]) - parts[1]) * parts[2] + parts[3]
    assert y.tolist() == [[0, 2.0**-61]]  # unrounded, the first is 2^-60
    assert between.affine_argmax(cp.asarray(dot), between.affine_table(*parts)).get().tolist() == [1]


def test_the_decision_refuses_what_does_not_fit(cp):
    table = between.affine_table(*[np.zeros(10)] * 4)
    for wrong in (np.zeros((3, 9), np.int32), np.zeros((3, 10), np.int64)):
        with pytest.raises(ValueError, match="table"):
            between.affine_argmax(cp.asarray(wrong), table)


def test_a_rule_keeps_what_it_has_on_the_gpu(cp):
    x, w = image_case(2, 1, 1, 32, 5, 1)
    rule = LocalThresholds(np.zeros((1, 1, 5), np.int64), np.zeros(5, bool), *[np.zeros(1, np.int64)] * 2)
    filters = pack(w)
    for _ in range(2):
        pixels.pixel_conv2d_threshold(cp.asarray(x), filters, rule)
        kept = dict(rule.derived), dict(filters.derived)
    assert all(rule.derived[k] is v for k, v in kept[0].items()) and kept[0] and kept[1]
