"""`reproduce bench --gpu` end to end at tiny sizes with emulated kernels: record, table, report, errors."""

import dataclasses
import json
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from made import raising
from typer.testing import CliRunner

import kernels
from kernels import cuda
from kernels.backend import GPU
from kernels.bench import clock, timing
from kernels.bench import on_gpu as products
from kernels.cuda import launch, trial
from reproduce import spec
from reproduce.benchmarks import cells as nets
from reproduce.benchmarks import on_gpu as bench_gpu
from reproduce.cli import app as cli
from reproduce.records import machine, sealed
from reproduce.records.benchmark import Bench
from reproduce.report import evidence
from reproduce.report.sections import speed

READ = {"clocks.sm": 1900.0, "clocks.max.sm": 2000.0}


def run(*words):
    return CliRunner().invoke(cli.app, ["bench", *(str(word) for word in words)])


@pytest.fixture
def host(cp, monkeypatch):
    """Replaces everything else that needs CUDA (torch's part, clocks, the machine's name) by the host."""
    if launch.capability() != "90" or not isinstance(cp.empty(1), np.ndarray):
        pytest.skip("emulated only")
    real = machine.machine
    monkeypatch.setattr(machine, "machine", lambda device: real("cpu") | {"name": "a GPU on the host"})
    monkeypatch.setattr(bench_gpu, "missing", lambda: None)
    monkeypatch.setattr(products, "DEVICE", "cpu")
    monkeypatch.setattr(clock, "Events", lambda: timing.by_wall_clock)
    monkeypatch.setattr(clock, "waiting", timing.by_wall_clock)
    monkeypatch.setattr(clock, "readings", lambda: READ)
    monkeypatch.setattr(trial, "failures", lambda names: {})
    return cp


@pytest.mark.exhaustive
@pytest.mark.parametrize("cells", ["MNIST MLP", pytest.param("", marks=pytest.mark.slow)])
def test_a_run_gives_one_record_that_the_report_reads(tmp_path, host, monkeypatch, cells):
    monkeypatch.setattr(bench_gpu, "CELLS", {k: v for k, v in nets.CELLS.items() if k.startswith(cells)})
    done = run("--gpu", "--quick", "--to", tmp_path / "kernels", "--data", tmp_path)
    assert done.exit_code == 0, done.output
    (path,) = (tmp_path / "kernels").iterdir()
    record = json.loads(path.read_text())
    assert path.name.startswith("gpu-quick-") and record["kind"] == "gpu" and record["failed"] == []
    by_what = {}
    for row in record["rows"]:
        by_what.setdefault(row["what"], {})[row["candidate"]] = row
        assert 0 < row["fastest"] <= row["seconds"] <= row["slowest"] and row["readings"] == READ
    squares = [rows for what, rows in by_what.items() if what.startswith("product of")]
    forms = ("kernel alone", "to bits by thresholds", "with packing")
    every = {f"xnor {name}, {form}" for name in products.BACKENDS for form in forms}
    assert len(squares) == 2
    for rows in squares:
        assert set(rows) == {*every, products.NAIVE, *products.LIBRARY}
        against = rows["xnor cuda-wgmma, kernel alone"]["times_faster_than"][products.FP32]
        assert against["low"] <= against["ratio"] <= against["high"]
        naive = rows[products.NAIVE]
        assert naive["peak"] == 2 * 128 * 2e9 * launch.multiprocessors()
        assert naive["share_of_bound"] == pytest.approx(naive["operations_per_second"] / naive["peak"])
        assert rows["xnor cuda-xnor, kernel alone"]["bound"] == "popcount_peak"
        assert {row["clock"] for row in rows.values()} == {"events", "host"}
    packed = {f"packed {name}, end to end" for name in products.BACKENDS}
    for name in bench_gpu.CELLS:
        whats = [what for what in by_what if what.startswith(name)]
        assert len(whats) == 3
        for what in whats:
            want = packed | {bench_gpu.FP32, bench_gpu.TF32}
            assert set(by_what[what]) == (want if "from the host" in what else want | {bench_gpu.NAIVE})
            assert all(by_what[what][key]["differing"] == 0 for key in packed)
    assert any("naive" in note and "differ on 0 images" in note for note in record["notes"])
    assert "of its bound" in done.output and "GTX 750" in done.output
    assert set(record["bounds"]) == {"fp32_peak", "popcount_peak", "at_mhz"}
    record["quick"] = False
    del record["sha256"]
    store = tmp_path / "store"
    sealed.write_new(Bench.model_validate(record), store / "kernels")
    found = evidence.gather(store, spec.cells([]), name="store")
    (read,) = found.benches
    assert read.kind == "gpu" and len(read.rows) == len(record["rows"]) and not found.problems
    rows = speed.measured(found)
    families = dict(zip(rows["candidate"], rows["family"], strict=True))
    assert families[products.NAIVE] == families[bench_gpu.NAIVE] == "naive"
    assert families[products.FP32] == families["torch int8 (_int_mm)"] == "library"
    assert families["xnor cuda-bmma, with packing"] == families["packed cuda-xnor, end to end"] == "xnor"
    figure = speed.frame(found)
    ours = figure[figure["source"] == "ours"]
    assert {products.NAIVE, "xnor cuda-wgmma, kernel alone"} <= set(ours["candidate"])
    assert ours[ours["family"] == "xnor"]["times"].notna().all()


