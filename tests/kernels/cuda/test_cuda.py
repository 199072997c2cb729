"""The CUDA backends against integer arithmetic: on the host through the emulator, and with -m gpu on a GPU.

The emulated backends run the kernels' own sources (emulator.py), so the same tests serve both.
"""

import copy
import dataclasses
import pickle

import emulator
import numpy as np
import pytest
import torch
from sample import sample

import kernels
from kernels import (
    GpuPacked,
    Thresholds,
    border,
    cuda,
    pack,
    reference,
    to_gpu,
    to_host,
    unpack,
    xnor_conv2d,
    xnor_conv2d_threshold,
    xnor_matmul,
    xnor_matmul_threshold,
)
from kernels.backend import GPU, choose
from kernels.cuda import jobs, launch, tiles
from kernels.operands import Rows

NAMES = ("cuda-naive", "cuda-xnor", "cuda-bmma", "cuda-wgmma")
KS = sample([1, 31, 65, 256, 1000, 32, 33, 63, 64, 255, 257, 100003], 5)
AWKWARD = sample([(2, 257), (131, 1), (61, 67), (1, 1), (127, 129), (193, 255)], 2)


@pytest.fixture
def name(cuda_name):
    return cuda_name


def product(a, b):
    """a (M, K) by b (N, K) in float64, exact for these sizes."""
    return (a.astype(np.float64) @ b.T.astype(np.float64)).astype(np.int64)


def numpy(x):
    return np.array(x.get())


def random_rule(k, n, seed=0):
    rng = np.random.default_rng(seed)
    spread = int(2 * k**0.5) + 2
    return Thresholds(rng.integers(-spread, spread + 1, n), rng.random(n) < 0.5)


@pytest.mark.parametrize("k", KS)
def test_matmul_for_awkward_k(name, cp, signs, k):
    a, b = signs(7, k), signs(37, k, seed=1)
    c = xnor_matmul(cp.asarray(a), cp.asarray(b), name)
    assert c.dtype == np.int32
    assert np.array_equal(numpy(c), product(a, b))


@pytest.mark.parametrize(("m", "n"), AWKWARD)
def test_matmul_for_awkward_m_and_n(name, cp, signs, m, n):
    a, b = signs(m, 300), signs(n, 300, seed=1)
    assert np.array_equal(numpy(xnor_matmul(cp.asarray(a), cp.asarray(b), name)), product(a, b))


@pytest.mark.parametrize("k", sample([9217, 64, 5000]))
def test_extreme_products(name, cp, k):
    a = cp.asarray(np.stack([np.ones(k, np.int8), -np.ones(k, np.int8)]))
    assert numpy(xnor_matmul(a, a, name)).tolist() == [[k, -k], [-k, k]]


@pytest.mark.exhaustive
def test_many_tiles_and_stages(name, cp, signs):
    """Persistent blocks process several tiles, every pipeline wraps around, and L2 groups are incomplete."""
    m, n, k = {"cuda-wgmma": (600, 530, 4700), "cuda-naive": (40, 50, 600)}.get(name, (260, 300, 2600))
    a, b = signs(m, k), signs(n, k, seed=1)
    assert np.array_equal(numpy(xnor_matmul(cp.asarray(a), cp.asarray(b), name)), product(a, b))


@pytest.mark.parametrize(("m", "n"), [(0, 0), (0, 5), (5, 0)])
def test_no_rows(name, cp, signs, m, n):
    a, b = cp.asarray(signs(m, 70)), cp.asarray(signs(n, 70))
    assert xnor_matmul(a, b, name).shape == (m, n)
    if n:
        assert xnor_matmul_threshold(a, b, random_rule(70, n), name).shape == (m, n)


