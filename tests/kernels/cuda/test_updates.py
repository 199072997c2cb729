"""Update rules against NumPy in float64: in C, in float32, the CUDA source on the host and (-m gpu) on a GPU."""

import re

import numpy as np
import pytest
import torch
from emulator import installed
from twin import ap2

from kernels import Rule, reals, updates
from kernels.cuda import launch, tiles
from kernels.cuda import updates as cuda_updates

RATE, BETA1, BETA2, EPS = 0.03, 0.9, 0.999, {"adam": 1e-8, "shift_adamax": 2.0**-27}


def in_float64(rule, w, m, v, g, bound, rate=RATE):
    w, m, v, g = (array.astype(np.float64) for array in (w, m, v, g))
    m = BETA1 * m + (1 - BETA1) * g
    if rule == "adam":
        v = BETA2 * v + (1 - BETA2) * g * g
        under = np.sqrt(v) + EPS[rule]
    else:
        v = under = ap2(np.maximum(BETA2 * v, np.abs(g))) + EPS[rule]
    return np.clip(w - rate * m / under, -bound, bound), m, v


@pytest.fixture(params=["c", "numpy", "cuda on the host", pytest.param("cuda", marks=pytest.mark.gpu)])
def run(request, emulated, monkeypatch):
    if request.param == "c":
        if not reals.available():
            pytest.skip("no AVX-512 here")
        yield lambda rule, *arrays, bound: updates.update(
            Rule(rule, BETA1, BETA2, EPS[rule], RATE, bound), *arrays
        )
    elif request.param == "numpy":
        yield lambda rule, *arrays, bound: updates.update(
            Rule(rule, BETA1, BETA2, EPS[rule], RATE, bound), *arrays, backend="reference"
        )
    elif request.param == "cuda":
        if reason := launch.no_gpu():
            pytest.skip(reason)
        yield launched(pytest.importorskip("cupy"))
    else:
        with installed(emulated, monkeypatch) as cupy:
            yield launched(cupy)


STEPS = 9.0
BASE = {  # the common rate with which the rate of step STEPS is RATE
    "adam": RATE * (1 - BETA1**STEPS) / np.sqrt(1 - BETA2**STEPS),
    "shift_adamax": 2.0**-6 * (1 - BETA1**STEPS),
}
MULTIPLIER = {"adam": 1.0, "shift_adamax": RATE * 2.0**6}


def launched(cupy):
    """The CUDA source through CuPy or its replacement."""

    def run(rule, *arrays, bound):
        there = [cupy.asarray(array) for array in arrays]
        addresses = [array.data.ptr for array in there]
        step(cupy, rule, [cuda_updates.Part(*addresses, arrays[0].size, MULTIPLIER[rule], bound)])
        for array, moved in zip(arrays[:3], there, strict=False):
            array[...] = moved.get()

    return run


def step(cupy, rule, parts, steps=STEPS, base=None):
    """A launch on parts whose rate is RATE, unless said otherwise."""
    clock, rate = cupy.asarray(np.array(steps)), cupy.asarray(np.array(BASE[rule] if base is None else base))
    cuda_updates.update(
        f"update_{rule}", parts, clock=clock.data.ptr, rate=rate.data.ptr, beta1=BETA1, beta2=BETA2, eps=EPS[rule]
    )


@pytest.mark.parametrize("size", [1, 15, 16, 17, 4099, 70001])
@pytest.mark.parametrize("bound", [1.0, np.inf])
@pytest.mark.parametrize("rule", ["adam", "shift_adamax"])
def test_a_step_is_the_float64_one(run, rule, bound, size):
    rng = np.random.default_rng(size)
    w, g, m = (rng.standard_normal(size).astype(np.float32) * s for s in (0.9, 1e-3, 1e-3))
    v = np.abs(rng.standard_normal(size).astype(np.float32)) * (1e-6 if rule == "adam" else 1e-3)
    g[::7] = m[::7] = v[::7] = 0
    wanted = in_float64(rule, w, m, v, g, bound)
    run(rule, w, m, v, g, bound=bound)
    if rule == "shift_adamax":  # where AP2's argument is close to sqrt(2) 2^n, both powers are right
        near = np.abs(v / wanted[2] - 1) > 0.4
        assert near.mean() < 1e-3
        w, m, v, wanted = w[~near], m[~near], v[~near], [array[~near] for array in wanted]
    for found, want, rounding in zip((w, m, v), wanted, (3e-7, 1e-9, 1e-9), strict=True):
        np.testing.assert_allclose(found, want, rtol=3e-6, atol=rounding)
    assert np.abs(w).max() <= bound


@pytest.mark.parametrize("rule", ["adam", "shift_adamax"])
def test_nan_and_infinity_are_not_hidden_by_the_clipping(run, rule):
    w, m, v, g = np.zeros((4, 40), np.float32)
    g[3], g[20], w[30] = np.nan, np.inf, np.nan
    run(rule, w, m, v, g, bound=1.0)
    assert np.flatnonzero(np.isnan(w)).tolist() == [3, 20, 30]