def only_products(monkeypatch):
    monkeypatch.setattr(products, "BACKENDS", ("cuda-bmma", "cuda-xnor"))
    return products.products(print, {}, quick=True)


@pytest.mark.exhaustive
def test_a_kernel_that_does_not_launch_is_named_and_the_rest_go_on(host, monkeypatch):
    real = cuda.CudaBackend.matmul_threshold

    def refuse(self, a, b, rule):
        if self.name == "cuda-bmma":
            raise RuntimeError("CUDA_ERROR_LAUNCH_FAILED: unspecified\nmore")
        return real(self, a, b, rule)

    monkeypatch.setattr(cuda.CudaBackend, "matmul_threshold", refuse)
    rows, failed = only_products(monkeypatch)
    assert {(f["candidate"], f["error"]) for f in failed} == {
        ("xnor cuda-bmma, to bits by thresholds", "RuntimeError: CUDA_ERROR_LAUNCH_FAILED: unspecified")
    }
    left = {row["candidate"] for row in rows}
    assert "xnor cuda-bmma, kernel alone" in left and "xnor cuda-xnor, to bits by thresholds" in left
    assert "xnor cuda-bmma, to bits by thresholds" not in left


@pytest.mark.parametrize("form", ["integers", pytest.param("bits", marks=pytest.mark.exhaustive)])
def test_a_candidate_with_wrong_results_gets_no_time(host, monkeypatch, form):
    name = {"integers": "matmul", "bits": "matmul_threshold"}[form]
    real = getattr(cuda.CudaBackend, name)

    def wrong(self, *operands):
        found = real(self, *operands)
        if self.name == "cuda-bmma":
            found[0, 0] ^= found.dtype.type(4)
        return found

    monkeypatch.setattr(cuda.CudaBackend, name, wrong)
    rows, failed = only_products(monkeypatch)
    said = {f["error"] for f in failed}
    assert len(said) == 2 and all(s.startswith("wrong results: 1 of ") and s.endswith(f" {form}") for s in said)
    lost = {f["candidate"] for f in failed}
    assert lost and not lost & {row["candidate"] for row in rows}
    assert any(row["candidate"] == "xnor cuda-xnor, kernel alone" for row in rows)


@pytest.mark.exhaustive
def test_a_backend_with_wrong_predictions_gets_no_time(host, monkeypatch):
    monkeypatch.setattr(products, "BACKENDS", ("cuda-bmma", "cuda-xnor"))
    real = cuda.CudaBackend.matmul

    def wrong(self, a, b, out):
        found = real(self, a, b, out)
        if self.name == "cuda-bmma":
            found[...] = 0
        return found

    monkeypatch.setattr(cuda.CudaBackend, "matmul", wrong)
    rows, _, failed = bench_gpu._net_rows("MNIST MLP", print, None, True, {"cuda-wgmma": "hangs"})
    assert {f["candidate"] for f in failed} == {"packed cuda-bmma, end to end"}
    assert all("wrong predictions" in f["error"] for f in failed)
    assert {"packed cuda-xnor, end to end", bench_gpu.NAIVE} <= {row["candidate"] for row in rows}


@pytest.mark.exhaustive
def test_backends_that_failed_earlier_trials_are_not_tried_again(tmp_path, host, monkeypatch):
    monkeypatch.setattr(bench_gpu, "CELLS", {})
    monkeypatch.setattr(trial, "failures", lambda names: pytest.fail("a trial"))
    (tmp_path / "broken.json").write_text('{"cuda-bmma": "hangs"}')
    done = run("--gpu", "--quick", "--to", tmp_path / "kernels", "--broken", tmp_path / "broken.json")
    assert done.exit_code == 0, done.output
    (path,) = (tmp_path / "kernels").iterdir()
    found = json.loads(path.read_text())
    assert {one["candidate"]: one["error"] for one in found["failed"]} == {"xnor cuda-bmma": "hangs"}
    assert not any("cuda-bmma" in row["candidate"] for row in found["rows"])


