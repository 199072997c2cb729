"""Runs trained in parallel by several processes: each once, as if in series; no process outlives the command."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from made import made_cell, made_record, raising, without_times
from test_campaign import command, experiments

from reproduce import spec
from reproduce.campaign import estimate, parallel, probe, worker
from reproduce.campaign.wanted import runs_wanted
from reproduce.datasets import fetch
from reproduce.records import runs

SCRIPT = Path(__file__).parents[1] / "side_by_side.py"


@pytest.fixture
def folder(tmp_path, data_folder):
    """Experiments and data in the layout that the script expects."""
    experiments(tmp_path / "experiments", epochs=2)
    return tmp_path


def start(folder, store, *words, **environment):
    words = ("run", "--scale", "small", "--device", "cpu", "--results", str(store), *words)
    program = [sys.executable, str(SCRIPT), str(folder), *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    own = {"env": os.environ | environment, "start_new_session": True}
    return subprocess.Popen(program, cwd=folder, **own, **pipes)


def content(store):
    """The content of the records, except for times."""
    return {path.name: without_times(path) for path in (store / "runs").glob("*.json")}


@pytest.mark.exhaustive
def test_three_parallel_jobs_train_every_run_once_with_the_results_of_serial_training(folder, monkeypatch):
    """On an ASCII terminal, for which each of the processes writes the row's umlaut in another way."""
    path = folder / "experiments" / "table1" / "made.yaml"
    path.write_text(path.read_text().replace("BNN (Theano)", "Gr\\u00f6\\u00dfe"))
    words = ["--seeds", "7", "--threads", "1"]
    three = start(folder, folder / "three", *words, "--jobs", "3", PYTHONIOENCODING="ascii")
    out, error = three.communicate(timeout=200)
    assert three.returncode == 0 and "UnicodeEncodeError" not in out + error, error
    begun = [line for line in out.splitlines() if "seed" in line and "%" not in line and "another" not in line]
    assert sum("test error" in line and "already" not in line for line in out.splitlines()) == 7
    assert len(begun) == 7 and any(line.startswith(("(2) ", "(3) ")) for line in begun)
    assert all("Gr\\xf6\\xdfe" in line for line in begun), out
    given = ["run", "--scale", "small", "--device", "cpu", "--data", str(folder / "data")]
    assert command(monkeypatch, folder, *given, "--results", str(folder / "one"), *words) == 0
    assert content(folder / "three") == content(folder / "one") and len(content(folder / "one")) == 7
    assert not list((folder / "three" / "work").glob("*.ckpt"))


