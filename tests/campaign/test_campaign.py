"""Campaigns end to end on made images: skip, resume, missing data, failures, the command line."""

import json
import re
import shlex
import shutil
import time
import traceback

import numpy as np
import pytest
import safetensors.torch
import torch
from filelock import FileLock
from made import change, made_cell, made_record, raising, settings
from sample import sample

from kernels.cpu import build, runtime
from reproduce import outcomes, spec, yamlfile
from reproduce.campaign import estimate, parallel, probe, small_check, worker
from reproduce.campaign.progress import Progress, cost
from reproduce.campaign.wanted import auto_scale, runs_wanted, share
from reproduce.cli import app as cli
from reproduce.cli import run as run_command
from reproduce.datasets import DATASETS, data, fetch
from reproduce.nets import products
from reproduce.records import machine, read_record, read_records, runs
from reproduce.report import rows
from reproduce.terminal import duration, seconds_of
from reproduce.training import checkpoint as checkpoint_file
from reproduce.training import preprocess, train

CPU = torch.device("cpu")


def go(store, folder, cells, seeds=(0,), said=None):
    plan = runs_wanted(cells, "small", list(seeds), (said or []).append)
    say = (said if said is not None else []).append
    return worker.carry_out(plan, runs.Store(store), folder, CPU, say, bar=False)


def test_runs_are_recorded_and_skipped_the_next_time(tmp_path, data_folder):
    cell = made_cell(train={"epochs": 2})
    first = go(tmp_path / "s", data_folder, [cell], seeds=(0, 1))
    assert first.trained == 2 and len(first.records) == 2
    record = first.records[0]
    assert record.result.test_images == 200 and len(record.curve) == 2
    assert record.data.digest == DATASETS["mnist"].digest
    said = []
    again = go(tmp_path / "s", data_folder, [cell], seeds=(0, 1, 2), said=said)
    assert again.trained == 1 and len(again.records) == 3
    assert sum("already finished" in line for line in said) == 2
    store = runs.Store(tmp_path / "s")
    assert not list((store.root / "work").glob("*.ckpt"))
    net = safetensors.torch.load_file(store.net(record.stem))
    assert net["blocks.0.layer.weight"].shape == (32, 784)


def test_a_record_holds_the_best_and_the_last_epoch(tmp_path, data_folder, monkeypatch):
    wrong = {"valid": [20, 5, 9, 9], "test": [30, 11, 7, 12]}  # images in each epoch; the second is best

    def evaluate(self, split):
        missed = torch.zeros(self.scored(split), dtype=torch.bool)
        missed[: wrong[split][len(self.curve)]] = True
        return missed, 0.5

    monkeypatch.setattr(train.Classifier, "evaluate", evaluate)
    (record,) = go(tmp_path, data_folder, [made_cell(train={"epochs": 4})]).records
    found, images = record.result, record.result.test_images
    assert (found.best_epoch, found.valid_error) == (2, 100 * 5 / found.valid_images)
    assert (found.test_error, found.last_test_error) == (100 * 11 / images, 100 * 12 / images)
    for text, count in ((found.wrong_best, 11), (found.wrong_last, 12)):
        assert np.flatnonzero(outcomes.unpack(text, images)).tolist() == list(range(count))


def test_a_run_that_another_process_trains_is_postponed_and_not_trained_twice(tmp_path, data_folder):
    cell = made_cell(train={"epochs": 1})
    store = runs.Store(tmp_path / "s")
    store.prepare()
    dataset = fetch.load("mnist", data_folder)
    first = runs.Run(cell, "small", 0, cell.scales["small"], dataset)
    other = FileLock(store.lock(first), thread_local=False)
    other.acquire()
    said = []

    def say(line):
        said.append(line)
        if "seed 1" in line and other.is_locked:  # the other process ends while this one trains seed 1
            store.write(made_record(first))
            other.release()

    plan = runs_wanted([cell], "small", [0, 1], say)
    summary = worker.carry_out(plan, store, data_folder, CPU, say, bar=False)
    assert summary.trained == 1 and sorted(r.seed for r in summary.records) == [0, 1]
    assert "another process" in said[0] and "already finished" in said[-1]
    assert len(list(store.runs.glob("*.json"))) == 2


