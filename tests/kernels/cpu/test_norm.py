"""Batch norm, activation, dropout and pooling, forward and backward, against NumPy's float64 and bit for bit."""

import math

import numpy as np
import pytest
from twin import ap2

from kernels import cpu
from kernels.cpu.step import norm, ternary

ISAS = [isa for isa in cpu.isas() if isa != "numpy"]
SIZES = ((1, 1), (100, 70), (129, 130), (1000, 3))
SCALE, EPS = 2.0, 1e-4

pytestmark = pytest.mark.skipif(not ternary.available(), reason="no compiled kernels here")


def uniform(key, count):
    """The random numbers of csrc/norm_rows.h, in NumPy."""
    x = np.arange(count, dtype=np.uint64)
    low, high, full = np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32), np.uint64(0xFFFFFFFF)

    def shifted(x, by):
        return x ^ (x >> np.uint64(by))

    x = shifted(x ^ low, 17) * np.uint64(0xED5AD4BB) & full
    x = (shifted(x, 11) + high & full) * np.uint64(0xAC4C1B51) & full
    x = shifted(x, 15) * np.uint64(0x31848BAB) & full
    return shifted(x, 14)


class Case:
    """Random inputs of one pass, and their float64 results."""

    def __init__(self, rng, rows, cols, kind):
        y = rng.integers(-500, 500, (rows, cols))
        self.y = y.astype(kind)
        self.values = SCALE * y.astype(np.float64)
        self.gamma = rng.uniform(0.25, 2, cols).astype(np.float32)
        self.beta = rng.uniform(-0.5, 0.5, cols).astype(np.float32)
        self.grad = rng.standard_normal((rows, cols)).astype(np.float32)

    def passes(self, shift, activation, masked, drop):
        """All results of one forward and one backward pass, by name."""
        rows, cols = self.y.shape
        one = norm.Norm(rows, cols, activation, shift=shift, masked=masked, drop=drop)
        inv_std = 1 / np.sqrt(one.statistics(self.y, SCALE) + EPS)
        one.inverse[:] = norm.ap2(inv_std) if shift else inv_std
        one.curve[:] = one.inverse.astype(np.float64) ** 2 / rows
        out = np.empty((rows, cols), np.int8 if one.signed else np.float32)
        gamma = norm.ap2(self.gamma) if shift else self.gamma
        one.forward(self.y, SCALE, gamma, self.beta, out, noise=5 << 40 | 77, dropout=9 << 33 | 1)
        grad = self.grad.copy()
        sums = one.backward(self.y, SCALE, self.beta, grad, dropout=9 << 33 | 1)
        names = ("mean", "inv_std", "out", "grad", "to_gamma", "to_beta", "sum")
        return dict(zip(names, (one.mean.copy(), inv_std, out, grad, *sums), strict=True))

    def wanted(self, shift, activation, masked, drop):
        rows = len(self.y)
        mean = self.values.mean(0)
        c = self.values - mean
        near = ap2(c.astype(np.float32).astype(np.float64)) if shift else c
        inv_std = 1 / np.sqrt((c * near).mean(0) + EPS)
        gamma, beta = self.gamma.astype(np.float64), self.beta.astype(np.float64)
        if shift:
            gamma = ap2(gamma)
        inverse = ap2(inv_std) if shift else inv_std
        a = c * (gamma * inverse) + beta
        keep = (uniform(9 << 33 | 1, a.size).reshape(a.shape) >= round(drop * 2**32)) / (1 - drop)
        noise = (uniform(5 << 40 | 77, a.size) >> np.uint64(8)).reshape(a.shape) * 2.0**-23 - 1
        active = {
            None: a * keep,
            "relu": np.maximum(a, 0) * keep,
            "sign": np.where(a >= 0, 1, -1) * (keep > 0),
            "stochastic_sign": np.where(a >= noise, 1, -1) * (keep > 0),
        }[activation]
        edge = np.minimum(np.abs(a), np.abs(np.abs(a) - 1))  # where float32 may decide differently
        if activation == "stochastic_sign":
            edge = np.minimum(edge, np.abs(a - noise))
        g = self.grad * keep
        if activation == "relu":
            g = g * (a > 0)
        elif activation and masked:
            g = g * (np.abs(a) <= 1)
        hat = near * inverse
        to_gamma, to_beta = (g * hat).sum(0), g.sum(0)
        grad = (g - to_beta / rows - hat * to_gamma / rows) * (gamma * inverse)
        found = {"mean": mean, "inv_std": inv_std, "out": active, "grad": grad, "to_gamma": to_gamma}
        return found | {"to_beta": to_beta, "sum": grad.sum(0)}, edge


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shift", (False, True))
@pytest.mark.parametrize("kind", (np.int16, np.float32))
@pytest.mark.parametrize(
    ("activation", "masked", "drop"),
    [
        (None, False, 0.0),
        ("sign", True, 0.0),
        ("sign", True, 0.5),
        ("sign", False, 0.2),
        ("stochastic_sign", True, 0.0),
        ("relu", False, 0.0),
        ("relu", False, 0.25),
    ],
)
def test_passes_agree_with_float64(rng, size, shift, kind, activation, masked, drop):
    case = Case(rng, *size, kind)
    found = case.passes(shift, activation, masked, drop)
    wanted, edge = case.wanted(shift, activation, masked, drop)
    sure = (edge > 1e-5).all(0)  # columns in which rounding decided nothing
    assert sure.any()
    for name, tolerance in (("mean", 1e-4), ("inv_std", 1e-6), ("out", 1e-5), ("grad", 1e-5)):
        np.testing.assert_allclose(found[name][..., sure], wanted[name][..., sure], rtol=1e-4, atol=tolerance)
    for name in ("to_gamma", "to_beta", "sum"):
        np.testing.assert_allclose(found[name][sure], wanted[name][sure], rtol=1e-4, atol=1e-5 * size[0])


