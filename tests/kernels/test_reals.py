"""Products of real numbers with ±1 against float64, with tables and in NumPy, at sizes that fill no tile."""

import numpy as np
import pytest

from kernels import reals

WAYS = ("avx512", "numpy")  # tables, and NumPy's product of unpacked signs
EDGES = [1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129]


@pytest.fixture(params=WAYS, autouse=True)
def way(request, monkeypatch):
    monkeypatch.delenv("KERNELS_ISA", raising=False)
    if request.param == "avx512" and not reals.available():
        pytest.skip("no AVX-512 here")
    if request.param != "avx512":
        monkeypatch.setenv("KERNELS_ISA", "numpy")
    assert reals.available() == (request.param == "avx512")
    return request.param


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def signed(x):
    return np.where(x >= 0, 1.0, -1.0)


def close(found, wanted, terms):
    """Compares with float64, within the error of float32 sums of this many terms of size about 1."""
    assert found.dtype == np.float32 and found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=3e-7 * terms + 1e-6)


@pytest.mark.parametrize("k", EDGES)
def test_signs_are_those_of_the_numbers_either_way_round(k, rng):
    x = normal(rng, 2, k, 19)
    x[0, 0, :4] = [0.0, -0.0, np.nan, -1e-40]
    made = reals.signs(x)
    np.testing.assert_array_equal(made.unpack(), signed(x))
    assert made.unpack()[0, 0, :4].tolist() == [1, 1, -1, -1]
    turned = reals.signs(np.ascontiguousarray(x.swapaxes(1, 2)), transposed=True)
    np.testing.assert_array_equal(turned.words, made.words)
    np.testing.assert_array_equal(reals.signs(x, strict=True).unpack(), np.where(x > 0, 1, -1))
    beyond = made.words[:, -1] >> np.uint32(k % 32) if k % 32 else np.zeros(1)
    assert not np.any(beyond)  # the weight gradient shifts these bits into sight


def test_signs_of_strided_views(rng):
    wide = normal(rng, 40, 3, 3, 70)  # a convolution's weights, (Cout, kh, kw, Cin)
    tap = wide[:, 1, 2]
    np.testing.assert_array_equal(reals.signs(tap).unpack()[0], signed(tap))
    np.testing.assert_array_equal(reals.signs(tap, transposed=True).unpack()[0], signed(tap).T)
    np.testing.assert_array_equal(reals.signs(tap.T).unpack()[0], signed(tap).T)


@pytest.mark.parametrize("n", [1, 16, 17, 63, 64, 65, 130])
@pytest.mark.parametrize("k", [1, 3, 4, 31, 33, 511, 512, 513, 1100])
def test_a_matrix_product_is_the_float64_one(n, k, rng):
    for m in (0, 1, 3, 4, 5, 9):
        x, b = normal(rng, m, k), normal(rng, k, n)
        close(reals.real_matmul(x, reals.signs(b)), x.astype(np.float64) @ signed(b), k)


def test_any_strides_a_scale_and_an_output(rng):
    x, b = normal(rng, 130, 100), reals.signs(normal(rng, 130, 48))
    out = np.empty((100, 48), np.float32)
    assert reals.real_matmul(x.T, b, scale=0.25, out=out) is out
    close(out, x.T.astype(np.float64) @ b.unpack()[0] / 4, 130)
    sliced = normal(rng, 7, 260)[:, ::2]
    close(reals.real_matmul(sliced, b), sliced.astype(np.float64) @ b.unpack()[0], 130)


def test_integers_come_out_exact(rng):
    x = rng.integers(-255, 256, (50, 3000)).astype(np.float32)
    b = normal(rng, 3000, 70)
    np.testing.assert_array_equal(
        reals.real_matmul(x, reals.signs(b)), x.astype(np.int64) @ signed(b).astype(np.int64)
    )


def test_a_ternary_operand_as_two_planes(rng):
    g, t = normal(rng, 20, 77), rng.integers(-1, 2, (77, 50)).astype(np.float32) * 2
    assert reals.ternary(t) == (2.0, True)
    found = reals.real_matmul(g, reals.signs(t), reals.signs(t, strict=True), scale=1.0)
    close(found, g.astype(np.float64) @ t, 2 * 77)


def test_which_arrays_are_ternary(rng):
    pure = signed(normal(rng, 33, 5)).astype(np.float32) * 3
    assert reals.ternary(pure) == (3.0, False)
    for place in (0, 16, 33 * 5 - 1):
        mixed = pure.copy()
        mixed.flat[place] = 0
        assert reals.ternary(mixed) == (3.0, True)
        mixed.flat[place] = -0.0
        assert reals.ternary(mixed) == (3.0, True)
        for wrong in (2.9999998, -1, np.nan, np.inf):
            mixed.flat[place] = wrong
            assert reals.ternary(mixed) is None
    assert reals.ternary(np.zeros((3, 3), np.float32)) is None
    assert reals.ternary(np.full(4, np.inf, np.float32)) is None
    assert reals.ternary(np.full(4, np.nan, np.float32)) is None
    assert reals.ternary(pure[:, ::2]) is None  # not dense, so not searched