def test_after_waiting_for_another_process_no_epoch_is_begun_beyond_the_time_limit(tmp_path, data_folder):
    plan = runs_wanted([made_cell(train={"epochs": 2})], "small", [0], print)
    store = runs.Store(tmp_path / "s")

    def call(say):
        return worker.carry_out(plan, store, data_folder, CPU, say, bar=False, deadline=time.monotonic())

    assert call(print).stopped.endswith("seed 0 stands at epoch 1 of 2")
    (item,) = plan
    run = runs.Run(item.cell, item.scale, item.seed, item.settings, fetch.load("mnist", data_folder))
    other = FileLock(store.lock(run), thread_local=False)
    other.acquire()
    summary = call(lambda line: other.release() if "checked again at the end" in line else None)
    assert summary.trained == 0 and summary.stopped.endswith("seed 0 stands at epoch 1 of 2")


def test_a_record_names_every_call_that_trained_its_run(tmp_path, data_folder, monkeypatch):
    def in_calls(store, *calls):
        plan = runs_wanted([made_cell(train={"epochs": len(calls)})], "small", [0], print)
        for dirty, name, *threads in calls:
            call = {"revision": "r", "dirty": dirty, "name": name, "threads": (threads or [1])[0]}
            monkeypatch.setattr(machine, "call", lambda _, call=call: call)
            words = runs.Store(store), data_folder, CPU, print
            found = worker.carry_out(plan, *words, bar=False, deadline=time.monotonic())
        (record,) = found.records
        assert runs.Store(store).finished(runs.Run(plan[0].cell, "small", 0, plan[0].settings, whole)) == record
        return record

    whole = fetch.load("mnist", data_folder)
    code = {"revision": "r", "dirty": False, "source": "s" * 64, "device": "cpu", "mode": "torch", "threads": [1]}
    monkeypatch.setattr(machine, "code", lambda _: code)
    monkeypatch.setattr(machine, "source_digest", lambda _: "s" * 64)
    one = in_calls(tmp_path / "one", (False, "here"), (False, "here"))
    assert one.code["dirty"] is False and "calls" not in one.machine
    two = in_calls(tmp_path / "two", (True, "here"), (False, "here"), (False, "there"))
    assert two.code["dirty"] is True
    told = [(call["dirty"], call["name"]) for call in two.machine["calls"]]
    assert told == [(True, "here"), (False, "here"), (False, "there")]
    assert one.code["threads"] == two.code["threads"] == [1]
    three = in_calls(tmp_path / "three", (False, "here", 2), (False, "here", 1))
    assert three.code["threads"] == [1, 2] and not may_be_pooled(three, one)


def may_be_pooled(*records):
    return len(rows.apart(records)) == 1


def test_a_damaged_record_does_not_count_and_its_run_is_trained_again(tmp_path, data_folder):
    cell = made_cell(train={"epochs": 1})
    go(tmp_path, data_folder, [cell])
    (path,) = (tmp_path / "runs").iterdir()
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    assert go(tmp_path, data_folder, [cell]).trained == 1
    assert read_record(path).seed == 0


def test_settings_that_do_not_fit_their_data_do_not_end_the_campaign(tmp_path, data_folder, monkeypatch, capsys):
    steps = [{"step": "range", "low": 0, "high": 1}, {"step": "center"}, {"step": "standardize"}]
    odd = {"data": {"train": 1, "valid": 1, "test": 1, "preprocess": steps}, "train": {"batch": 1}}
    experiments(tmp_path / "experiments")
    experiments(tmp_path / "experiments", group="another", **odd)
    words = ["run", "--scale", "small", "--results", str(tmp_path / "r"), "--data", str(data_folder)]
    assert command(monkeypatch, tmp_path, *words) == 2
    out = capsys.readouterr()
    assert "not run: another/made: data.preprocess: standardize: " in out.out and "Traceback" not in out.err
    assert [p.name[:6] for p in (tmp_path / "r" / "runs").iterdir()] == ["table1"]


def test_cells_with_other_preprocessing_do_not_share_prepared_images(tmp_path, data_folder):
    def cell(step):
        steps = [{"step": "range", "low": 0, "high": 1}, {"step": step}]
        return made_cell(f"table1/{step}", train={"epochs": 1}, data={"preprocess": steps})

    def plain(records):
        return [(r.cell, r.weights_sha256, r.curve[0].train_loss, r.curve[0].valid_loss) for r in records]

    cells = [cell("center"), cell("standardize")]
    alone = [record for each in cells for record in go(tmp_path / each.name, data_folder, [each]).records]
    together = go(tmp_path / "together", data_folder, cells).records
    assert plain(together) == plain(alone) and len(together) == 2
    assert plain(alone)[0][1:] != plain(alone)[1][1:]