@pytest.mark.parametrize("k", sample([65, 1, 1000]))
@pytest.mark.parametrize(
    ("m", "n"), [(1, 1), (5, 31), (67, 129), pytest.param(131, 257, marks=pytest.mark.exhaustive)]
)
def test_fused_thresholds(name, cp, signs, m, n, k):
    a, b, rule = signs(m, k), signs(n, k, seed=1), random_rule(k, n)
    bits = xnor_matmul_threshold(cp.asarray(a), cp.asarray(b), rule, name)
    assert isinstance(bits, GpuPacked) and bits.shape == (m, n)
    assert np.array_equal(unpack(bits) > 0, rule.apply(product(a, b)))
    assert np.array_equal(to_host(bits).words, pack(np.where(rule.apply(product(a, b)), 1, -1)).words)
    assert not numpy(bits.words)[:, -(-n // 64) :].any()  # padding bits are zero for the next product


@pytest.mark.parametrize("edge", sample([0, 1, -1, -(2**31), 2**40, 2**31 - 1, -(2**62)], 5))
@pytest.mark.parametrize("below", [False, True])
def test_extreme_levels(name, cp, edge, below):
    k = 97
    a = np.stack([np.ones(k), -np.ones(k)]).astype(np.int8)
    levels = [edge, k, -k, k + 1, -k - 1]
    b = np.repeat(a[:1], len(levels), 0)
    rule = Thresholds(levels, [below] * len(levels))
    bits = xnor_matmul_threshold(cp.asarray(a), cp.asarray(b), rule, name)
    assert np.array_equal(unpack(bits) > 0, rule.apply(product(a, b)))


@pytest.mark.parametrize(
    ("channels", "cout", "taps", "padding", "stride"),
    sample(
        [
            (1, 5, 3, 1, 1),
            (70, 9, 3, 0, 2),
            (130, 33, 3, 1, 1),
            (130, 33, 3, 0, 2),
            (64, 130, 2, 2, 1),
            (3, 2, 1, 0, 1),
        ],
        2,
    ),
)
def test_conv2d(name, cp, signs, monkeypatch, channels, cout, taps, padding, stride):
    monkeypatch.setattr(jobs, "WINDOW_BYTES", 60_000)  # several rounds of windows
    x, w = signs(3, 5, 6, channels), signs(cout, taps, taps, channels, seed=1)
    nchw = (torch.from_numpy(array).double().permute(0, 3, 1, 2) for array in (x, w))
    want = torch.nn.functional.conv2d(*nchw, padding=padding, stride=stride).permute(0, 2, 3, 1).numpy()
    got = xnor_conv2d(cp.asarray(x), cp.asarray(w), padding, stride, name)
    assert got.dtype == np.int32 and np.array_equal(numpy(got), want)
    rule = random_rule(channels * taps**2, cout)
    bits = xnor_conv2d_threshold(cp.asarray(x), cp.asarray(w), rule, padding, stride, name)
    assert bits.shape == want.shape and np.array_equal(unpack(bits) > 0, rule.apply(want))


@pytest.mark.parametrize("kind", ["float64", "float32", "float16", "int8", "int16", "int32", "int64", "bool"])
@pytest.mark.parametrize("k", [1, 31, 64, 1000, 1025, 2049])
def test_pack(cp, kind, k):
    x = np.random.default_rng(k).standard_normal((5, k)) * 3
    x = (x > 0) if kind == "bool" else x.astype(kind)
    if x.dtype.kind == "f":
        x[0, 0], x[1, 0], x[2, 0], x[3, 0] = -0.0, 0.0, np.inf, -np.inf
        x[4, 0] = -np.finfo(x.dtype).smallest_subnormal
    packed = pack(cp.asarray(x))
    assert isinstance(packed, GpuPacked) and packed.shape == (5, k)
    assert np.array_equal(to_host(packed).words, pack(x).words)
    assert not numpy(packed.words)[:, -(-k // 64) :].any()


def test_pack_bfloat16(cp):
    """bfloat16 as torch stores it, as rows that CuPy reads."""
    x = torch.randn(4, 70)
    x[0, 0], x[1, 0] = -0.0, float("inf")
    raw = cp.asarray(x.bfloat16().view(torch.int16).numpy().view(np.uint16))
    rows = Rows(raw, "bfloat16")
    words = cuda.XNOR.pack(rows)
    assert np.array_equal(to_host(GpuPacked(words, 70)).words, pack(x).words)
    raw[3, 69] = 0x7FC0
    with pytest.raises(ValueError, match="NaN"):
        cuda.XNOR.pack(rows)


@pytest.mark.parametrize("kind", ["float64", "float32", "float16"])
@pytest.mark.parametrize("at", [(0, 0), (2, 1099), (1, 1023)])
def test_nan_is_refused(cp, kind, at):
    x = np.ones((3, 1100), kind)
    x[at] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        pack(cp.asarray(x))


def test_leading_axes_and_views(cp, signs):
    x = signs(4, 3, 140)
    assert np.array_equal(unpack(pack(cp.asarray(x)[::2, :, ::-2])), x[::2, :, ::-2])


def test_packed_arrays_move(cp, signs):
    host = pack(signs(3, 5, 70))
    there = to_gpu(host)
    assert isinstance(there, GpuPacked) and there.shape == host.shape and to_gpu(there) is there
    assert np.array_equal(to_host(there).words, host.words) and to_host(host) is host
    assert np.array_equal(pickle.loads(pickle.dumps(there)).words.get(), there.words.get())


def test_mixed_places_are_refused(cp, signs):
    host, there = pack(signs(3, 70)), pack(cp.asarray(signs(3, 70)))
    for operands in ((host, there), (there, host)):
        with pytest.raises(TypeError, match="GPU"):
            xnor_matmul(*operands)
    with pytest.raises(TypeError, match="takes arrays on the host"):
        xnor_matmul(there, there, "cpu")
    with pytest.raises(TypeError, match="takes arrays on a GPU"):
        xnor_matmul(host, host, "cuda-xnor")
    with pytest.raises(TypeError, match="takes arrays on a GPU"):
        pack(signs(3, 70), "cuda-xnor")


@pytest.mark.skipif(launch.no_gpu() is None, reason="there is a GPU here")
def test_without_a_gpu_each_backend_says_why(monkeypatch, signs):
    said = kernels.backends()
    assert all(said[name].startswith("unavailable: ") for name in NAMES)
    with pytest.raises(RuntimeError, match="'cuda-bmma' is unavailable: "):
        kernels.describe("cuda-bmma")
    monkeypatch.setattr(kernels.cuda.arrays, "on_gpu", lambda x: True)  # e.g. a torch CUDA tensor without CuPy
    with pytest.raises(RuntimeError, match="no backend for arrays on a GPU: cuda-wgmma: "):
        pack(signs(3, 70))


def test_auto_is_the_best_that_runs(cp, signs):
    a = cp.asarray(signs(3, 70))
    best = next(name for name in reversed(NAMES) if GPU[name].unavailable() is None)
    assert choose("auto", True) is GPU[best]
    assert np.array_equal(numpy(xnor_matmul(a, a)), product(signs(3, 70), signs(3, 70)))


def test_out_is_written(name, cp, signs):
    a, b = signs(5, 70), signs(6, 70, seed=1)
    out = cp.empty((5, 6), cp.int32)
    assert xnor_matmul(cp.asarray(a), cp.asarray(b), name, out) is out
    assert np.array_equal(numpy(out), product(a, b))
    for wrong in (cp.empty((6, 5), cp.int32), cp.empty((5, 6), cp.float32), np.empty((5, 6), np.int32)):
        with pytest.raises(ValueError, match="out"):
            xnor_matmul(cp.asarray(a), cp.asarray(b), name, wrong)


def test_out_need_not_be_aligned(name, cp, signs):
    a, b = signs(5, 70), signs(6, 70, seed=1)
    out = cp.empty(31, cp.int32)[1:].reshape(5, 6)
    xnor_matmul(cp.asarray(a), cp.asarray(b), name, out)
    assert np.array_equal(numpy(out), product(a, b))


def test_wrong_arrays_are_refused(cp, signs):
    with pytest.raises(TypeError, match="uint8"):
        pack(cp.asarray(signs(3, 70).astype(np.uint8)))
    with pytest.raises(ValueError, match="K"):
        pack(cp.asarray(np.empty((3, 0), np.float32)))
    with pytest.raises(ValueError, match="scalar"):
        pack(cp.asarray(np.float32(1)))
    with pytest.raises(TypeError, match="CuPy uint64"):
        GpuPacked(np.zeros((3, 2), np.uint64), 70)
    with pytest.raises(ValueError, match="contiguous words"):
        GpuPacked(cp.asarray(np.zeros((3, 3), np.uint64)), 70)


def test_the_naive_product_is_a_float_product(cp):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((35, 50)).astype(np.float32), rng.standard_normal((50, 19)).astype(np.float32)
    assert np.allclose(numpy(cuda.naive_product(cp.asarray(a), cp.asarray(b))), a @ b, atol=1e-4)
    with pytest.raises(ValueError, match="float32"):
        cuda.naive_product(cp.asarray(a), cp.asarray(a))


def test_levels_are_clipped_and_a_k_of_2_to_the_30_is_refused():
    assert jobs.levels(Thresholds([2**40, -(2**40)], [True, False]), 5)[0].tolist() == [7, -6]
    with pytest.raises(ValueError, match=r"2\^30"):
        jobs.levels(Thresholds([0]), 2**30)


def test_naive_refuses_sizes_that_floats_do_not_hold_exactly(cp):
    a = GpuPacked(cp.asarray(np.zeros((1, 2**18), np.uint64)), 2**24)
    with pytest.raises(ValueError, match="exact"):
        xnor_matmul(a, a, "cuda-naive")


VARIANTS = [
    ("cuda-wgmma", tiles.wgmma(consumers=1)),
    ("cuda-wgmma", tiles.wgmma(stages=3)),
    ("cuda-bmma", tiles.bmma(tile_n=128, warp_n=32)),
    ("cuda-bmma", tiles.bmma(tile_m=256, tile_n=128)),
    ("cuda-bmma", tiles.bmma(tile_k=128, stages=2)),
    ("cuda-xnor", tiles.xnor(tile_m=32, stages=4)),
    ("cuda-xnor", tiles.xnor(tile_k=32, stages=4)),
]


@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "kernel"), VARIANTS)
def test_other_sizes_of_tiles(cp, signs, name, kernel):
    """Other tile sizes, as a user may try them."""
    if reason := GPU[name].unavailable():
        pytest.skip(reason)
    backend = dataclasses.replace(GPU[name], kernel=kernel)
    a, b, rule = signs(300, 4700), signs(270, 4700, seed=1), random_rule(4700, 270)
    operands = pack(cp.asarray(a)), pack(cp.asarray(b))
    assert np.array_equal(numpy(backend.matmul(*operands, None)), product(a, b))
    bits = GpuPacked(backend.matmul_threshold(*operands, rule), 270)
    assert np.array_equal(unpack(bits) > 0, rule.apply(product(a, b)))


PLANTED = [
    ("bmma", "copy_wait<STAGES - 2>()", "copy_wait<STAGES - 1>()"),
    ("bmma", "row * TILE_K / 128 &", "row * TILE_K / 64 &"),
    ("bmma", "lane / 16 * 8 + lane % 8", "lane % 16"),
    ("xnor", "__syncthreads();", ""),
    ("xnor", "copy_wait<STAGES - 2>()", "copy_wait<STAGES - 1>()"),
    ("wgmma", "multiply_wait<1>();", "multiply_wait<2>();"),
    ("wgmma", "step > 0 || k > 0", "true"),
    ("wgmma", "phase ^ 1)", "phase)"),
    ("wgmma", "u64(1024 >> 4)", "u64(512 >> 4)"),
]


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [pytest.param(*error, marks=pytest.mark.exhaustive, id=error[1][:24]) for error in PLANTED],
)
def test_the_emulator_detects_errors(emulated, monkeypatch, signs, name, right, wrong):
    """It detects a missing wait or barrier, bank conflicts, and a wrong fragment, phase or descriptor."""
    found = GPU[f"cuda-{name}"]
    spoilt = copy.copy(found.kernel)
    assert right in spoilt.source
    object.__setattr__(spoilt, "source", spoilt.source.replace(right, wrong))
    a, b = signs(300, 4700), signs(270, 4700, seed=1)
    with emulator.installed(emulated, monkeypatch) as cp:
        backend = dataclasses.replace(found, kernel=spoilt)
        try:
            c = backend.matmul(pack(cp.asarray(a)), pack(cp.asarray(b)), None)
        except AssertionError:
            return
        assert not np.array_equal(numpy(c), product(a, b))


@pytest.mark.parametrize("form", [True, False])
def test_counts_plus_bases_are_the_products(form):
    """The identity of src/common.cuh, with the border of a convolution, by brute force."""
    rng = np.random.default_rng(3)
    x, w = pack(rng.integers(0, 2, (1, 4, 5, 70)) * 2 - 1), pack(rng.integers(0, 2, (3, 3, 3, 70)) * 2 - 1)
    start, row, column = border.starts(w, (4, 5), 1, 1)
    image = np.pad(x.words, ((0, 0), (1, 1), (1, 1), (0, 0)))
    want = reference.conv2d(x, w, 1, 1)
    for y, z in np.ndindex(4, 5):
        a = image[0, y : y + 3, z : z + 3]
        for unit in range(3):
            base, both = start[row[y], column[z], unit], np.bitwise_count(a & w.words[unit]).sum(dtype=int)
            ones = [np.bitwise_count(side).sum(dtype=int) for side in (a, w.words[unit])]
            xor = np.bitwise_count(a ^ w.words[unit]).sum(dtype=int)
            dot = base - 2 * ones[1] - 2 * ones[0] + 4 * both if form else base - 2 * xor
            assert dot == want[0, y, z, unit]


@pytest.mark.parametrize(
    ("offered", "wanted"),
    [
        (("80", "86", "89", "90", "90a"), {"80": "80", "87": "86", "90": "90", "75": None}),
        (("90a",), {"90": "90a", "100": None}),
        (("80", "100", "120"), {"103": "100", "121": "120", "90": None}),
    ],
)
def test_machine_code_is_chosen_only_for_gpus_that_run_it(offered, wanted):
    assert {capability: launch.best_target(offered, capability) for capability in wanted} == wanted
