"""Checkpoints of other code, data or settings: set aside, reported, never lost; and `reproduce clean`.

Resuming itself is tested in tests/training/test_train.py and tests/chaos.
"""

import os
import time

import pytest
import torch
from filelock import FileLock
from made import made_cell
from test_campaign import command, experiments

from reproduce.campaign import worker
from reproduce.campaign.wanted import runs_wanted
from reproduce.datasets import fetch
from reproduce.nets import products
from reproduce.records import machine, runs
from reproduce.training import checkpoint as checkpoint_file

CPU = torch.device("cpu")


@pytest.fixture
def store(tmp_path):
    return runs.Store(tmp_path / "store")


@pytest.fixture
def call(store, data_folder):
    """Trains one more epoch of a run of four, or all that are left; returns the messages and the summary."""

    def once(one_epoch=True, seed=0, **over):
        plan = runs_wanted([made_cell(train={"epochs": 4}, **over)], "small", [seed], print)
        said = []
        deadline = time.monotonic() if one_epoch else None
        summary = worker.carry_out(plan, store, data_folder, CPU, said.append, bar=False, deadline=deadline)
        return said, summary

    return once


def in_work(store):
    return sorted(p.name for p in (store.root / "work").iterdir() if p.suffix != ".lock")


def other_code(patch):
    patch.setattr(machine, "source_digest", lambda _: "other code")


def told(said, name, how, kept):
    return f"    checkpoint {name}: begun {how}, starting afresh; the old one is kept as {kept}" in said


def test_a_checkpoint_of_other_code_is_kept_named_and_used_again_with_that_code(store, call, monkeypatch):
    call()
    call()
    (first,) = in_work(store)
    content = (store.root / "work" / first).read_bytes()
    with monkeypatch.context() as patch:
        other_code(patch)
        said, summary = call()
        assert told(said, first, "by other code (2 epochs)", f"{first}.other")
        assert "stands at epoch 1 of 4" in summary.stopped
        (second,) = set(in_work(store)) - {f"{first}.other"}
        assert second.endswith(".ckpt") and second != first
        assert (store.root / "work" / f"{first}.other").read_bytes() == content
        assert not any("begun" in line for line in call()[0])
    said, summary = call()  # the code is the old one again
    assert f"    checkpoint {first}.other: of this run (2 epochs), resumed" in said
    assert "stands at epoch 3 of 4" in summary.stopped
    assert told(said, second, "by other code (2 epochs)", f"{second}.other")
    assert in_work(store) == sorted([first, f"{second}.other"])
    assert call(one_epoch=False)[1].trained == 1 and in_work(store) == [f"{second}.other"]


def test_a_checkpoint_of_other_settings_or_data_is_kept_under_a_free_name(store, call, monkeypatch, data_folder):
    call()
    (first,) = in_work(store)
    taken = {f"{first}.other": b"an earlier one", f"{first}.other.2": b"another"}
    for name, content in taken.items():
        (store.root / "work" / name).write_bytes(content)
    small = {"net": {"hidden": [16, 16]}}
    said, _ = call(**small)
    assert told(said, first, "with other settings (1 epochs)", f"{first}.other.3")
    assert all((store.root / "work" / name).read_bytes() == content for name, content in taken.items())
    kept = checkpoint_file.saved(store.root / "work" / f"{first}.other.3")
    assert len(kept["run"]["curve"]) == 1
    (second,) = (name for name in in_work(store) if name.endswith(".ckpt"))
    whole = fetch.load("mnist", data_folder)
    monkeypatch.setattr(fetch, "load", lambda *_: type(whole)(whole.name, whole.arrays, "e" * 64, whole.order))
    assert told(call(**small)[0], second, "on other data (1 epochs)", f"{second}.other")


@pytest.mark.exhaustive
def test_a_checkpoint_of_another_device_mode_seed_or_process_is_not_touched(store, call, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(products, "mode", lambda _="cpu": "another mode")
        call()
    call()
    names = in_work(store)
    assert len(names) == 2  # both can still be resumed
    call(seed=1)
    assert set(names) < set(in_work(store))
    with monkeypatch.context() as patch:
        other_code(patch)
        locks = [FileLock(store.root / "work" / name.replace(".ckpt", ".lock")) for name in names]
        for lock in locks:
            lock.acquire()
        said, _ = call()
        for lock in locks:
            lock.release()
    assert not any("begun" in line for line in said) and set(names) < set(in_work(store))


def test_clean_lists_with_sizes_and_then_removes_what_was_set_aside(store, call, tmp_path, monkeypatch, capsys):
    experiments(tmp_path / "experiments")
    call()
    with monkeypatch.context() as patch:
        other_code(patch)
        call()
    (store.root / "work" / "x.ckpt.other.2").write_bytes(b"x" * 1500000)
    before = in_work(store)
    (aside,) = (name for name in before if name.endswith(".other"))
    size = os.path.getsize(store.root / "work" / aside) / 1e6
    words = ["clean", "--results", str(store.root)]
    capsys.readouterr()
    assert command(monkeypatch, tmp_path, *words, "--dry-run") == 0
    out = capsys.readouterr().out
    assert f"{aside}: {size:.1f} MB, 1 epochs\n" in out and "x.ckpt.other.2: 1.5 MB, cannot be read\n" in out
    assert f"2 checkpoint(s) set aside, {size + 1.5:.1f} MB: would be removed" in out
    assert in_work(store) == before
    assert command(monkeypatch, tmp_path, *words) == 0
    assert "MB: removed" in capsys.readouterr().out
    assert in_work(store) == [name for name in before if name.endswith(".ckpt")]
    assert command(monkeypatch, tmp_path, *words) == 0
    assert "0 checkpoint(s) set aside" in capsys.readouterr().out
    assert command(monkeypatch, tmp_path, "clean", "--results", str(tmp_path / "none")) == 2