@pytest.mark.parametrize(("kind", "one"), [(torch.bfloat16, 0x3F80), (torch.float16, 0x3C00)])
@pytest.mark.parametrize("rule", ["adam", "shift_adamax"])
def test_signs_of_the_new_weights_are_written_too(cp, rule, kind, one):
    """Signs of weights that change sign in the step, of zeros of both signs, and of NaN."""
    rng = np.random.default_rng(5)
    w, g = (rng.uniform(-0.02, 0.02, 1003).astype(np.float32) for _ in range(2))
    w[:2], g[:2], w[2] = (0.0, -0.0), 0.0, np.nan
    there = [cp.asarray(a) for a in (w, np.zeros_like(w), np.zeros_like(w), g)]
    signs = cp.asarray(np.zeros(1004, np.uint16))
    addresses = [a.data.ptr for a in there]
    part = cuda_updates.Part(*addresses, w.size, 10 * MULTIPLIER[rule], 1.0, signs.data.ptr, one)
    step(cp, rule, [part])
    new, found = there[0].get(), torch.from_numpy(signs.get().view(np.int16)).view(kind).float().numpy()
    assert (np.sign(new) != np.sign(w)).sum() > 10
    assert np.array_equal(found[:-1], np.where(new >= 0, 1.0, -1.0)) and found[-1] == 0


@pytest.mark.parametrize("steps", [1.0, 2.0, 1000.0])
@pytest.mark.parametrize("rule", ["adam", "shift_adamax"])
def test_many_tensors_in_one_step_each_with_its_own_rate_and_bound(cp, rule, steps):
    """More tensors than a launch takes, also empty ones, single elements and partial chunks; against float64."""
    rng = np.random.default_rng(int(steps))
    chunk, most = tiles.UPDATES["CHUNK"], tiles.UPDATES["MOST_PARTS"]
    sizes = [chunk + 1, 1, 0, chunk, 3 * chunk - 7, *([5] * most)]
    given, parts, there = [], [], []
    for i, size in enumerate(sizes):
        w, g, m = (rng.uniform(-1, 1, size).astype(np.float32) * s for s in (0.9, 1e-3, 1e-3))
        v = np.abs(rng.uniform(-1, 1, size)).astype(np.float32) * np.float32(1e-6 if rule == "adam" else 1e-3)
        given.append((w, m, v, g))
        there.append([cp.asarray(array) for array in given[-1]])
        addresses = [array.data.ptr for array in there[-1]]
        parts.append(cuda_updates.Part(*addresses, size, 1.0 + i, 0.5 if i % 2 else np.inf))
    step(cp, rule, parts, steps, 0.003)
    if rule == "adam":
        common = 0.003 * np.sqrt(1 - BETA2**steps) / (1 - BETA1**steps)
    else:
        common = float(ap2(0.003 / (1 - BETA1**steps)))
    for part, arrays, (w, m, v, _) in zip(parts, given, there, strict=True):
        wanted = in_float64(rule, *arrays, part.bound, common * part.multiplier)
        near = np.zeros(part.count, bool) if rule == "adam" else np.abs(v.get() / wanted[2] - 1) > 0.4
        assert near.sum() <= 1  # near sqrt(2) 2^n both powers are right
        for found, want, rounding in zip((w, m, v), wanted, (3e-7, 1e-9, 1e-9), strict=True):
            np.testing.assert_allclose(found.get()[~near], want[~near], rtol=3e-6, atol=rounding)


def test_the_largest_argument_is_one_that_cuda_takes():
    """4 KiB, as of CUDA 12 on every GPU; its fields are of eight bytes each."""
    source = tiles.UPDATES.source
    part = re.search(r"struct Part \{(.*?)\};", source, re.S)[1].count(";")
    whole = re.search(r"struct Update \{(.*?)\};", source, re.S)[1].count(";")
    assert 8 * (whole - 1 + part * tiles.UPDATES["MOST_PARTS"]) <= 4096


def test_operands_that_do_not_fit_are_refused():
    a = np.zeros(8, np.float32)
    rule = Rule("adam", 0.9, 0.9, 1.0, 1.0, 1.0)
    for wrong in (a[:7], a.astype(np.float64), np.zeros(16, np.float32)[::2]):
        with pytest.raises(ValueError, match="dense float32"):
            updates.update(rule, a, a, a, wrong)


@pytest.mark.parametrize("which", range(3))
def test_read_only_parameters_are_refused(which):
    arrays = [np.ones(10, np.float32) for _ in range(4)]
    arrays[which].flags.writeable = False
    with pytest.raises(ValueError, match="writable"):
        updates.update(Rule("adam", 0.9, 0.99, 1e-8, 0.1, 1.0), *arrays)
    assert all((array == 1).all() for array in arrays)