@pytest.mark.parametrize("activation", ("sign", "stochastic_sign", "relu"))
@pytest.mark.parametrize("shift", (False, True))
def test_bits_do_not_depend_on_threads_or_instruction_set(rng, activation, shift, monkeypatch):
    case = Case(rng, 300, 257, np.int16)
    results = []
    for isa in ISAS:
        for threads in ("1", "3"):
            monkeypatch.setenv("KERNELS_ISA", isa)
            monkeypatch.setenv("KERNELS_THREADS", threads)
            results.append(case.passes(shift, activation, True, 0.3))
    for other in results[1:]:
        for name, value in results[0].items():
            np.testing.assert_array_equal(value.view(np.uint8), other[name].view(np.uint8), err_msg=name)


def test_random_numbers_are_numpys(monkeypatch):
    key = 0x123456789ABCDEF0
    for isa in ISAS:
        monkeypatch.setenv("KERNELS_ISA", isa)
        np.testing.assert_array_equal(norm.numbers(key, 0, 1001), uniform(key, 1001))
        np.testing.assert_array_equal(norm.numbers(key, 11, 90), uniform(key, 1001)[11:101])


def test_random_numbers_are_even_and_their_streams_unrelated():
    count = 1 << 18
    streams = [norm.numbers(key, 0, count) for key in (i * 0x9E3779B97F4A7C15 % 2**64 for i in range(6))]
    for one in streams:
        shares = np.bincount(one >> np.uint32(24), minlength=256)
        assert ((shares - count / 256) ** 2 / (count / 256)).sum() < 255 + 5 * math.sqrt(2 * 255)
        follow = np.corrcoef(one[1:].astype(float), one[:-1].astype(float))[0, 1]
        assert abs(follow) < 5 / math.sqrt(count)
        for bit in range(32):
            assert abs((one >> np.uint32(bit) & 1).mean() - 0.5) < 2.5 / math.sqrt(count)
    for i, one in enumerate(streams):
        for other in streams[:i]:
            assert abs(np.corrcoef(one.astype(float), other.astype(float))[0, 1]) < 5 / math.sqrt(count)
            assert np.isin(one, other).mean() < 0.001


@pytest.mark.parametrize("kind", (np.int16, np.float32))
def test_pooling_takes_the_first_of_the_largest_and_its_gradient_goes_there(rng, kind):
    x = rng.integers(-3, 4, (3, 6, 4, 5)).astype(kind)
    out, which = np.empty((3, 3, 2, 5), kind), np.empty((3, 3, 2, 5), np.uint8)
    norm.pool(x, out, which)
    fours = x.reshape(3, 3, 2, 2, 2, 5).transpose(0, 1, 3, 5, 2, 4).reshape(3, 3, 2, 5, 4)
    np.testing.assert_array_equal(out, fours.max(-1))
    np.testing.assert_array_equal(which, fours.argmax(-1))
    grad, back = rng.standard_normal(out.shape).astype(np.float32), np.empty(x.shape, np.float32)
    norm.unpool(grad, which, back)
    wanted = np.zeros((3, 3, 2, 5, 4), np.float32)
    np.put_along_axis(wanted, which[..., None].astype(np.int64), grad[..., None], -1)
    found = back.reshape(3, 3, 2, 2, 2, 5).transpose(0, 1, 3, 5, 2, 4).reshape(3, 3, 2, 5, 4)
    np.testing.assert_array_equal(found, wanted)