def test_files_that_the_final_table_needs_are_read_before_training(tmp_path, data_folder, monkeypatch, capsys):
    experiments(tmp_path / "experiments")
    bad = tmp_path / "experiments" / "short" / "bad.yaml"
    bad.parent.mkdir()
    bad.write_text("row: [")
    words = ["run", "table1", "--scale", "small", "--results", str(tmp_path / "r"), "--data", str(data_folder)]
    assert command(monkeypatch, tmp_path, *words, "short/bad") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "bad.yaml" in error and not (tmp_path / "r").exists()
    assert command(monkeypatch, tmp_path, *words, "--plan") == 0  # the broken file is not among those asked for


def test_missing_data_is_one_line_for_each_data_set_and_the_other_cells_run(tmp_path, data_folder, monkeypatch):
    change(monkeypatch, "cifar10", sources=[raising(OSError("unreachable"))])
    from made import convnet_settings

    content = convnet_settings(train={"epochs": 1})
    other = made_cell("table1/other")
    other = other.model_copy(update={"scales": {"small": content}})
    another = other.model_copy(update={"name": "table1/another"})
    said = []
    summary = go(tmp_path, data_folder, [other, another, made_cell(train={"epochs": 1})], said=said)
    assert summary.trained == 1 and set(summary.missing) == {"table1/other", "table1/another"}
    assert "reproduce data cifar10" in summary.missing["table1/other"]
    (line,) = (line for line in said if "not run" in line)
    assert line.startswith("not run for lack of data set cifar10: 2 cells: ")


SHORT = {
    "Python": MemoryError(),
    "NumPy": np._core._exceptions._ArrayMemoryError((2**40,), np.dtype(float)),
    "a GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
}


@pytest.mark.parametrize("of", sample(SHORT))
def test_a_run_without_enough_memory_does_not_end_the_others(tmp_path, data_folder, monkeypatch, of):
    fit, cell = train.fit, made_cell(train={"epochs": 1})

    def sometimes(settings, parts, seed, *more, **rest):
        if seed == 0:
            raise SHORT[of]
        return fit(settings, parts, seed, *more, **rest)

    said = []
    with monkeypatch.context() as patch:
        patch.setattr(train, "fit", sometimes)
        summary = go(tmp_path, data_folder, [cell], seeds=(0, 1), said=said)
    assert summary.trained == 1 and [r.seed for r in summary.records] == [1] and not summary.failed
    assert list(summary.not_made) == ["BNN (Theano), MNIST, small scale, seed 0"]
    assert sum("not enough memory" in line for line in said) == 1
    assert go(tmp_path, data_folder, [cell], seeds=(0, 1)).trained == 1


def test_torchs_out_of_memory_is_distinguished_from_other_errors(tmp_path, data_folder, monkeypatch):
    """A tensor of 8 EiB: torch's message on this machine is recognised; another RuntimeError is not hidden."""

    def asks(*_, **__):
        torch.empty(2**60)

    cell = made_cell(train={"epochs": 1})
    with monkeypatch.context() as patch:
        patch.setattr(train, "fit", asks)
        assert len(go(tmp_path, data_folder, [cell]).not_made) == 1
        patch.setattr(train, "fit", lambda *_, **__: torch.zeros(2) @ torch.zeros(3))
        with pytest.raises(RuntimeError, match="size"):
            go(tmp_path, data_folder, [cell])


def test_run_reports_a_lack_of_memory_in_one_line_and_exit_code_1(tmp_path, data_folder, monkeypatch, capsys):
    experiments(tmp_path / "experiments")
    monkeypatch.setattr(train, "fit", raising(MemoryError()))
    words = ["run", "--scale", "small", "--results", str(tmp_path / "mine"), "--data", str(data_folder)]
    assert command(monkeypatch, tmp_path, *words) == 1
    assert "seed 0: not enough memory: MemoryError; the same command tries again" in capsys.readouterr().out


