"""Products in 16-bit fixed point: equal bit for bit to NumPy's integers, and close to float64."""

import numpy as np
import pytest
import torch
from layouts import panels_of

from kernels.cpu.step import fixed, ternary

SIZES = (
    (1, 1, 1, 1, 1),
    (2, 5, 7, 130, 70),
    (3, 8, 8, 21, 64),
    (1, 12, 33, 8, 9),
    (1, 5, 35, 200, 70),
    (2, 4, 4, 300, 129),
    (2, 3, 5, 16, 16),
    (1, 6, 9, 97, 45),
)
"""Images, height, width, channels summed over, channels of the result."""

pytestmark = pytest.mark.skipif(not ternary.available(), reason="no compiled kernels here")


def quantized(x, limit=fixed.LIMIT):
    """Integers (int64) and steps of rows x (rows, n) of a block, by the module's definition."""
    parts = np.zeros((8, len(x)), np.float32)
    for k in range(x.shape[1]):
        parts[k % 8] += np.abs(x[:, k])
    fours = parts[:4] + parts[4:]
    total = (fours[0] + fours[2]) + (fours[1] + fours[3])
    some = total >= np.float32(1e-25)
    limit, safe = np.float32(limit), np.where(some, total, np.float32(1))
    q = np.rint(x * np.where(some, limit / safe, np.float32(0))[:, None]).astype(np.int64)
    odd = q.sum(1) % 2 == 1
    q[odd, 0] ^= 1
    return q, np.where(some, safe / limit, np.float32(0)).astype(np.float32)


def places(height, width):
    """For each tap the slices (result, source) of an image that it connects."""
    for y in (-1, 0, 1):
        for x in (-1, 0, 1):
            yield (
                (slice(max(0, -y), height - max(0, y)), slice(max(0, -x), width - max(0, x))),
                (slice(max(0, y), height - max(0, -y)), slice(max(0, x), width - max(0, -x))),
            )


def matmul_by_definition(x, signs, scale):
    out = np.zeros((len(x), signs.shape[1]), np.float32)
    for b in range(0, x.shape[1], fixed.BLOCK):
        q, step = quantized(x[:, b : b + fixed.BLOCK])
        sums = (q @ signs[b : b + fixed.BLOCK].astype(np.int64)) // 2
        out += (np.float32(2 * scale) * step)[:, None] * sums.astype(np.float32)
    return out


def conv_by_definition(x, signs, scale):
    n, height, width, channels = x.shape
    out = np.zeros((n, height, width, signs.shape[2]), np.float32)
    for tap, (here, there) in enumerate(places(height, width)):
        for b in range(0, channels, fixed.BLOCK):
            block = x[..., b : b + fixed.BLOCK]
            q, step = quantized(block.reshape(-1, block.shape[3]))
            sums = (q @ signs[tap, b : b + block.shape[3]].astype(np.int64)) // 2
            factor = np.float32(2 * scale) * step
            part = (factor[:, None] * sums.astype(np.float32)).reshape(out.shape)
            out[:, *here] += part[:, *there]
    return out


