"""Campaigns end to end on made images: skip, resume, missing data, failures, the command line."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from filelock import FileLock
from made import made_cell, made_record, settings

from reproduce import campaign, check, cli, data, runs, spec, train, yamlfile

CPU = torch.device("cpu")


def go(store, folder, cells, seeds=(0,), said=None):
    plan = campaign.wanted(cells, "small", list(seeds), (said or []).append)
    return campaign.carry_out(
        plan, runs.Store(store), folder, CPU, (said if said is not None else []).append, bar=False
    )


def test_runs_are_recorded_and_skipped_the_next_time(tmp_path, data_folder):
    cell = made_cell(train={"epochs": 2})
    first = go(tmp_path / "s", data_folder, [cell], seeds=(0, 1))
    assert first.trained == 2 and len(first.records) == 2
    record = first.records[0]
    assert record.result.test_images == 200 and len(record.curve) == 2
    assert record.data.digest == data.DIGESTS["mnist"]
    said = []
    again = go(tmp_path / "s", data_folder, [cell], seeds=(0, 1, 2), said=said)
    assert again.trained == 1 and len(again.records) == 3
    assert sum("already there" in line for line in said) == 2
    store = runs.Store(tmp_path / "s")
    assert not list((store.root / "work").glob("*.ckpt"))
    net = torch.load(store.net(record.stem), weights_only=True)
    assert net["blocks.0.layer.weight"].shape == (32, 784)


def test_a_run_that_another_process_is_at_is_left_for_the_end_and_not_made_twice(tmp_path, data_folder):
    cell = made_cell(train={"epochs": 1})
    store = runs.Store(tmp_path / "s")
    store.prepare()
    dataset = data.load("mnist", data_folder)
    first = runs.Run(cell, "small", 0, cell.scales["small"], dataset)
    other = FileLock(store.lock(first), thread_local=False)
    other.acquire()
    said = []

    def say(line):
        said.append(line)
        if "seed 1" in line and other.is_locked:  # the other process ends while we are at seed 1
            store.write(made_record(first))
            other.release()

    plan = campaign.wanted([cell], "small", [0, 1], say)
    summary = campaign.carry_out(plan, store, data_folder, CPU, say, bar=False)
    assert summary.trained == 1 and sorted(r.seed for r in summary.records) == [0, 1]
    assert "another process" in said[0] and "already there" in said[-1]
    assert len(list(store.runs.glob("*.json"))) == 2


def test_missing_data_is_named_per_cell_and_the_rest_runs(tmp_path, data_folder, monkeypatch):
    def unreachable(scratch):
        raise OSError("unreachable")

    monkeypatch.setitem(data.SOURCES, "cifar10", [unreachable])
    from made import convnet_settings

    content = convnet_settings(train={"epochs": 1})
    other = made_cell("table1/other")
    other = other.model_copy(update={"scales": {"small": content}})
    summary = go(tmp_path, data_folder, [other, made_cell(train={"epochs": 1})])
    assert summary.trained == 1
    assert "reproduce data cifar10" in summary.missing["table1/other"]


def test_a_diverged_run_is_recorded_as_failed_and_tried_again(tmp_path, data_folder, monkeypatch):
    cell = made_cell(train={"epochs": 1})

    def diverge(*_, **__):
        raise train.Diverged(1, "the training loss")

    with monkeypatch.context() as patch:
        patch.setattr(train, "fit", diverge)
        summary = go(tmp_path, data_folder, [cell])
    assert summary.records == [] and summary.broken[0].failure == "the training loss is not finite after epoch 1"
    (written,), problems = runs.read_all(tmp_path / "runs")
    assert written.status == "failed" and not problems
    assert go(tmp_path, data_folder, [cell]).trained == 1


def test_shards_cover_the_plan_once():
    plan = campaign.wanted([made_cell()], "small", list(range(7)), print)
    parts = [campaign.shard(plan, f"{i}/3") for i in (1, 2, 3)]
    assert sorted(item.seed for part in parts for item in part) == list(range(7))
    assert [len(part) for part in parts] == [3, 2, 2]
    for bad in ("0/3", "4/3", "1", "a/b", "-1/2", "1/0"):
        with pytest.raises(ValueError, match="--shard takes"):
            campaign.shard(plan, bad)


def test_time_left_follows_the_costs():
    progress = campaign.Progress([100.0, 300.0], print)
    assert "not known" in progress.left()
    progress.started -= 10
    progress.finish()
    progress.position = 1
    assert progress.left() == "about 30 s left of all"
    assert [campaign.duration(s) for s in (5, 200, 7500)] == ["5 s", "3 min 20 s", "2 h 05 min"]


def test_cost_grows_with_epochs_images_and_net():
    base = campaign.cost(settings())
    assert campaign.cost(settings(train={"epochs": 6})) == 2 * base
    assert campaign.cost(settings(data={"train": 1200})) > base
    assert campaign.cost(settings(net={"hidden": [512, 512]})) > base


def experiments(folder, **over):
    path = folder / "table1" / "made.yaml"
    path.parent.mkdir(parents=True)
    content = {"row": "BNN (Theano)", "dataset": "MNIST", "follows": "a test", "scale": "small"}
    content |= settings(train={"epochs": 1}, **over).model_dump(mode="json")
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
    assert "already there" in capsys.readouterr().out


def test_run_command_without_any_data_ends_with_code_3(tmp_path, monkeypatch, capsys):
    experiments(tmp_path / "experiments")
    monkeypatch.setitem(data.SOURCES, "mnist", [])
    words = ["run", "--scale", "small", "--results", str(tmp_path / "r"), "--data", str(tmp_path / "d")]
    assert command(monkeypatch, tmp_path, *words) == 3
    assert "reproduce data mnist" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--scale", "big"], "--scale takes"),
        (["run", "--device", "tpu"], "--device takes"),
        (["run", "--scale", "small", "--shard", "3/2"], "--shard takes"),
        (["run", "table1/mad"], "did you mean 'table1/made'"),
        (["data", "minst"], "did you mean 'mnist'"),
    ],
)
def test_bad_options_are_one_line_and_code_2(tmp_path, monkeypatch, capsys, words, message):
    experiments(tmp_path / "experiments")
    assert command(monkeypatch, tmp_path, *words) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_ctrl_c_ends_cleanly_and_the_run_goes_on_later(tmp_path, data_folder, monkeypatch, capsys):
    experiments(tmp_path / "experiments")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "fit", interrupted)
    words = ["run", "--scale", "small", "--results", str(tmp_path / "r"), "--data", str(data_folder)]
    assert command(monkeypatch, tmp_path, *words) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "reproduce", "--help"],
        capture_output=True,
        text=True,
        cwd=yamlfile.ROOT,
        timeout=120,
    )
    assert done.returncode == 0
    for verb in ("list", "run", "data", "report", "publish", "check"):
        assert verb in done.stdout


# --- the bands of check-small ---


def test_band_is_a_prediction_interval_and_bites():
    values = [2.0, 2.1, 1.9, 2.05, 1.95]
    low, high = check.band(values)
    s = np.std(values, ddof=1)
    assert (high - low) / 2 == pytest.approx(8.6103 * s * np.sqrt(1.2), rel=1e-4)
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        drawn = rng.normal(size=9)
        low, high = check.band(list(drawn[:8]))
        inside += low <= drawn[8] <= high
    assert 0.996 <= inside / 2000 <= 1


def test_bands_need_every_calibration_run(tmp_path):
    cells = [c for c in spec.cells() if c.experiment.check]
    assert len(cells) == 2
    for cell in cells:
        with pytest.raises(ValueError, match="calibration runs of seeds"):
            check.bands(cell, tmp_path)
        limits = check.bands(cell)
        assert set(limits) == {"log training cost", "validation error %"}
        assert all(low < high for low, high in limits.values())


def test_a_run_that_diverges_fails_the_check_with_a_word(monkeypatch):
    (cell,) = spec.cells(["check/mlp"])
    broken = made_record(status="failed", failure="the training loss is not finite", result=None, curve=[])
    seed = cell.experiment.check.seed
    monkeypatch.setattr(check, "_cells", lambda: [cell])
    monkeypatch.setattr(check, "_trained", lambda *_: ({(cell.name, None, seed): broken}, {}))
    monkeypatch.setattr(check.shutil, "rmtree", lambda *_, **__: None)
    said = []
    assert check.check(None, said.append) is False
    assert said == ["check/mlp: the run failed"]


def test_a_failed_run_is_outside():
    assert check.outside(None, {}) == ["the run failed"]


def test_committed_mutants_at_least_two_of_three_are_caught():
    limits = {c.name: check.bands(c) for c in spec.cells() if c.experiment.check}
    records, problems = runs.read_all(check.COMMITTED / "mutants")
    assert not problems
    caught = {}
    for record in records:
        cell = caught.setdefault(record.variant, {}).setdefault(record.cell, [])
        cell.append(bool(check.outside(record, limits[record.cell])))
    assert set(caught) == {"no-mask", "no-clipping", "no-multiplier"}
    assert all(len(seeds) == check.MUTANT_SEEDS for cells in caught.values() for seeds in cells.values())
    noticed = {variant for variant, cells in caught.items() if any(all(seeds) for seeds in cells.values())}
    assert noticed == {"no-mask", "no-multiplier"}  # README says so