def test_a_diverged_run_is_recorded_as_failed_and_tried_again(tmp_path, data_folder, monkeypatch):
    cell = made_cell(train={"epochs": 1})
    with monkeypatch.context() as patch:
        patch.setattr(train, "fit", raising(train.Diverged(1, "the training loss")))
        summary = go(tmp_path, data_folder, [cell])
    assert summary.records == [] and summary.failed[0].failure == "the training loss is not finite after epoch 1"
    (written,), problems = read_records(tmp_path / "runs")
    assert written.status == "failed" and not problems
    assert go(tmp_path, data_folder, [cell]).trained == 1


def test_shards_cover_the_plan_once():
    plan = runs_wanted([made_cell()], "small", list(range(7)), print)
    parts = [share(plan, f"{i}/3") for i in (1, 2, 3)]
    assert sorted(item.seed for part in parts for item in part) == list(range(7))
    assert [len(part) for part in parts] == [3, 2, 2]
    for bad in ("0/3", "4/3", "1", "a/b", "-1/2", "1/0"):
        with pytest.raises(ValueError, match="--shard takes"):
            share(plan, bad)


def test_a_time_limit_stops_between_epochs_and_runs_and_a_later_call_finishes(tmp_path, data_folder):
    cell = made_cell(train={"epochs": 2})
    plan = runs_wanted([cell], "small", [0, 1], print)
    whole = worker.carry_out(plan, runs.Store(tmp_path / "whole"), data_folder, CPU, print, bar=False)
    store = runs.Store(tmp_path / "pieces")

    def call(deadline):
        return worker.carry_out(plan, store, data_folder, CPU, print, bar=False, deadline=deadline)

    first = call(time.monotonic())
    assert first.records == [] and first.stopped.endswith("seed 0 stands at epoch 1 of 2")
    second = call(time.monotonic())  # the run's last epoch is trained, the next run is not begun
    assert second.trained == 1 and second.stopped.endswith("seed 1 not begun")
    assert not list((store.root / "work").glob("*.ckpt"))
    third = call(time.monotonic() + 1000)
    assert third.trained == 1 and third.stopped is None
    for one, other in zip(whole.records, third.records, strict=True):
        assert one.result == other.result and one.key == other.key
        assert [row.train_loss for row in one.curve] == [row.train_loss for row in other.curve]


def test_a_time_limit_ends_the_wait_for_another_process(tmp_path, data_folder):
    cell = made_cell(train={"epochs": 1})
    store = runs.Store(tmp_path / "s")
    store.prepare()
    run = runs.Run(cell, "small", 0, cell.scales["small"], fetch.load("mnist", data_folder))
    plan = runs_wanted([cell], "small", [0], print)
    with FileLock(store.lock(run), thread_local=False):
        deadline = time.monotonic() + 0.2
        summary = worker.carry_out(plan, store, data_folder, CPU, print, bar=False, deadline=deadline)
    assert summary.records == [] and summary.stopped.startswith("another process is still training")


def test_the_written_forms_of_time_limits():
    read = {text: seconds_of(text) for text in ("90s", "9m", "2h", "1h30m", "1h0m5s")}
    assert read == {"90s": 90, "9m": 540, "2h": 7200, "1h30m": 5400, "1h0m5s": 3605}
    for bad in ("", "9", "9x", "m", "0s", "-9m", "1.5h", "30m1h", "9 m"):
        with pytest.raises(ValueError, match="--time-limit takes"):
            seconds_of(bad)


def test_time_left_follows_the_costs():
    progress = Progress([100.0, 300.0], print)
    assert "not known" in progress.left()
    progress.started -= 10
    progress.finish()
    progress.position = 1
    assert progress.left() == "about 30 s left of all"
    assert progress.left(0.5) == "about 6 s left of the run, 6 s left of all"
    assert [duration(s) for s in (5, 200, 7500)] == ["5 s", "3 min 20 s", "2 h 05 min"]


def test_time_left_with_two_processes_and_a_run_that_failed():
    progress = Progress([100.0, 300.0], print, jobs=2)
    progress.started -= 10
    progress.finish(0.1)
    progress.position = 1
    assert progress.left() == "about 2 min 30 s left of all"  # 1 s a multiply-add, shared by two


def test_time_left_of_a_resumed_run_counts_the_epochs_of_this_call_only():
    progress = Progress([100.0, 50.0], print)
    module = train.Classifier.__new__(train.Classifier)
    module.settings, module.curve = settings(train={"epochs": 8}), [{}] * 4  # half was trained earlier
    progress.on_train_start(None, module)
    progress.started -= 10
    assert progress.left(6 / 8) == "about 10 s left of the run, 30 s left of all"
    progress.finish()
    progress.position = 1
    assert progress.left() == "about 10 s left of all"


