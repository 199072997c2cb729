"""Products and convolutions against plain integer arithmetic and torch, on every path."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample import sample

import kernels
from kernels import (
    Packed,
    arrays,
    backend,
    maxpool2x2,
    pack,
    pixels,
    reals,
    reference,
    updates,
    xnor_conv2d,
    xnor_matmul,
)


def torch_conv2d(x, w, padding, stride):
    """The convolution in float64, exact for these sizes; the border is zero."""
    nchw = (torch.from_numpy(array).double().permute(0, 3, 1, 2) for array in (x, w))
    return torch.nn.functional.conv2d(*nchw, padding=padding, stride=stride).permute(0, 2, 3, 1).long().numpy()


@pytest.mark.parametrize("k", [1, 31, 32, 33, 63, 64, 65, 127, 1000, 100003])
def test_matmul_for_awkward_k(way, signs, k):
    a, b = signs(7, k), signs(53, k, seed=1)
    c = xnor_matmul(a, b, way)
    assert c.dtype == np.int32
    assert np.array_equal(c, a @ b.T)


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 47, 48, 49, 101])
def test_matmul_for_awkward_m_and_n(way, signs, n):
    for m in (0, 1, 2, 3, 4, 5, 13, 131, 257):
        a, b = signs(m, 70), signs(n, 70, seed=1)
        c = xnor_matmul(a, b, way)
        assert c.shape == (m, n)
        assert np.array_equal(c, a @ b.T), m


@pytest.mark.parametrize(("m", "n", "k"), [(1, 2048, 2048), (300, 500, 4200), (130, 97, 8193)])
def test_matmul_large_enough_for_threads_and_chunks(way, signs, m, n, k):
    a, b = signs(m, k), signs(n, k, seed=1)
    assert np.array_equal(xnor_matmul(a, b, way), (a.astype(float) @ b.T.astype(float)).astype(int))


@pytest.mark.parametrize(
    ("n", "k"), [(2944, 5), pytest.param(2912, 8200, marks=pytest.mark.exhaustive), (2905, 65)]
)
@pytest.mark.parametrize("skip", [0, 4, 1])
def test_results_too_large_for_the_caches(signs, n, k, skip):
    """Results that begin on a cache line, with rows of whole lines, are stored differently (csrc/xnor/drive.c)."""
    a, b = signs(2900, k), signs(n, k, seed=1)
    room, _ = arrays.aligned(2900 * n + 16, np.int32)
    out = room[skip : skip + 2900 * n].reshape(2900, n)
    room[:] = 7
    assert out.nbytes > 1 << 25 and (out.ctypes.data % 64 == 0) == (skip == 0)
    xnor_matmul(a, b, "cpu", out=out)
    assert np.array_equal(out, a.astype(np.float32) @ b.T.astype(np.float32))
    assert set(room[:skip]) <= {7} and set(room[skip + 2900 * n :]) == {7}


@pytest.mark.parametrize("k", [64, 65, 100003])
def test_extreme_products(way, k):
    a = np.stack([np.ones(k), -np.ones(k)])
    assert xnor_matmul(a, a, way).tolist() == [[k, -k], [-k, k]]


def test_real_operands_are_replaced_by_their_signs(way):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((9, 99)), rng.standard_normal((8, 99)).astype(np.float32)
    want = np.where(a >= 0, 1, -1) @ np.where(b >= 0, 1, -1).T
    assert np.array_equal(xnor_matmul(a, b, way), want)
    assert np.array_equal(xnor_matmul(pack(a, way), torch.from_numpy(b), way), want)


def test_a_packed_operand_is_good_for_many_others(way, signs):
    right, left = pack(signs(50, 130), way), pack(signs(50, 4200), way)
    for count in (0, 1, 9, 140, 140):
        a, b = signs(count, 130, seed=2), signs(count, 4200, seed=2)
        assert np.array_equal(xnor_matmul(a, right, way), a @ signs(50, 130).T)
        assert np.array_equal(xnor_matmul(left, b, way), signs(50, 4200) @ b.T)


@pytest.mark.parametrize("channels", [1, 3, 63, 64, 65, 128, 200])
@pytest.mark.parametrize("cout", [1, 16, 50])
def test_conv2d_for_awkward_channels(way, signs, channels, cout):
    x, w = signs(2, 6, 5, channels), signs(cout, 3, 3, channels, seed=1)
    y = xnor_conv2d(x, w, backend=way)
    assert y.dtype == np.int32
    assert np.array_equal(y, torch_conv2d(x, w, 1, 1))


@pytest.mark.parametrize("padding", [0, 1, 2, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("taps", [(1, 1), (3, 3), (2, 4), (5, 1)])
def test_conv2d_geometry(way, signs, padding, stride, taps):
    x, w = signs(3, 7, 9, 70), signs(20, *taps, 70, seed=1)
    assert np.array_equal(xnor_conv2d(x, w, padding, stride, way), torch_conv2d(x, w, padding, stride))


@pytest.mark.parametrize("shape", sample([[5, 8, 8, 512], [2, 32, 32, 128], [3, 16, 16, 256]]))
def test_conv2d_of_real_layers(way, signs, shape):
    x, w = signs(*shape), signs(shape[3], 3, 3, shape[3], seed=1)
    x, w = (x[:1], w[:64]) if way == "reference" else (x, w)
    assert np.array_equal(xnor_conv2d(x, w, backend=way), torch_conv2d(x, w, 1, 1))


@pytest.mark.parametrize(("images", "cout", "size"), [(0, 4, 5), (2, 0, 5), (0, 0, 5), (2, 4, 1)])
def test_conv2d_of_nothing_and_of_one_pixel(way, signs, images, cout, size):
    x, w = signs(images, size, size, 20), signs(cout, 3, 3, 20, seed=1)
    y = xnor_conv2d(x, w, backend=way)
    assert y.shape == (images, size, size, cout)
    if y.size:
        assert np.array_equal(y, torch_conv2d(x, w, 1, 1))


@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    taps=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    images=st.integers(1, 3),
    channels=st.integers(1, 140),
    cout=st.integers(1, 60),
    padding=st.integers(0, 4),
    stride=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_conv2d_is_exact(way, size, taps, images, channels, cout, padding, stride, seed):
    rng = np.random.default_rng(seed)
    taps = tuple(min(t, s + 2 * padding) for t, s in zip(taps, size, strict=True))
    x = rng.integers(0, 2, (images, *size, channels)) * 2 - 1
    w = rng.integers(0, 2, (cout, *taps, channels)) * 2 - 1
    assert np.array_equal(xnor_conv2d(x, w, padding, stride, way), torch_conv2d(x, w, padding, stride))


def test_a_given_output_is_filled(way, signs):
    a, b = signs(9, 70), signs(20, 70, seed=1)
    x, w = signs(2, 5, 4, 70), signs(20, 3, 3, 70, seed=1)
    flat, image = np.full((9, 20), 7, np.int32), np.full((2, 5, 4, 20), 7, np.int32)
    assert xnor_matmul(a, b, way, flat) is flat and np.array_equal(flat, a @ b.T)
    assert xnor_conv2d(x, w, backend=way, out=image) is image
    assert np.array_equal(image, torch_conv2d(x, w, 1, 1))


def test_an_output_that_does_not_fit_is_refused(way):
    frozen = np.empty((3, 4), np.int32)
    frozen.flags.writeable = False
    for out in (
        np.empty((4, 3), np.int32),
        np.empty((3, 4)),
        np.empty((3, 8), np.int32)[:, ::2],
        frozen,
        [0],
    ):
        with pytest.raises(ValueError, match="out must be"):
            xnor_matmul(np.ones((3, 5)), np.ones((4, 5)), way, out)


def test_operands_of_different_k_are_refused(way):
    with pytest.raises(ValueError, match="K = 64 but b has K = 65"):
        xnor_matmul(np.ones((2, 64)), np.ones((2, 65)), way)
    with pytest.raises(ValueError, match="10 channels but w has 11"):
        xnor_conv2d(np.ones((1, 4, 4, 10)), np.ones((1, 3, 3, 11)), backend=way)


def test_operands_of_the_wrong_rank_are_refused():
    with pytest.raises(ValueError, match="a must have two axes"):
        xnor_matmul(np.ones(5), np.ones((2, 5)))
    with pytest.raises(ValueError, match="b must have two axes"):
        xnor_matmul(np.ones((2, 5)), np.ones((2, 2, 5)))
    with pytest.raises(ValueError, match="w must have four axes"):
        xnor_conv2d(np.ones((1, 4, 4, 10)), np.ones((3, 10)))


def test_geometry_that_does_not_fit_is_refused():
    x, w = np.ones((1, 4, 4, 10)), np.ones((1, 7, 3, 10))
    with pytest.raises(ValueError, match="7x3 taps do not fit 4x4 with padding 1"):
        xnor_conv2d(x, w)
    with pytest.raises(ValueError, match="do not fit"):
        xnor_conv2d(x, w[:, :0])
    for padding, stride in ((-1, 1), (0, 0)):
        with pytest.raises(ValueError, match="padding must be"):
            xnor_conv2d(x, x, padding, stride)


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="no backend 'gpu': one of auto, cpu, reference"):
        xnor_matmul(np.ones((2, 5)), np.ones((2, 5)), "gpu")


def test_backends_say_what_they_run(monkeypatch):
    monkeypatch.setenv("KERNELS_ISA", "numpy")
    monkeypatch.setenv("KERNELS_THREADS", "3")
    said = kernels.backends()
    assert (said["cpu"], said["reference"]) == ("cpu (numpy, 3 threads)", "reference (NumPy)")
    assert list(said) == ["cpu", "reference", "cuda-wgmma", "cuda-bmma", "cuda-xnor", "cuda-naive"]
    assert kernels.describe() == kernels.describe("cpu") == "cpu (numpy, 3 threads)"


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_padding_and_stride_of_any_whole_number_type(backend):
    """A NumPy uint8 wraps around when it is doubled; the padded array would not fit into the buffer."""
    rng = np.random.default_rng(0)
    x, w = (rng.integers(0, 2, shape).astype(np.int8) * 2 - 1 for shape in ((1, 4, 4, 3), (2, 3, 3, 3)))
    wanted = xnor_conv2d(x, w, 128, 2, "reference")
    assert wanted.shape == (1, 129, 129, 2)
    for kind in (np.uint8, np.int16, np.int64):
        np.testing.assert_array_equal(xnor_conv2d(x, w, kind(128), kind(2), backend), wanted)
    for padding, stride in ((1.0, 1), ("same", 1), ((1, 1), 1), (1, 1.5)):
        with pytest.raises(TypeError, match="must be a whole number"):
            xnor_conv2d(x, w, padding, stride, backend)
    with pytest.raises(TypeError, match="K must be a whole number"):
        Packed(np.zeros((1, 1), np.uint64), 64.0)


@pytest.mark.parametrize("setting", [{"groups": 2}, {"dilation": 2}])
def test_groups_and_dilation_are_refused_by_name(setting):
    (name,) = setting
    x, w = np.ones((1, 4, 4, 4), np.float32), np.ones((4, 3, 3, 4), np.float32)
    with pytest.raises(TypeError, match=name):
        xnor_conv2d(x, w, **setting)
    with pytest.raises(TypeError, match=name):
        pixels.pixel_conv2d(x.astype(np.uint8), pack(w), **setting)
    with pytest.raises(TypeError, match=name):
        reals.real_conv2d(x, reals.signs(w.reshape(9, 4, 4)), **setting)


@pytest.mark.parametrize("padding", [(1, 1), (0, 1), "same"])
def test_padding_that_is_not_a_number_is_refused_by_name(padding):
    x, w = np.ones((1, 4, 4, 4), np.float32), np.ones((4, 3, 3, 4), np.float32)
    with pytest.raises(TypeError, match="padding must be a whole number"):
        pixels.pixel_conv2d(x.astype(np.uint8), pack(w), padding)
    with pytest.raises(TypeError, match="padding must be a whole number"):
        reals.real_conv2d(x, reals.signs(w.reshape(9, 4, 4)), padding=padding)


def test_a_backend_of_ones_own_is_chosen_by_its_name(monkeypatch):
    called = []

    class Mine:
        def __getattr__(self, name):
            called.append(name)
            return getattr(reference, name)

    monkeypatch.setattr(backend, "HOST", dict(backend.HOST))
    kernels.register("mine", Mine())
    a, b = np.random.default_rng(0).integers(0, 2, (2, 5, 70)) * 2 - 1
    assert np.array_equal(xnor_matmul(a, b, "mine"), a @ b.T)
    assert [name for name in called if name != "unavailable"] == [
        "pack",
        "pack",
        "matmul",
    ] and "mine" in kernels.backends()
    for taken in ("mine", "cpu", "cuda-xnor", "auto"):
        with pytest.raises(ValueError, match=f"a backend '{taken}' already"):
            kernels.register(taken, Mine())


@pytest.mark.parametrize("name", ["cuda-xnor", "cuda-naive"])
def test_a_backend_for_a_gpu_refuses_arrays_of_the_host(name):
    x, g = np.ones((1, 4, 4, 4), np.uint8), np.ones((4, 4), np.float32)
    bits = pack(np.ones((1, 4, 4, 4)))
    calls = [
        lambda: pack(g, name),
        lambda: maxpool2x2(bits, pack(np.ones(4)), name),
        lambda: pixels.pixel_conv2d(x, bits, 0, name),
        lambda: reals.real_matmul(g, reals.signs(g), backend=name),
        lambda: updates.update(kernels.Rule("sgd", 0, 0, 0, 0.1, 1), g, g, g, g, backend=name),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=f"'{name}' takes arrays on a GPU, not on the host"):
            call()