@pytest.mark.exhaustive
def test_a_backend_that_fails_its_trial_is_left_out_and_named(host, monkeypatch):
    monkeypatch.setattr(products, "BACKENDS", ("cuda-bmma", "cuda-xnor"))
    broken = {"cuda-bmma": "not done after 150 s", trial.PIXELS: "RuntimeError: pixels: 3 of 9 results are wrong"}
    rows, _, failed = bench_gpu._net_rows("MNIST MLP", print, None, True, broken)
    assert {f["candidate"]: f["error"] for f in failed} == {
        "packed cuda-bmma": "not done after 150 s",
        "packed cuda-xnor": broken[trial.PIXELS],
    }
    assert {row["candidate"] for row in rows} == {bench_gpu.FP32, bench_gpu.TF32, bench_gpu.NAIVE}


def test_the_naive_kernel_computes_every_product_of_a_net(host):
    """Two convolutions, a pooling and dense layers, against torch's own."""
    settings = nets.cell_settings("CIFAR-10 ConvNet", quick=True)
    _, plain = nets.random_net(settings)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    mode = bench_gpu.NaiveProducts()
    x = bench_gpu.floats(torch.from_numpy(images))
    with torch.no_grad():
        want = plain(x)
        with mode:
            found = plain(x)
    assert mode.products == 4 and not torch.equal(want, torch.zeros_like(want))
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


def test_without_a_compiler_fewer_results_are_compared_with_the_host(host, monkeypatch):
    net, _ = nets.random_net(nets.cell_settings("MNIST MLP", quick=True))
    images = np.random.default_rng(0).integers(0, 256, (7, 28, 28)).astype(np.uint8)
    there, want = host.asarray(images), net.predict(images)
    monkeypatch.setattr(bench_gpu, "HOST_IMAGES", 3)
    monkeypatch.setattr(bench_gpu, "has_compiler", lambda: False)
    found, words = bench_gpu._wanted(net, images, there, ["cuda-xnor"])
    assert np.array_equal(found, want) and "on 3 images (no compiler), cuda-xnor's on the rest" in words
    found, words = bench_gpu._wanted(net, images, there, [])
    assert np.array_equal(found, want[:3]) and words.endswith("on 3 images (no compiler)")


@pytest.mark.gpu
@pytest.mark.skipif(launch.no_gpu() is not None, reason="no GPU")
def test_a_tiny_run_on_a_gpu_fails_nowhere(tmp_path):
    done = run("--gpu", "--quick", "--to", tmp_path)
    assert done.exit_code == 0, done.output
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    there = {name for name, said in record["backends"].items() if "unav" not in said}
    usable = there & set(products.BACKENDS)
    assert record["failed"] == [] and usable
    packed = [row for row in record["rows"] if row["candidate"].startswith("packed")]
    assert len(packed) == 6 * len(usable) and all(row["differing"] == 0 for row in packed)


@pytest.mark.parametrize("name", [*products.BACKENDS, "cuda-naive", trial.PIXELS, trial.UPDATES])
def test_a_trial_compares_a_backend_with_the_host(cp, name):
    if name not in (trial.PIXELS, trial.UPDATES) and GPU[name].unavailable():
        pytest.skip("not on this GPU")
    trial.check(name, quick=True)


def test_a_trial_finds_what_is_wrong(host, monkeypatch):
    real = cuda.CudaBackend.matmul

    def wrong(self, a, b, out):
        found = real(self, a, b, out)
        found[-1, -1] += 2
        return found

    monkeypatch.setattr(cuda.CudaBackend, "matmul", wrong)
    with pytest.raises(RuntimeError, match=r"product of \(1, 1\) and \(1, 1\): 1 of 1 results are wrong"):
        trial.check("cuda-xnor", quick=True)
    monkeypatch.setattr(kernels.cuda.between.launch, "rows", lambda *_: None)
    with pytest.raises(RuntimeError, match="pixels"):
        trial.check(trial.PIXELS, quick=True)
    update = kernels.cuda.updates.update
    for wrong, said in (
        ({"beta1": 0.8}, "update_adam: .* results are wrong"),
        ({"multiplier": 1.1}, "update_adam: .* results are wrong"),
        ({"one": 0xBF80}, "update_adam, signs: "),
    ):

        def spoilt(entry, parts, _w=wrong, **named):
            of_all = {name: value for name, value in _w.items() if name in named}
            of_each = {name: value for name, value in _w.items() if name not in named}
            update(entry, [dataclasses.replace(part, **of_each) for part in parts], **named | of_all)

        monkeypatch.setattr(trial.updates, "update", spoilt)
        with pytest.raises(RuntimeError, match=said):
            trial.check(trial.UPDATES, quick=True)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("pass", None),
        ("import sys; print('a word'); print('RuntimeError: 3 of 9'); sys.exit(1)", "RuntimeError: 3 of 9"),
        ("import os; os._exit(7)", "ended with exit code 7"),
        ("import time; time.sleep(60)", "not done after 3 s: hangs, or is compiled very slowly"),
    ],
)
def test_a_trial_that_dies_or_hangs_is_reported_in_one_line(monkeypatch, code, found):
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **rest: real([sys.executable, "-c", code], **rest))
    limit = 3.0 if "sleep" in code else 60.0
    assert trial.failures(["cuda-xnor"], limit) == ({} if found is None else {"cuda-xnor": found})


