"""`reproduce submit`: which runs become tasks, and how a task resumes after its time limit; merging of shards."""

import os
import shutil
import subprocess
import sys
import types

import pandas as pd
import pytest
from test_campaign import command, experiments

from reproduce import spec, yamlfile
from reproduce.campaign import slurm
from reproduce.records import read_records


def small(tmp_path, data_folder, monkeypatch, *words):
    """`reproduce submit` of the made cell on two seeds, on the CPU."""
    given = ["--scale", "small", "--seeds", "2", "--device", "cpu", "--cpus", "1"]
    given += ["--results", str(tmp_path / "mine")]
    return command(monkeypatch, tmp_path, "submit", *given, "--data", str(data_folder), *words)


def test_every_run_that_is_not_in_the_store_becomes_a_task(tmp_path, data_folder, monkeypatch, capsys):
    pytest.importorskip("submitit")
    experiments(tmp_path / "experiments", epochs=1)
    handed = []

    def hand_over(tasks, *rest):
        handed.append((tasks, rest))
        return [types.SimpleNamespace(job_id=f"7_{i}") for i in range(len(tasks))]

    monkeypatch.setattr(slurm, "hand_over", hand_over)
    assert small(tmp_path, data_folder, monkeypatch, "--time-limit", "10m", "--partition", "day") == 0
    out = capsys.readouterr().out
    assert "7_0: BNN (Theano), MNIST, small scale, seed 0" in out and "2 of 2 run(s) submitted" in out
    ((tasks, rest),) = handed
    assert [task.words[:4] for task in tasks] == [("run", "table1/made", "--first-seed", str(k)) for k in (0, 1)]
    assert tasks[0].words[-2:] == ("--time-limit", "480s")  # two minutes before SLURM's
    assert rest == (tmp_path / "mine" / "cluster", "slurm", 600.0, 1, 0, "day")
    words = ["run", "--scale", "small", "--results", str(tmp_path / "mine"), "--data", str(data_folder)]
    assert command(monkeypatch, tmp_path, *words) == 0  # seed 0 is there now
    assert small(tmp_path, data_folder, monkeypatch) == 0
    assert [task.words[3] for task in handed[1][0]] == ["1"]
    assert command(monkeypatch, tmp_path, *words, "--first-seed", "1") == 0
    capsys.readouterr()
    assert small(tmp_path, data_folder, monkeypatch) == 0
    assert "all 2 run(s) are in" in capsys.readouterr().out and len(handed) == 2


def test_a_task_of_an_ablation_given_by_its_file_trains_one_arm(tmp_path, data_folder, monkeypatch):
    pytest.importorskip("submitit")
    experiments(tmp_path / "experiments", epochs=1)
    arms = {"one": {"rate": 1e-3}, "two": {"rate": 1e-2}}
    file = tmp_path / "experiments" / "own" / "question.yaml"
    file.parent.mkdir()
    content = {"claim": "a claim", "source": "somewhere", "effect": 0.1, "seeds": 3, "rates": [1e-3, 1e-2]}
    file.write_text(yamlfile.yaml.safe_dump(content | {"base": "table1/made", "arms": arms}))
    handed = []

    def hand_over(tasks, *_):
        handed.extend(tasks)
        return [types.SimpleNamespace(job_id="7")] * len(tasks)

    monkeypatch.setattr(slurm, "hand_over", hand_over)
    assert small(tmp_path, data_folder, monkeypatch, str(file)) == 0
    folder = str(tmp_path / "experiments")
    named = {task.words[1:4] for task in handed}
    assert named == {(f"own/question/{arm}", "--experiments", folder) for arm in arms} and len(handed) == 4


def test_arms_that_would_be_trained_in_different_ways_are_not_submitted(
    tmp_path, data_folder, monkeypatch, capsys
):
    pytest.importorskip("submitit")
    experiments(tmp_path / "experiments", epochs=1)
    file = tmp_path / "experiments" / "own" / "question.yaml"
    file.parent.mkdir()
    arms = {"one": {"rate": 1e-3}, "two": {"rate": 1e-3, "net": {"activation": "sign_with_zero"}}}
    content = {"claim": "a claim", "source": "somewhere", "effect": 0.1, "seeds": 3, "rates": [1e-3, 1e-2]}
    file.write_text(yamlfile.yaml.safe_dump(content | {"base": "table1/made", "arms": arms}))
    assert small(tmp_path, data_folder, monkeypatch, str(file)) == 2
    assert "add `products: float32`" in capsys.readouterr().err


def test_a_task_resumes_after_its_time_limit_until_it_is_done(monkeypatch):
    codes, called = [75, 75, 0], []

    def run(words, **_):
        called.append(list(words))
        return types.SimpleNamespace(returncode=codes.pop(0) if words[0] == sys.executable else 0)

    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(subprocess, "run", run)
    slurm.Task(("run", "x"))()
    assert called == [[sys.executable, "-m", "reproduce", "run", "x"]] * 3
    codes[:], called[:] = [75], []
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "10")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    with pytest.raises(SystemExit):
        slurm.Task(("run", "x"))()
    assert called[1:] == [["scontrol", "requeue", "10_1"]]
    codes[:] = [1]
    with pytest.raises(RuntimeError, match="exit code 1"):
        slurm.Task(("run", "x"))()


