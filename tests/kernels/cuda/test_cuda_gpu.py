"""Tests that need a GPU: python -m pytest -m gpu tests/kernels (which also runs test_cuda.py on it)."""

import numpy as np
import pytest
import torch

from kernels import Thresholds, pack, unpack, xnor_matmul, xnor_matmul_threshold
from kernels.backend import GPU
from kernels.bench import cublas
from kernels.cuda import launch
from kernels.cuda.arrays import to_gpu, to_host

pytestmark = pytest.mark.gpu
NAMES = ("cuda-naive", "cuda-xnor", "cuda-bmma", "cuda-wgmma")


@pytest.fixture(scope="module")
def cp():
    if reason := launch.no_gpu():
        pytest.skip(reason)
    return pytest.importorskip("cupy")


@pytest.fixture(params=NAMES)
def name(request, cp):
    if reason := GPU[request.param].unavailable():
        pytest.skip(reason)
    return request.param


@pytest.fixture(scope="module")
def large(cp):
    """Random ±1 operands, odd in every size, and their product in float64 on the GPU."""
    rng = np.random.default_rng(7)
    a, b = (rng.integers(0, 2, (rows, 8209), dtype=np.int8) * 2 - 1 for rows in (4099, 3001))
    there = [torch.from_numpy(x).cuda().double() for x in (a, b)]
    return a, b, (there[0] @ there[1].T).long().cpu().numpy()


def test_large_product(name, cp, large):
    a, b, want = large
    assert np.array_equal(xnor_matmul(cp.asarray(a), cp.asarray(b), name).get(), want)


def test_large_fused_product(name, cp, large):
    a, b, want = large
    rng = np.random.default_rng(8)
    rule = Thresholds(rng.integers(-100, 101, len(b)), rng.random(len(b)) < 0.5)
    bits = xnor_matmul_threshold(cp.asarray(a), cp.asarray(b), rule, name)
    assert np.array_equal(unpack(bits) > 0, rule.apply(want))


def test_every_element_is_written(name, cp, large):
    a, b, want = large
    out = cp.full(want.shape, 0x5A5A5A5A, cp.int32)
    xnor_matmul(cp.asarray(a), cp.asarray(b), name, out)
    assert np.array_equal(out.get(), want)


def test_results_are_the_same_each_time(name, cp, large):
    a, b = (pack(cp.asarray(x)) for x in large[:2])
    first = xnor_matmul(a, b, name).get()
    for _ in range(20):
        assert np.array_equal(xnor_matmul(a, b, name).get(), first)


def test_several_streams(name, cp, large):
    b = pack(cp.asarray(large[1][:700]))
    streams = [cp.cuda.Stream(non_blocking=True) for _ in range(4)]
    rows = [slice(i * 331, i * 331 + 331) for i in range(4)]
    results = []
    for _ in range(3):
        for stream, part in zip(streams, rows, strict=True):
            with stream:
                results.append((part, xnor_matmul(pack(cp.asarray(large[0][part])), b, name)))
    for stream in streams:
        stream.synchronize()
    for part, c in results:
        assert np.array_equal(c.get(), large[2][part, :700])


def test_a_chain_of_fused_products(name, cp):
    """Two layers whose data stay on the GPU, against the reference."""
    rng = np.random.default_rng(2)
    x, v, w = (rng.integers(0, 2, shape) * 2 - 1 for shape in ((301, 784), (500, 784), (10, 500)))
    rule = Thresholds(rng.integers(-20, 21, 500), rng.random(500) < 0.5)
    hidden = xnor_matmul_threshold(cp.asarray(x), cp.asarray(v), rule, name)
    want = np.where(rule.apply(x @ v.T), 1, -1) @ w.T
    assert np.array_equal(xnor_matmul(hidden, cp.asarray(w), name).get(), want)


@pytest.mark.parametrize(
    "kind", ["float64", "float32", "float16", "bfloat16", "int8", "int16", "int32", "int64", "bool"]
)
def test_torch_tensors(cp, kind):
    x = torch.randn(33, 1100)
    x[0, 0] = -0.0
    x = (x >= 0) if kind == "bool" else (x * 3).to(getattr(torch, kind))
    assert np.array_equal(to_host(pack(x.cuda())).words, pack(x).words)
    assert np.array_equal(to_host(pack(x.cuda().T)).words, pack(x.T).words)
    if x.is_floating_point():
        x[5, 1099] = float("nan")
        with pytest.raises(ValueError, match="NaN"):
            pack(x.cuda())


def test_torch_streams_are_waited_for(cp):
    x = torch.randn(4096, 4096, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        y = x * -1
        packed = pack(y)
    assert np.array_equal(to_host(packed).words, pack(y.cpu()).words)


def test_results_reach_torch(cp, name):
    a = to_gpu(pack(np.random.default_rng(0).standard_normal((65, 300))))
    c = torch.from_dlpack(xnor_matmul(a, a, name))
    assert c.device.type == "cuda" and torch.equal(c.diagonal().cpu(), torch.full((65,), 300, dtype=torch.int32))


@pytest.mark.parametrize("way", sorted(cublas.WAYS))
def test_library_products_of_signs_are_right(cp, way):
    rng = np.random.default_rng(1)
    a, b = (torch.from_numpy(rng.integers(0, 2, (64, 128)) * 2 - 1) for _ in range(2))
    left, right = cublas.operands(a.cuda(), b.cuda(), way)
    got = cublas.matmul(left, right, way)
    assert torch.equal(got.double().cpu(), (a @ b.T).double())