def test_cost_grows_with_epochs_images_and_net():
    base = cost(settings())
    assert cost(settings(train={"epochs": 6})) == 2 * base
    assert cost(settings(data={"train": 1200})) > base
    assert cost(settings(net={"hidden": [512, 512]})) > base


def experiments(folder, epochs=1, group="table1", **over):
    path = folder / group / "made.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"row": "BNN (Theano)", "dataset": "MNIST", "follows": "a test", "scale": "small"}
    content |= settings(**yamlfile.merged({"train": {"epochs": epochs}}, over)).model_dump(mode="json")
    path.write_text(json.dumps(content))
    return folder


def command(monkeypatch, tmp_path, *words):
    monkeypatch.setattr(spec.cells, "__defaults__", (None, tmp_path / "experiments"))
    monkeypatch.setattr("sys.argv", ["reproduce", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


def test_run_command_writes_the_users_own_table(tmp_path, data_folder, monkeypatch, capsys):
    experiments(tmp_path / "experiments")
    store = tmp_path / "mine"
    words = ["run", "table1", "--scale", "small", "--results", str(store), "--data", str(data_folder)]
    assert command(monkeypatch, tmp_path, *words) == 0
    out = capsys.readouterr().out
    assert "[1/1] BNN (Theano), MNIST, small scale, seed 0" in out
    assert (store / "report" / "table1.csv").read_text().startswith("row,dataset,paper,scale,seeds,mean,low,high,")
    assert command(monkeypatch, tmp_path, *words) == 0
    assert "already finished" in capsys.readouterr().out


def test_the_command_printed_at_the_end_shows_the_page_with_the_users_own_cell(
    tmp_path, data_folder, monkeypatch, capsys
):
    def called(*words):
        monkeypatch.setattr("sys.argv", ["reproduce", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code

    file = experiments(tmp_path / "own files", group="mine") / "mine" / "made.yaml"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    words = ["--scale", "small", "--results", "../store", "--data", str(data_folder)]
    assert called("run", str(file), *words) == 0
    said = re.search(r"the whole page: reproduce (.*) --open", capsys.readouterr().out)[1]
    assert called(*shlex.split(said)) == 0
    assert "reproduce run mine/made" in (tmp_path / "store" / "report" / "index.html").read_text()


def test_threads_of_a_run_do_not_depend_on_what_is_finished(tmp_path, data_folder, monkeypatch):
    experiments(tmp_path / "experiments")
    counted = []
    monkeypatch.setattr(parallel, "at_once", lambda plan, *_: counted.append(len(plan)) or 1)
    words = ["run", "--scale", "small", "--results", str(tmp_path / "mine"), "--data", str(data_folder)]
    assert command(monkeypatch, tmp_path, *words, "--seeds", "1") == 0
    assert command(monkeypatch, tmp_path, *words, "--seeds", "2") == 0  # one of the two is finished
    assert counted == [1, 2]


def test_run_with_a_time_limit_ends_with_code_75_and_says_how_to_resume(
    tmp_path, data_folder, monkeypatch, capsys
):
    experiments(tmp_path / "experiments", epochs=3)
    store = tmp_path / "mine"
    words = ["run", "--scale", "small", "--seeds", "2", "--results", str(store), "--data", str(data_folder)]
    with monkeypatch.context() as patch:
        patch.setattr(run_command, "seconds_of", lambda _: 0.0)  # the limit is over at the start
        assert command(monkeypatch, tmp_path, *words, "--time-limit", "1s") == 75
    error = capsys.readouterr().err
    assert "2 of 2 run(s) left" in error and "stands at epoch 1 of 3; the same command resumes" in error
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(store, elsewhere)
    words[words.index(str(store))] = str(elsewhere)
    assert command(monkeypatch, tmp_path, *words) == 0
    assert len(list((elsewhere / "runs").glob("*.json"))) == 2


def test_plan_prints_time_and_memory_and_trains_nothing(tmp_path, data_folder, monkeypatch, capsys):
    experiments(tmp_path / "experiments", epochs=3)
    monkeypatch.setattr(probe, "SECONDS", 0.0)
    store = tmp_path / "mine"
    words = ["run", "--scale", "small", "--seeds", "3", "--results", str(store), "--data", str(data_folder)]
    assert command(monkeypatch, tmp_path, *words, "--plan") == 0
    out = capsys.readouterr().out
    assert "table1/made" in out and "3 run(s) on" in out and "remaining" in out and "GB" in out
    assert not store.exists()
    assert command(monkeypatch, tmp_path, *words[:3], "--seeds", "1", *words[5:]) == 0  # seed 0 is finished
    monkeypatch.setattr(spec.cells, "__defaults__", (None, tmp_path / "experiments"))
    plan = runs_wanted(spec.cells(), "small", [0, 1, 2], print)
    with pytest.raises(train.OutOfTime):  # seed 1 stops after epoch 1
        run = runs.Run(plan[1].cell, "small", 1, plan[1].settings, fetch.load("mnist", data_folder))
        parts = preprocess.prepare(data.splits(run.dataset, run.settings.data), run.settings.data, True, CPU)
        where, call = runs.Store(store).checkpoint(run), {"name": "here"}
        train.fit(run.settings, parts, 1, where, CPU, deadline=time.monotonic(), run=run.parts, call=call)
    foreign = runs.Run(plan[2].cell, "small", 2, plan[2].settings, run.dataset)
    shutil.copyfile(where, runs.Store(store).checkpoint(foreign))  # another run's checkpoint under this run's name
    (found,) = estimate.estimates(plan, runs.Store(store), data_folder, CPU, print)
    assert (found.wanted, found.finished, found.left, found.epochs) == (3, 1, 5, 3)
    assert found.whole == pytest.approx(9 * found.epoch) and found.remaining == pytest.approx(5 * found.epoch)
    assert found.epoch > 6 * found.step > 0


@pytest.mark.timed
def test_plans_estimate_is_close_to_the_training_time(tmp_path, data_folder):
    """Time and memory of a net that is large enough to be measured."""
    cell = made_cell(net={"hidden": [1024, 1024]}, data={"train": 5000, "valid": 1000}, train={"epochs": 4})
    plan = runs_wanted([cell], "small", [0], print)
    near = False
    for attempt in "abc":  # the machine may have been busy during one of the two
        (found,) = estimate.estimates(plan, runs.Store(tmp_path / attempt), data_folder, CPU, print)
        summary = worker.carry_out(plan, runs.Store(tmp_path / attempt), data_folder, CPU, print, bar=False)
        near = near or found.whole == pytest.approx(summary.records[0].seconds, rel=0.6)
    assert near
    assert found.memory is None or found.memory > 6200 * 784 + 4 * 4 * summary.records[0].parameters


def test_run_command_without_any_data_ends_with_code_3(tmp_path, monkeypatch, capsys):
    experiments(tmp_path / "experiments")
    change(monkeypatch, "mnist", sources=[])
    words = ["run", "--scale", "small", "--results", str(tmp_path / "r"), "--data", str(tmp_path / "d")]
    assert command(monkeypatch, tmp_path, *words) == 3
    assert "reproduce data mnist" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--scale", "big"], "--scale takes"),
        (["run", "--device", "tpu"], "--device takes"),
        (["run", "--scale", "small", "--shard", "3/2"], "--shard takes"),
        (["run", "--scale", "small", "--time-limit", "soon"], "--time-limit takes"),
        (["run", "table1/mad"], "did you mean 'table1/made'"),
        (["list", ""], "no cell ''"),
        (["list", "/"], "no cell '/'"),
        (["run", "."], "no cell '.'"),
        (["run", "--jobs", "100000"], "Invalid value for '--jobs'"),
        (["list", "--results", __file__], "not a folder"),
        (["publish", "--results", __file__], "not a folder"),
        (["data", "minst"], "did you mean 'mnist'"),
    ],
)
def test_bad_options_are_one_line_and_code_2(tmp_path, monkeypatch, capsys, words, message):
    experiments(tmp_path / "experiments")
    assert command(monkeypatch, tmp_path, *words) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_names_are_shown_unchanged_and_dirty_runs_are_marked(tmp_path, data_folder, monkeypatch, capsys):
    row = "a [/x] [red]b[/red] :smile:"
    path = experiments(tmp_path / "experiments") / "table1" / "made.yaml"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"row": row}))
    code = {"revision": "r", "dirty": True, "source": "s" * 64, "device": "cpu", "mode": "torch", "threads": []}
    monkeypatch.setattr(machine, "code", lambda _: code)
    monkeypatch.setattr(machine, "source_digest", lambda _: "s" * 64)
    monkeypatch.setenv("COLUMNS", "300")
    store = ["--results", str(tmp_path / "r")]
    words = ["run", "--scale", "small", *store, "--data", str(data_folder)]
    assert command(monkeypatch, tmp_path, *words) == 0
    out = capsys.readouterr().out
    table = out[out.index("┏") :]
    assert row.split()[0] in table and "[/x]" in table and ":smile:" in table and "[red]b[/red]" in table
    assert len(re.findall(r"\d\.\d\d\* ", table)) == 1
    assert re.search(r"└─+.*\n\* of at least one run: .*code.*\.\n", table)
    assert command(monkeypatch, tmp_path, "list", *store) == 0
    assert "[/x]" in capsys.readouterr().out
    monkeypatch.setattr(probe, "SECONDS", 0.0)
    assert command(monkeypatch, tmp_path, *words, "--plan") == 0