def gradient_by_definition(g, a, scale):
    _, height, width, m = g.shape
    flat = g.reshape(-1, m).T
    out = np.zeros((m, 9, a.shape[3]), np.float32)
    for tap, (here, there) in enumerate(places(height, width)):
        shifted = np.zeros(a.shape, np.int64)
        shifted[:, *here] = a[:, *there]
        shifted = shifted.reshape(-1, a.shape[3])
        valid = (shifted[:, 0] != 0).astype(np.int64)
        rest = np.zeros(m, np.float32)
        for b in range(0, flat.shape[1], fixed.BLOCK):
            q, step = quantized(flat[:, b : b + fixed.BLOCK])
            factor = np.float32(2 * scale) * step
            sums, odd = q @ shifted[b : b + fixed.BLOCK], (q @ valid[b : b + fixed.BLOCK]) % 2
            out[:, tap] += factor[:, None] * ((sums + odd[:, None]) // 2).astype(np.float32)
            rest -= np.float32(0.5) * factor * odd.astype(np.float32)
        out[:, tap] += rest[:, None]
    return out.reshape(m, 3, 3, -1)


def conv64(x, signs):
    out = np.zeros((*x.shape[:3], signs.shape[2]))
    for tap, (here, there) in enumerate(places(*x.shape[1:3])):
        out[:, *here] += x[:, *there].astype(np.float64) @ signs[tap]
    return out


def gradient64(g, a):
    out = np.zeros((g.shape[3], 9, a.shape[3]))
    for tap, (here, there) in enumerate(places(*g.shape[1:3])):
        out[:, tap] = np.einsum("nyxm,nyxc->mc", g[:, *here].astype(np.float64), a[:, *there].astype(np.float64))
    return out.reshape(g.shape[3], 3, 3, -1)


def reals(rng, *shape):
    """Numbers like gradients: of very different sizes, many of them zero."""
    x = rng.standard_normal(shape) * np.exp(2 * rng.standard_normal(shape[-1])) * (rng.random(shape) < 0.7)
    return (x * np.float32(1e-4)).astype(np.float32)


def taps(rng, channels, n):
    """Signs (9, channels, n), and the panels that hold them."""
    filled = np.zeros((9, fixed.filled(channels), n), np.float32)
    filled[:] = rng.choice([-1, 1], filled.shape)
    return filled[:, :channels].astype(np.int8), panels_of(filled.reshape(-1, n))


def error(found, right):
    return np.sqrt(np.mean((found - right) ** 2) / np.mean(right**2))


@pytest.mark.parametrize("m", (1, 8, 131))
@pytest.mark.parametrize("k", (1, 9, 127, 129, 300))
def test_matmul_has_the_bits_of_its_definition(rng, isa, m, k):
    for n in (1, 64, 200):
        w = rng.standard_normal((k, n)).astype(np.float32)
        signs, panels = np.where(w >= 0, 1, -1), panels_of(w)
        for x in (reals(rng, m, k), reals(rng, k, m).T, reals(rng, 2 * m, 3 * k)[::-2, ::3]):
            np.testing.assert_array_equal(fixed.matmul(x, panels, 0.3), matmul_by_definition(x, signs, 0.3))


@pytest.mark.parametrize("m", (1, 9, 131))
@pytest.mark.parametrize("k", (1, 27, 128, 784))
def test_matmul_of_whole_numbers_is_exact(rng, isa, m, k):
    w = rng.standard_normal((k, 70)).astype(np.float32)
    x = rng.integers(-255, 256, (m, k)).astype(np.int16)
    x[0] = np.where(w[:, 3] >= 0, 255, -255)  # the largest sum
    for layout in (x, np.asfortranarray(x)):
        right = x.astype(int) @ np.where(w >= 0, 1, -1)
        np.testing.assert_array_equal(fixed.matmul(layout, panels_of(w)), right)
    x[0, 0] = 256
    with pytest.raises(ValueError, match="255"):
        fixed.matmul(x, panels_of(w))


@pytest.mark.parametrize("size", SIZES)
def test_conv_has_the_bits_of_its_definition(rng, isa, size):
    *shape, n = size
    signs, panels = taps(rng, shape[3], n)
    x = reals(rng, *shape)
    np.testing.assert_array_equal(fixed.conv(x, panels, 0.3), conv_by_definition(x, signs, 0.3))


@pytest.mark.parametrize("size", SIZES)
def test_gradient_has_the_bits_of_its_definition(rng, isa, size):
    images, height, width, m, n = size
    g = reals(rng, images, height, width, m)
    a = rng.choice(np.array([-1, 1], np.int8), (images, height, width, n))
    np.testing.assert_array_equal(fixed.conv_gradient(g, a, 0.3), gradient_by_definition(g, a, 0.3))


def test_torch_may_use_the_tiles_of_amx_in_between(rng, isa):
    """Both configure the tiles of a thread: PyTorch's products in bfloat16 use AMX where there is one."""
    signs, panels = taps(rng, 64, 64)
    x, square = reals(rng, 2, 9, 20, 64), torch.ones(256, 256, dtype=torch.bfloat16)
    wanted = conv_by_definition(x, signs, 0.3)
    for _ in range(3):
        assert (square @ square == 256).all()
        np.testing.assert_array_equal(fixed.conv(x, panels, 0.3), wanted)


def test_errors_are_as_documented(rng, isa):
    signs, panels = taps(rng, 256, 64)
    x = rng.standard_normal((2, 8, 8, 256)).astype(np.float32)
    assert 1e-4 < error(fixed.conv(x, panels), conv64(x, signs)) < 6e-4
    rows, w = x.reshape(128, 256), rng.standard_normal((256, 50)).astype(np.float32)
    assert 1e-4 < error(fixed.matmul(rows, panels_of(w)), rows @ np.where(w >= 0, 1.0, -1.0)) < 6e-4
    a = rng.choice(np.array([-1, 1], np.int8), (2, 8, 8, 64))
    assert 1e-4 < error(fixed.conv_gradient(x, a), gradient64(x, a)) < 6e-4


def test_a_block_with_a_single_nonzero_number(rng, isa):
    """A number whose integer is LIMIT, which does not fit into signed 16 bits."""
    x = np.zeros((1, 3, 3, 140), np.float32)
    x[0, 1, 1, 5], x[0, 0, 2, 139] = -7.5, 1e-3
    signs, panels = taps(rng, 140, 3)
    np.testing.assert_allclose(fixed.conv(x, panels), conv64(x, signs), rtol=1e-6)
    a = rng.choice(np.array([-1, 1], np.int8), (1, 3, 3, 5))
    np.testing.assert_allclose(fixed.conv_gradient(x, a), gradient64(x, a), rtol=1e-6)


@pytest.mark.parametrize("bad", (np.nan, np.inf, -np.inf))
def test_numbers_that_are_not_finite_stay_not_finite(rng, isa, bad):
    x = reals(rng, 1, 5, 5, 4)
    x[0, 0, 0, 1] = bad
    found = fixed.conv(x, taps(rng, 4, 2)[1])
    assert np.isnan(found[0, :2, :2]).all()
    assert np.isfinite(found[0, 2:]).all() and np.isfinite(found[0, :, 2:]).all()
    a = rng.choice(np.array([-1, 1], np.int8), (1, 5, 5, 3))
    found = fixed.conv_gradient(x, a)
    assert np.isnan(found[1]).all() and np.isfinite(found[[0, 2, 3]]).all()


def test_the_number_of_threads_changes_no_bit(rng, monkeypatch):
    x = reals(rng, 7, 9, 9, 150)
    panels = taps(rng, 150, 70)[1]
    a = rng.choice(np.array([-1, 1], np.int8), (7, 9, 9, 70))
    found = []
    for threads in ("1", "2", "3"):
        monkeypatch.setenv("KERNELS_THREADS", threads)
        rows, square = x.reshape(-1, 1350), panels_of(x.reshape(1350, -1))
        results = fixed.conv(x, panels), fixed.conv_gradient(x, a), fixed.matmul(rows, square)
        found.append(b"".join(result.tobytes() for result in results))
    assert len(set(found)) == 1