CONVOLUTIONS = [
    (1, 1, 1, 1, 1),
    (2, 5, 7, 3, 9),
    (3, 8, 8, 33, 70),
    (2, 32, 32, 16, 5),
    (1, 4, 30, 64, 65),
    (5, 2, 3, 130, 17),
]


@pytest.mark.parametrize("n, h, w, c, o", CONVOLUTIONS)
def test_a_convolution_and_its_weight_gradient_are_the_float64_ones(n, h, w, c, o, rng):
    x, taps, g = normal(rng, n, h, w, c), normal(rng, 9, c, o), normal(rng, n, h, w, o)
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = [padded[:, t // 3 : t // 3 + h, t % 3 : t % 3 + w] for t in range(9)]
    wanted = sum(window @ signed(tap) for window, tap in zip(windows, taps, strict=True))
    close(reals.real_conv2d(x, reals.signs(taps)), wanted, 9 * c)

    a = np.pad(signed(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    wanted = np.stack(
        [
            np.einsum("nhwo,nhwc->oc", g.astype(np.float64), a[:, t // 3 : t // 3 + h, t % 3 : t % 3 + w])
            for t in range(9)
        ],
        axis=1,
    ).reshape(o, 3, 3, c)
    close(reals.conv_gradient(g, reals.signs(x.reshape(n * h, w, c))), wanted, n * h * w)


@pytest.mark.parametrize("taps, padding", [((1, 1), 0), ((3, 1), 1), ((2, 3), 0), ((5, 5), 2)])
def test_other_taps_and_borders(taps, padding, rng):
    x, w = normal(rng, 2, 6, 7, 10), normal(rng, taps[0] * taps[1], 10, 20)
    padded = np.pad(x.astype(np.float64), ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    h, v = 6 + 2 * padding - taps[0] + 1, 7 + 2 * padding - taps[1] + 1
    wanted = sum(
        padded[:, t // taps[1] : t // taps[1] + h, t % taps[1] : t % taps[1] + v] @ signed(tap)
        for t, tap in enumerate(w)
    )
    close(reals.real_conv2d(x, reals.signs(w), taps, padding), wanted, 10 * len(w))


def test_sums_do_not_depend_on_the_number_of_threads(rng, monkeypatch):
    x, b = normal(rng, 103, 700), reals.signs(normal(rng, 700, 300))
    image, taps, g = normal(rng, 3, 8, 8, 64), reals.signs(normal(rng, 9, 64, 64)), normal(rng, 3, 8, 8, 40)
    made = {}
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("KERNELS_THREADS", threads)
        made[threads] = (
            reals.real_matmul(x, b),
            reals.real_conv2d(image, taps),
            reals.conv_gradient(g, reals.signs(image.reshape(24, 8, 64))),
        )
    for one in made.values():
        for found, wanted in zip(one, made["1"], strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_operands_that_do_not_fit_are_refused(rng):
    x, b = normal(rng, 3, 8), reals.signs(normal(rng, 8, 4))
    with pytest.raises(TypeError, match="float32"):
        reals.real_matmul(x.astype(np.float64), b)
    with pytest.raises(TypeError, match="float32"):
        reals.signs([[1.0]])
    with pytest.raises(ValueError, match="do not fit"):
        reals.real_matmul(x[:, :7], b)
    with pytest.raises(ValueError, match="do not fit"):
        reals.real_matmul(x, b, reals.signs(normal(rng, 8, 5)))
    with pytest.raises(ValueError, match="out must be"):
        reals.real_matmul(x, b, out=np.empty((4, 3), np.float32))
    with pytest.raises(ValueError, match="at least one row"):
        reals.signs(np.empty((0, 3), np.float32))
    with pytest.raises(TypeError, match="float32"):
        reals.ternary(np.ones(4))
    with pytest.raises(ValueError, match="do not fit"):
        reals.real_conv2d(normal(rng, 1, 2, 2, 8), b)
    with pytest.raises(ValueError, match="do not fit"):
        reals.real_conv2d(normal(rng, 1, 4, 4, 8), reals.signs(normal(rng, 9, 8, 3)), (-3, -3))
    with pytest.raises(ValueError, match="do not fit"):
        reals.conv_gradient(normal(rng, 1, 2, 33, 8), reals.signs(normal(rng, 2, 33, 8)))  # two words a row


def test_nothing_is_written_into_a_read_only_array():
    rng = np.random.default_rng(0)
    b, x = reals.signs(rng.standard_normal((64, 32)).astype(np.float32)), np.ones((8, 64), np.float32)
    out = np.zeros((8, 32), np.float32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="writable"):
        reals.real_matmul(x, b, out=out)
    assert not out.any()