@pytest.mark.parametrize(
    ("scontrol", "why"),
    [
        (None, "scontrol: No such file or directory"),
        ('echo "$@: Access denied" >&2; exit 1', "requeue 7: Access denied"),
        ("exit 3", "scontrol: exit code 3"),
    ],
)
def test_a_task_that_cannot_be_requeued_is_reported_and_its_work_is_kept(
    tmp_path, monkeypatch, capfd, scontrol, why
):
    """At its time limit a task ends with the command's exit code, and its checkpoint is there."""
    scripts = {"python": f"exit {slurm.OUT_OF_TIME}"} | ({"scontrol": scontrol} if scontrol else {})
    for name, script in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(SystemExit) as end:
        slurm.Task(("run", "x"))()
    assert end.value.code == 75
    assert capfd.readouterr().err == (
        f"reproduce: job 7 is at its time limit and could not be requeued ({why}); "
        "the work is kept: submit again to resume it\n"
    )


def test_a_failing_scontrol_is_one_line(monkeypatch):
    def hangs(words, timeout, **_):
        raise subprocess.TimeoutExpired(words, timeout)

    monkeypatch.setattr(subprocess, "run", hangs)
    assert slurm._requeue("7") == "scontrol did not answer within 60 seconds"


def test_jobs_are_identified_by_their_index_in_the_array():
    assert slurm.slurm_job({}) is None
    assert slurm.slurm_job({"SLURM_JOB_ID": "5"}) == "5"
    array = {"SLURM_JOB_ID": "6", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "0"}
    assert slurm.slurm_job(array) == "5_0"


def test_a_task_ends_before_its_job():
    assert [slurm.spare(limit) for limit in (60, 480, 3600)] == [15, 120, 120]


@pytest.mark.exhaustive
def test_tasks_run_by_submitit_itself(tmp_path, monkeypatch):
    """Tasks are submitted, pickled and run in processes of their own, with the command's exit codes."""
    submitit = pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(yamlfile.ROOT), *sys.path]))
    tasks = [slurm.Task(("list", "table1/bnn-theano-mnist")), slurm.Task(("data", "minst"))]
    good, bad = slurm.hand_over(tasks, tmp_path / "jobs", "local", 120.0, 1, 0, None)
    assert good.result() is None and "table1/bnn-theano-mnist" in good.stdout()
    with pytest.raises(submitit.core.utils.FailedJobError, match="exit code 2"):
        bad.result()
    assert "did you mean 'mnist'" in bad.stderr()


def test_without_submitit_it_says_what_to_install(tmp_path, data_folder, monkeypatch, capsys):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "submitit" else found(name))
    experiments(tmp_path / "experiments")
    assert small(tmp_path, data_folder, monkeypatch) == 2
    error = capsys.readouterr().err
    assert "'.[cluster]'" in error and error.count("\n") == 1


def test_bad_choices_are_one_line_and_code_2(tmp_path, data_folder, monkeypatch, capsys):
    pytest.importorskip("submitit")
    experiments(tmp_path / "experiments")
    for words in (
        ["--time-limit", "soon"],
        ["--time-limit", "1s"],
        ["--device", "tpu"],
        ["--scale", "big"],
    ):
        assert small(tmp_path, data_folder, monkeypatch, *words) == 2
        assert f"{words[0]} takes" in capsys.readouterr().err


# --- shards ---------------------------------------------------------------------------------------------------


@pytest.mark.exhaustive
@pytest.mark.parametrize("shared", [True, False])
def test_two_shards_give_one_report(tmp_path, data_folder, monkeypatch, shared):
    """Shards in one folder, or in two that are published into one, give the runs and the table of one machine."""
    experiments(tmp_path / "experiments", epochs=2)
    for path in (spec.EXPERIMENTS / "table1").iterdir():  # the report looks at the paper's nets too
        shutil.copy(path, tmp_path / "experiments" / "table1")
    words = ["run", "table1/made", "--scale", "small", "--seeds", "3", "--data", str(data_folder)]
    assert command(monkeypatch, tmp_path, *words, "--results", str(tmp_path / "alone")) == 0
    stores = [tmp_path / ("both" if shared else f"shard{i}") for i in (1, 2)]
    for i, store in enumerate(stores, 1):
        assert command(monkeypatch, tmp_path, *words, "--results", str(store), "--shard", f"{i}/2") == 0
    merged = tmp_path / "merged"
    for store in stores:
        assert command(monkeypatch, tmp_path, "publish", "--results", str(store), "--to", str(merged)) == 0
    alone, together = (read_records(folder / "runs") for folder in (tmp_path / "alone", merged))
    assert not alone[1] and not together[1]
    assert [(r.key, r.result) for r in together[0]] == [(r.key, r.result) for r in alone[0]]
    assert [r.seed for r in together[0]] == [0, 1, 2]
    assert command(monkeypatch, tmp_path, "report", "--results", str(merged)) == 0
    tables = [pd.read_csv(folder / "report" / "table1.csv") for folder in (tmp_path / "alone", merged)]
    pd.testing.assert_frame_equal(*tables)
    assert 3 in list(tables[1]["seeds"])