def test_ctrl_c_ends_cleanly_and_the_run_resumes_later(tmp_path, data_folder, monkeypatch, capsys):
    experiments(tmp_path / "experiments")
    interrupted = raising(KeyboardInterrupt())
    monkeypatch.setattr(train, "fit", interrupted)
    words = ["run", "--scale", "small", "--results", str(tmp_path / "r"), "--data", str(data_folder)]
    assert command(monkeypatch, tmp_path, *words) == 130
    assert "the same command resumes" in capsys.readouterr().err
    monkeypatch.setattr(small_check, "check", interrupted)
    assert command(monkeypatch, tmp_path, "check") == 130
    assert capsys.readouterr().err.startswith("reproduce: stopped; ")


# --- the bands of check-small ---


def test_a_band_is_a_prediction_interval_with_the_stated_coverage():
    values = [2.0, 2.1, 1.9, 2.05, 1.95]
    low, high = small_check.band(values)
    s = np.std(values, ddof=1)
    assert (high - low) / 2 == pytest.approx(8.6103 * s * np.sqrt(1.2), rel=1e-4)
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        drawn = rng.normal(size=9)
        low, high = small_check.band(list(drawn[:8]))
        inside += low <= drawn[8] <= high
    assert 0.996 <= inside / 2000 <= 1


