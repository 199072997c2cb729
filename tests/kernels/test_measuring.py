"""The benchmark's tools: interleaved timing, intervals of ratios, the naive kernel, the peaks."""

import numpy as np
import pytest

from kernels.bench import on_cpu as bench
from kernels.bench import timing
from kernels.cpu import build, runtime


def test_candidates_are_called_in_turns_after_a_warm_up():
    called = []
    calls = {name: lambda name=name: called.append(name) for name in "AB"}
    times = timing.interleave(calls, budget=0, least=12, most=12, floor=0)
    assert "".join(called[:4]) == "AABB"
    rounds = {"".join(called[i : i + 2]) for i in range(4, 28, 2)}
    assert len(called) == 28 and rounds == {"AB", "BA"}  # both in every round, neither always first
    assert set(times) == {"A", "B"} and all(len(t) == 12 and (t >= 0).all() for t in times.values())


def test_short_calls_are_repeated_to_fill_the_floor():
    calls = []
    timing.interleave({"A": lambda: calls.append(1)}, budget=0, least=2, most=2, floor=1e-3)
    assert len(calls) > 50


def test_rounds_end_with_the_budget_or_the_most():
    assert len(timing.interleave({"A": lambda: None}, budget=60, least=2, most=6, floor=0)["A"]) == 6


def test_a_candidate_that_fails_is_left_out_and_named():
    calls = {"A": 0, "B": 0}

    def sound():
        calls["A"] += 1

    def breaks():
        calls["B"] += 1
        if calls["B"] > 4:
            raise RuntimeError("launch failed\nat length")

    failed = {}
    found = timing.interleave({"A": sound, "B": breaks}, 0, 6, 6, 0.0, failed=failed)
    assert list(found) == ["A"] and len(found["A"]) == 6 and calls == {"A": 8, "B": 5}
    assert failed == {"B": "RuntimeError: launch failed"}
    calls["B"] = 0
    with pytest.raises(RuntimeError, match="launch failed"):
        timing.interleave({"A": sound, "B": breaks}, 0, 6, 6, 0.0)


def test_a_candidate_may_have_its_own_clock_and_few_repeats():
    turns = []

    def clock(call, repeats):
        turns.append(repeats)
        return 1e-6

    found = timing.interleave({"A": lambda: None}, 0, 2, 2, 1.0, {"A": clock}, 50)
    assert turns == [1, 1, 1, 50, 1, 50] and found["A"].tolist() == [1e-6] * 2


def test_a_long_call_needs_one_warm_up():
    turns = []

    def clock(call, repeats):
        turns.append(repeats)
        return 2.0

    timing.interleave({"A": lambda: None}, 0, 2, 2, 1.0, {"A": clock})
    assert turns == [1, 1, 1]


def test_ratio_of_medians_and_its_interval():
    rng = np.random.default_rng(1)
    noise = rng.normal(1, 0.05, 31)
    found = timing.ratio(6 * noise, 2 * noise)  # a disturbance of both does not change the ratio
    assert found == pytest.approx({"ratio": 3, "low": 3, "high": 3})
    wide = timing.ratio(6 * noise, 2 * rng.normal(1, 0.05, 31))
    assert 2.8 < wide["low"] < wide["ratio"] < wide["high"] < 3.2
    assert timing.ratio(np.array([8.0]), np.array([2.0, 2.0, 2.0])) == {"ratio": 4, "low": None, "high": None}


def test_an_unsteady_candidate_is_warned_about():
    times = {"A": np.array([1.0, 1.01, 1.02]), "B": np.array([1.0, 1.5, 2.0])}
    rows = [timing.row("a product", name, times, 100) for name in times]
    assert timing.warnings(rows) == ["a product, B: unsteady, 10th to 90th percentile 53 % of the median"]
    assert rows[0]["operations_per_second"] == pytest.approx(100 / 1.01)
    assert rows[1]["times_faster_than"]["A"]["ratio"] == pytest.approx(1.01 / 1.5)


@pytest.mark.parametrize("shape", [(16, 16, 16), (48, 32, 64), (0, 16, 16)])
def test_naive_kernel_is_a_product(shape):
    m, n, k = shape
    rng = np.random.default_rng(2)
    a, b = (rng.integers(-9, 10, s).astype(np.float32) for s in ((m, k), (k, n)))
    out = np.empty((m, n), np.float32)
    bench.naive(a, b, out)
    assert np.array_equal(out, a @ b)


@pytest.mark.timed
def test_peaks_are_above_all_measured_rates(monkeypatch):
    monkeypatch.setenv("KERNELS_THREADS", "1")  # as torch has here
    peak = bench.peak("fp32_peak")
    if peak is None:
        pytest.skip("no multiply-add known on this machine")
    torch = pytest.importorskip("torch")
    a, b = (torch.ones((1024, 1024)).to_mkldnn() for _ in range(2))
    times = timing.interleave({"product": lambda: torch.nn.functional.linear(a, b)}, 0.0, least=5, most=5)
    assert 0.2 * peak < 2 * 1024**3 / times["product"].min() < 1.1 * peak


def test_different_products_end_the_benchmark(monkeypatch):
    real = bench.kernels.xnor_matmul

    def wrong(a, b, backend="auto", out=None):
        out = real(a, b, backend, out=out)
        out[0, 0] += 2
        return out

    monkeypatch.setattr(bench.kernels, "xnor_matmul", wrong)
    with pytest.raises(RuntimeError, match="products of size 32 differ"):
        bench.products(lambda _: None, quick=True)


def test_without_a_compiler_the_rest_is_measured(monkeypatch):
    monkeypatch.setattr(runtime, "loaded", build.BuildError("none"))
    rows, notes = bench.products(lambda _: None, quick=True)
    assert {r["candidate"] for r in rows} >= {bench.KERNEL, bench.FP32} and bench.NAIVE not in str(rows)
    assert any(note.startswith("no compiler") for note in notes)