@pytest.mark.skipif(launch.no_gpu() is None, reason="there is a GPU here")
def test_without_a_gpu_a_trial_says_so():
    (said,) = trial.failures(["cuda-xnor"], 60.0).values()
    assert said == launch.no_gpu()


def test_bounds_are_those_of_the_highest_clock(host, monkeypatch):
    multiprocessors = launch.multiprocessors()
    found = clock.bounds({"clocks.max.sm": 1980.0})
    assert found["fp32_peak"] == 256 * 1.98e9 * multiprocessors
    assert found["popcount_peak"] == 2048 * 1.98e9 * multiprocessors
    assert clock.bounds(None) == {"fp32_peak": None, "popcount_peak": None}
    monkeypatch.setattr(launch, "capability", lambda: "80")
    assert clock.bounds({"clocks.max.sm": 1410.0})["fp32_peak"] == 128 * 1.41e9 * multiprocessors


def test_clocks_are_read_if_the_driver_reports_them(cp, monkeypatch):
    monkeypatch.setattr(cp.cuda.runtime, "deviceGetPCIBusId", lambda _: "0000:01:00.0", raising=False)

    def ask(command, **_):
        assert command[0] == "nvidia-smi" and command[-2:] == ["-i", "0000:01:00.0"]
        return subprocess.CompletedProcess(command, 0, "1755, 1980, [N/A], 41, 310.25\n", "")

    monkeypatch.setattr(subprocess, "run", ask)
    assert clock.readings() == {
        "clocks.sm": 1755, "clocks.max.sm": 1980, "temperature.gpu": 41, "power.draw": 310.25
    }  # fmt: skip
    monkeypatch.setattr(subprocess, "run", raising(FileNotFoundError("nvidia-smi")))
    assert clock.readings() is None


def test_the_gpu_waits_until_all_calls_are_queued(monkeypatch):
    """Imitates torch.cuda's events and sleep with its own clock: a queue that a GPU works through."""
    calls, slept = [], []

    class Event:
        def __init__(self, enable_timing): ...

        def record(self):
            self.at = len(calls)

        def synchronize(self): ...

        def elapsed_time(self, other):
            return (other.at - self.at) * 2.0  # milliseconds a call

    def slow():
        calls.append(1)
        time.sleep(0.0005)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", slept.append)
    events = clock.Events()
    assert events(lambda: calls.append(1), 10) == pytest.approx(0.002) and len(slept) == 1
    assert events(slow, 4) == pytest.approx(0.002)
    assert len(slept) > 2 and slept[-1] > slept[0] * 4 / 11
    assert events.hold >= 0.0005


@pytest.mark.exhaustive
def test_finished_measurements_are_kept_if_later_ones_fail(tmp_path, host, monkeypatch):
    """A run killed in its second net keeps products and first net. After a failed net the next is timed."""
    monkeypatch.setattr(products, "BACKENDS", ("cuda-xnor",))

    class Killed(BaseException):
        pass

    def cut(name, *_):
        if name == "CIFAR-10 ConvNet":
            raise Killed
        return [], ["the first net"], []

    monkeypatch.setattr(bench_gpu, "_net_rows", cut)
    with pytest.raises(Killed):
        run("--gpu", "--quick", "--to", tmp_path / "killed").exit_code  # noqa: B018
    (path,) = (tmp_path / "killed").iterdir()
    record = json.loads(path.read_text())
    assert {row["what"] for row in record["rows"]} == {"product of 32×32 matrices", "product of 64×64 matrices"}
    assert record["notes"] == ["the first net", "cut off before: CIFAR-10 ConvNet"]

    def fail(name, *_):
        if name == "MNIST MLP":
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")
        return [], ["the second net"], []

    monkeypatch.setattr(bench_gpu, "_net_rows", fail)
    assert run("--gpu", "--quick", "--to", tmp_path / "failed").exit_code == 0
    (path,) = (tmp_path / "failed").iterdir()
    record = json.loads(path.read_text())
    (failed,) = record["failed"]
    assert failed["what"] == "MNIST MLP" and failed["error"].endswith("an illegal memory access was encountered")
    assert "the second net" in record["notes"] and not any("cut off" in note for note in record["notes"])