def test_bands_need_every_calibration_run(tmp_path):
    cells = [c for c in spec.cells() if c.experiment.check]
    assert len(cells) == 2
    for cell in cells:
        with pytest.raises(ValueError, match="calibration runs of seeds"):
            small_check.bands(cell, tmp_path)
        limits = small_check.bands(cell)
        assert set(limits) == {"log training cost", "validation error %"}
        assert all(low < high for low, high in limits.values())


def test_a_run_that_diverges_fails_the_check_with_a_reason(monkeypatch):
    (cell,) = spec.cells(["check/mlp"])
    broken = made_record(status="failed", failure="the training loss is not finite", result=None, curve=[])
    seed = cell.experiment.check.seed
    monkeypatch.setattr(small_check, "_cells", lambda: [cell])
    monkeypatch.setattr(small_check, "_trained", lambda *_: ({(cell.name, None, seed): broken}, {}))
    said = []
    assert small_check.check(None, said.append) is False
    assert said == ["check/mlp: the run failed"]


def test_at_least_two_of_the_three_committed_mutants_are_caught():
    limits = {c.name: small_check.bands(c) for c in spec.cells() if c.experiment.check}
    records, problems = read_records(small_check.COMMITTED / "mutants")
    assert not problems
    caught = {}
    for record in records:
        cell = caught.setdefault(record.variant, {}).setdefault(record.cell, [])
        cell.append(bool(small_check.outside(record, limits[record.cell])))
    assert set(caught) == {"no-mask", "no-clipping", "no-multiplier"}
    assert all(len(seeds) == small_check.MUTANT_SEEDS for cells in caught.values() for seeds in cells.values())
    noticed = {variant for variant, cells in caught.items() if any(all(seeds) for seeds in cells.values())}
    assert noticed == {"no-mask", "no-multiplier"}  # README says so


