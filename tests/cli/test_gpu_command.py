"""`reproduce gpu`: the steps of gpu-evidence.sh, on a CPU."""

import json

import pandas as pd
import pytest
import torch
from made import convnet_settings, made_record, made_run, settings

from reproduce import spec
from reproduce.campaign import gpu_trial, probe
from reproduce.cli import gpu as command
from reproduce.nets import ways
from reproduce.records import runs


@pytest.fixture(autouse=True)
def nothing_left_out(monkeypatch):
    monkeypatch.setenv("REPRODUCE_WITHOUT", "")
    yield monkeypatch
    torch.backends.cudnn.benchmark = False


def files_in(folder):
    broken = json.loads((folder / "broken.json").read_text())
    return broken, *((folder / name).read_text().split() for name in ("backends.txt", "without.txt"))


def test_trials_say_that_nothing_passed_until_they_are_over(tmp_path, nothing_left_out):
    here = dict.fromkeys(command.BACKENDS, "there") | {"cuda-wgmma": "unavailable: another GPU"}
    nothing_left_out.setattr("kernels.backends", lambda: here)

    def try_parts(say, device, scale, others, seconds, cells):
        assert cells == ["table1/float-mnist"]
        assert sum(seconds) < 60 and "cuda-wgmma" not in others
        assert others["cuda-bmma"] == ["kernels.cuda.trial", "cuda-bmma"]
        broken, backends, without = files_in(tmp_path)
        assert set(broken) == {*command.BACKENDS, "pixels"} and not backends and without == list(ways.PARTS)
        ways.leave_out("bf16")
        return {"cuda-xnor": "3 of 9 results are wrong", "bf16": "hangs"}

    nothing_left_out.setattr(gpu_trial, "try_parts", try_parts)
    command.trials(tmp_path, ["table1/float-mnist"], "cuda", "paper")
    broken, backends, without = files_in(tmp_path)
    assert broken == {"cuda-wgmma": "unavailable: another GPU", "cuda-xnor": "3 of 9 results are wrong"}
    assert backends == ["cuda-bmma", "cuda-naive"] and without == ["bf16"]


@pytest.mark.parametrize(
    ("left", "said"), [(1e9, "training will end"), (0.0, "training will not end"), (None, None)]
)
def test_preflight_times_both_nets_and_says_whether_training_ends(nothing_left_out, capsys, left, said):
    made = {"a": settings(), "b": convnet_settings(train={"batch": 10})}

    class Cell:
        def __init__(self, name):
            self.scales = {"small": made[name]}

    nothing_left_out.setattr(spec, "cells", lambda names: [Cell(names[0])])
    nothing_left_out.setattr(gpu_trial, "CELLS", {"small": ("a", "b")})
    nothing_left_out.setattr(probe, "SECONDS", 0.1)
    nothing_left_out.setattr("reproduce.training.train.EVAL_BATCH", 12)
    command.preflight("a", left, "cpu", "small", steps=3)
    out = capsys.readouterr().out
    assert out.count(" ms a step over 3 steps; left out: nothing") == 2
    assert out.count("training will") == (said is not None) and (said is None or said in out)
    assert "b: its forward convolutions of ±1 by ±1 are exact" in out and "a: its forward" not in out
    assert out.count("Self CPU %") == 2


def test_curves_are_of_finished_runs_and_of_checkpoints(tmp_path):
    store = runs.Store(tmp_path)
    store.prepare()
    done, begun = (made_run(seed=100, scale=scale) for scale in ("small", "paper"))
    store.write(made_record(done))
    rows = [{"epoch": n, "valid_wrong": 10 - n, "train_loss": 0.5} for n in (1, 2)]
    run = {"of": {}, "curve": rows, "calls": [{}], "seconds": 2.0}
    torch.save({"run": run, "state": torch.zeros(1000)}, store.checkpoint(begun))
    command.curves(tmp_path / "curves.csv", [store.runs / f"{done.stem}.json", store.checkpoint(begun)])
    found = pd.read_csv(tmp_path / "curves.csv")
    assert list(found["run"]) == [done.stem, begun.stem, begun.stem]
    assert list(found["epoch"]) == [1, 1, 2] and list(found["valid_wrong"]) == [4, 9, 8]