def alive(group):
    """The running processes of a group, without zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of = stat.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += [stat.parent.name] if int(of) == group and state != "Z" else []
    return found


@pytest.mark.exhaustive
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, signal.SIGINT, signal.SIGKILL],
)
def test_no_process_outlives_the_command(folder, number):
    experiments(folder / "experiments", epochs=100000)
    process = start(folder, folder / "s", "--seeds", "4", "--jobs", "2")
    line = ""
    while "(2) [" not in line:
        line = process.stdout.readline()
        if not line or "did not start" in line or "epoch" in line:
            process.kill()
            pytest.fail(f"no run beside the first: {line}{process.stderr.read()}")
    group = os.getpgid(process.pid)
    began = time.monotonic()
    os.killpg(group, number) if number == signal.SIGINT else process.send_signal(number)
    process.communicate(timeout=30)
    while alive(group):
        assert time.monotonic() - began < 30  # else they go on for hours
        time.sleep(0.05)
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}[number]


def test_a_run_that_failed_in_another_process_is_not_trained_again(tmp_path, data_folder):
    cell = made_cell(train={"epochs": 1})
    store = runs.Store(tmp_path / "s")
    store.prepare()
    run = runs.Run(cell, "small", 0, cell.scales["small"], fetch.load("mnist", data_folder))
    other = FileLock(store.lock(run), thread_local=False)
    other.acquire()

    def say(line):
        if "another process" in line:
            store.write(
                made_record(run, status="failed", result=None, curve=[], failure="not finite after epoch 1")
            )
            other.release()

    plan = runs_wanted([cell], "small", [0], print)
    summary = worker.carry_out(plan, store, data_folder, torch.device("cpu"), say, bar=False)
    assert summary.trained == 0 and summary.records == []
    assert [r.failure for r in summary.failed] == ["not finite after epoch 1"]
    again = worker.carry_out(plan, store, data_folder, torch.device("cpu"), say, bar=False)
    assert again.trained == 1  # if asked for again, it is tried again


def test_a_run_that_failed_elsewhere_before_its_turn_came_is_not_trained_again(tmp_path, data_folder):
    cell = made_cell(train={"epochs": 1})
    store = runs.Store(tmp_path / "s")
    second = runs.Run(cell, "small", 1, cell.scales["small"], fetch.load("mnist", data_folder))
    plan = runs_wanted([cell], "small", [0, 1], print)

    def say(line):
        if line.startswith("[1/2]"):
            store.write(made_record(second, status="failed", result=None, curve=[], failure="not finite"))

    summary = worker.carry_out(plan, store, data_folder, torch.device("cpu"), say, bar=False)
    assert summary.trained == 1 and [r.seed for r in summary.failed] == [1]
    again = worker.carry_out(plan, store, data_folder, torch.device("cpu"), print, bar=False)
    assert again.trained == 1 and not again.failed  # an earlier failure is tried again


@pytest.mark.parametrize(
    ("count", "threads", "device", "each"),
    [
        (1, None, "cpu", None),
        (2, None, "cpu", 4),
        (3, None, "cpu", 2),
        (9, None, "cpu", 1),
        (2, 3, "cpu", 3),
        (2, None, "cuda", None),
        (2, 1, "cuda", 1),
    ],
)
def test_cores_are_divided_among_jobs(monkeypatch, count, threads, device, each):
    monkeypatch.setattr(parallel, "thread_count", lambda: 8)
    assert parallel.threads_each(count, threads, device) == each


@pytest.mark.parametrize(
    ("count", "cores", "torchs", "threads", "free", "device", "found"),
    [
        (10, 8, 8, None, 1e12, "cpu", 8),
        (3, 8, 8, None, 1e12, "cpu", 3),
        (10, 8, 4, None, 1e12, "cpu", 4),  # OMP_NUM_THREADS=4
        (10, 8, 8, 3, 1e12, "cpu", 2),
        (10, 8, 8, 9, 1e12, "cpu", 1),
        (10, 8, 8, None, 3.5e9, "cpu", 3),  # a process takes 1 GB and a little more
        (10, 8, 8, None, 1e6, "cpu", 1),
        (10, 8, 8, None, 1e12, "cuda", 1),
    ],
)
def test_as_many_runs_at_once_as_cores_and_memory_allow(
    monkeypatch, count, cores, torchs, threads, free, device, found
):
    monkeypatch.setattr(parallel, "thread_count", lambda: cores)
    monkeypatch.setattr(parallel, "cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: torchs)
    monkeypatch.setattr(parallel, "_free_memory", lambda: free)
    plan = runs_wanted([made_cell()], "small", list(range(count)), print)
    assert parallel.at_once(plan, threads, device) == found


def test_memory_is_estimated_by_weights_and_images(tmp_path):
    wide = parallel._memory(spec.cells(["table1/bnn-theano-mnist"])[0].scales["paper"])
    weights = 784 * 4096 + 2 * 4096**2 + 4096 * 10
    assert wide == parallel.PROCESS + 20 * weights + 6 * 70_000 * 784
    whitened = spec.cells(["table1/float-cifar10"])[0].scales["paper"]  # three copies in float32
    net = sum(layer.weights for layer in whitened.layers())
    assert parallel._memory(whitened) == parallel.PROCESS + 20 * net + 14 * 60_000 * 3072
    told = tmp_path / "meminfo"
    told.write_text("MemTotal:       24576000 kB\nMemAvailable:   12288000 kB\n")
    assert parallel._free_memory(told) == 12288000 * 1024
    assert 0 < parallel._free_memory(tmp_path / "none") < 1e15


@pytest.mark.parametrize(("quota", "threads"), [(1.5, 2), (None, 3)])
def test_torchs_threads_are_no_more_than_a_cpu_quota_allows(monkeypatch, quota, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr("kernels.environment.own_quota", lambda: quota)
    monkeypatch.delenv("KERNELS_THREADS", raising=False)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        parallel.use_threads(None)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.exhaustive
def test_plan_times_several_jobs_in_parallel(tmp_path, data_folder, monkeypatch, capsys):
    monkeypatch.setattr(probe, "SECONDS", 0.2)
    plan = runs_wanted([made_cell(train={"epochs": 3})], "small", [0, 1], print)
    cpu, before = torch.device("cpu"), torch.get_num_threads()
    (one,) = estimate.estimates(plan, runs.Store(tmp_path / "s"), data_folder, cpu, print, 2, 1)
    assert one.jobs == 2 and one.at_once > 0 and torch.get_num_threads() == before
    assert one.gain == pytest.approx(2 * one.step / one.at_once)
    assert one.remaining == one.whole == pytest.approx(one.epoch * 6 / one.gain)
    estimate.show([one], cpu)
    out = " ".join(capsys.readouterr().out.split())
    assert "2 at once" in out and "ms each" in out
    estimate.show([dataclasses.replace(one, name="ablations/a-long-name/and-its-arm")], cpu)
    assert "…" not in capsys.readouterr().out, "names are never cut: arms differ only at the end"


def test_plan_says_if_that_many_jobs_cannot_run(monkeypatch, capsys):
    monkeypatch.setattr(estimate.parallel, "beside", raising(EOFError()))
    told = []
    cell = made_cell()
    assert estimate._at_once(cell.scales["small"], torch.device("cpu"), 3, 1, told.append) is None
    assert "3 processes at once do not run here" in told[0]


def test_failing_storage_in_another_process_is_one_line(tmp_path, capsys):
    store = tmp_path / "file"
    store.write_text("no folder")
    plan = runs_wanted([made_cell()], "small", [0], print)
    with pytest.raises(SystemExit) as stop:
        parallel.train(None, 2, plan, store, None, "cpu", None, None, None, 2)
    out = capsys.readouterr().out
    assert stop.value.code == 1 and out.startswith("(2) ") and out.count("\n") == 1 and str(store) in out