def test_runs_without_compiled_kernels_have_another_name_and_the_reason_is_printed(
    tmp_path, data_folder, monkeypatch
):
    """Products by torch round differently: their records and checkpoints are not used for the kernels' runs."""
    if products.mode() == "torch":
        pytest.skip("no compiled kernels here: the products are torch's anyhow")
    cell = made_cell(train={"epochs": 1})
    with_kernels = go(tmp_path, data_folder, [cell]).records[0]
    said = []
    with monkeypatch.context() as patch:
        patch.setattr(runtime, "loaded", build.BuildError("no space left"))
        summary = go(tmp_path, data_folder, [cell], said=said)
    assert summary.trained == 1 and summary.records[0].key != with_kernels.key
    assert sum("no compiled kernels: no space left; PyTorch computes the products" in line for line in said) == 1
    monkeypatch.setenv("REPRODUCE_PRODUCTS", "junk")
    with pytest.raises(ValueError, match="REPRODUCE_PRODUCTS is fixed16 or float32"):
        go(tmp_path, data_folder, [cell])


def test_a_checkpoint_that_cannot_be_read_for_lack_of_memory_or_a_disk_error_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "a.ckpt"
    torch.save({"run": {}}, path)
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), OSError(5, "EIO")):
        with monkeypatch.context() as patch:
            patch.setattr(torch, "load", raising(error))
            with pytest.raises(type(error)):
                checkpoint_file.sound(path, {}, print)
        assert path.exists()
    path.write_bytes(path.read_bytes()[:-30])
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", lambda *_, **__: {}[0])
        assert not checkpoint_file.sound(path, {}, print)
    assert not path.exists() and path.with_name("a.ckpt.other").exists()


def test_out_of_memory_while_writing_is_recognised_by_the_errors_context():
    try:
        try:
            raise MemoryError
        except MemoryError:
            raise RuntimeError("unexpected pos 64 vs 0")  # noqa: B904
    except RuntimeError as error:
        assert checkpoint_file.out_of_memory(error)
    assert not checkpoint_file.out_of_memory(RuntimeError("unexpected pos 64 vs 0"))


def test_an_unreadable_data_set_is_retried_and_its_arrays_are_freed(tmp_path, data_folder, monkeypatch):
    def unread(*_):
        raise fetch.Unread("mnist: not enough memory to read it")

    cell = made_cell(train={"epochs": 1})
    with monkeypatch.context() as patch:
        patch.setattr(fetch, "load", unread)
        summary = go(tmp_path, data_folder, [cell])
    assert list(summary.not_made.values()) == ["mnist: not enough memory to read it"] and not summary.missing
    prepared = worker._Prepared(CPU)
    with monkeypatch.context() as patch:
        patch.setattr(fetch, "load", unread)
        with pytest.raises(fetch.Unread):
            prepared.dataset("mnist", None, print)
    kept = prepared._datasets["mnist"]  # a traceback through `unread` would keep its arrays
    assert "unread" not in [frame.name for frame in traceback.extract_tb(kept.__traceback__)]
    assert go(tmp_path, data_folder, [cell]).trained == 1


def test_a_check_without_enough_memory_does_not_count_as_a_caught_error(monkeypatch, tmp_path):
    summary = worker.Summary(not_made={"x, seed 0": "not enough memory"})
    monkeypatch.setattr(small_check, "OWN_STORE", tmp_path)
    monkeypatch.setattr(worker, "carry_out", lambda *_, **__: summary)
    with pytest.raises(small_check.Missing, match="x, seed 0: not enough memory"):
        small_check.mutants(None, print, keep=False)


def test_the_scale_auto_is_the_only_one_that_cells_have_if_none_has_the_usual_one():
    named = {
        pattern: spec.cells([pattern]) for pattern in ("short/bnn-theano-cifar10", "ablations/mask", "table1")
    }
    found = {
        pattern: [auto_scale(cells, device) for device in ("cpu", "cuda")] for pattern, cells in named.items()
    }
    assert found == {
        "short/bnn-theano-cifar10": ["short", "short"],
        "ablations/mask": ["small", "small"],
        "table1": ["small", "paper"],
    }
    both = [*named["short/bnn-theano-cifar10"], *named["ablations/mask"]]
    assert [auto_scale(both, device) for device in ("cpu", "cuda")] == ["small", "paper"]


def test_a_share_without_runs_needs_no_process():
    assert parallel.at_once([], None, "cpu") == 1
