"""Storage that fails: a full disk at every write, a folder that cannot be written, checkpoints cut or changed.

Each gives one line and exit code 1, and leaves nothing half-written; the same command then ends as if undisturbed.
"""

import contextlib
import errno
import os
import pickle
import random
import shutil
import subprocess
import zipfile
from pathlib import Path

import lightning as L
import pytest
import torch
from made import change, made_splits, settings, without_times
from mutants import FRACTIONS, count, tell
from sample import sample
from test_campaign import command, experiments

from reproduce import files
from reproduce.datasets import data, fetch
from reproduce.records import read_record, runs, weights
from reproduce.training import checkpoint as checkpoint_file
from reproduce.training import preprocess, train

CPU = torch.device("cpu")


@pytest.fixture
def call(tmp_path, data_folder, monkeypatch, capsys):
    """Runs `reproduce run` of one cell, with a checkpoint after each epoch; returns exit code and output."""
    experiments(tmp_path / "experiments", epochs=3)
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)

    def once(store):
        words = ["run", "--scale", "small", "--results", str(store), "--data", str(data_folder)]
        code = command(monkeypatch, tmp_path, *words)
        return code, capsys.readouterr()

    return once


UNDISTURBED = []


@pytest.fixture
def undisturbed(tmp_path, call):
    """The record of such a run without disturbance, made by the first test that needs it."""
    if not UNDISTURBED:
        assert call(tmp_path / "undisturbed")[0] == 0
        UNDISTURBED.append(record_of(tmp_path / "undisturbed"))
    return UNDISTURBED[0]


def record_of(store):
    (path,) = (store / "runs").glob("*.json")
    return without_times(path)


def whole(store):
    """Checks that every file with a final name is complete."""
    for path in store.glob("runs/*.json"):
        read_record(path)
    for path in store.glob("work/*.ckpt"):
        checkpoint_file.saved(path)
    for path in store.glob("nets/*.safetensors"):
        weights.load(path)


def is_one_line(code, out, words):
    assert code == 1 and out.err.count("\n") == 1 and any(word in out.err for word in words), out.err
    assert "Traceback" not in out.err + out.out


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")


class FullFile:
    """A file on a disk that is full after its first bytes."""

    def __init__(self, path, mode):
        self.file = open(path, mode)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, content):
        self.file.write(content[: len(content) // 2])
        full()


def half_saved(trainer, path, *_, **__):
    Path(path).write_bytes(b"PK")
    full()


POINTS = {
    "a record or net is written": (files, "open", FullFile),
    "a checkpoint is written": (L.Trainer, "save_checkpoint", half_saved),
    "a record or net is renamed": (files.os, "replace", full),
    "a file is flushed": (files.os, "fsync", full),
    "the folders are made": (runs.Store, "prepare", full),
}


@pytest.mark.parametrize("nth", sample([1, 2, 3, 4]))
@pytest.mark.parametrize("point", sample(POINTS, 2))
def test_a_disk_that_is_full_at_any_write(tmp_path, call, undisturbed, monkeypatch, point, nth):
    where, name, failing = POINTS[point]
    good = getattr(where, name, open)
    calls = []

    def sometimes(*words, **more):
        calls.append(words)
        return (failing if len(calls) >= nth else good)(*words, **more)

    store = tmp_path / "store"
    with monkeypatch.context() as patch:
        patch.setattr(where, name, sometimes, raising=name != "open")
        code, out = call(store)
    if len(calls) < nth:
        pytest.skip(f"only {len(calls)} such writes in a run")
    is_one_line(code, out, ["No space left"])
    whole(store)
    assert not [p for p in store.rglob("*") if p.suffix == ".tmp" or p.name.startswith(".table1")]
    assert call(store)[0] == 0 and record_of(store) == undisturbed
    assert not list((store / "work").glob("*.ckpt"))


@contextlib.contextmanager
def mounted(folder, *options):
    """A file system in memory at `folder`; skips the test if mounting is not allowed."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    done = subprocess.run(words, capture_output=True)
    if done.returncode:
        pytest.skip("may not mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.skipif(shutil.which("mount") is None or os.geteuid() != 0, reason="needs root to mount")
@pytest.mark.parametrize("kibibytes", sample([300, 8, 64, 480]))
def test_a_real_disk_that_is_full(tmp_path, call, undisturbed, kibibytes):
    store = tmp_path / "disk"
    with mounted(store, f"size={kibibytes}k"):
        code, out = call(store)
        is_one_line(code, out, ["No space left"])
        whole(store)
        subprocess.run(["mount", "-o", "remount,size=100m", str(store)], check=True)
        assert call(store)[0] == 0 and record_of(store) == undisturbed


@pytest.mark.skipif(shutil.which("mount") is None or os.geteuid() != 0, reason="needs root to mount")
def test_a_folder_that_can_only_be_read(tmp_path, call, monkeypatch):
    store = tmp_path / "disk"
    with mounted(store, "size=100m"):
        assert call(store)[0] == 0
        record = record_of(store)
        subprocess.run(["mount", "-o", "remount,ro", str(store)], check=True)
        code, out = call(store)
        is_one_line(code, out, ["Read-only file system"])
        assert record_of(store) == record
    with mounted(tmp_path / "data-disk", "ro"):
        change(monkeypatch, "mnist", sources=[lambda scratch: {}])
        with pytest.raises(data.DataError, match="cannot be written: Read-only"):
            fetch.load("mnist", tmp_path / "data-disk")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path, call):
    store = tmp_path / "store"
    store.mkdir(mode=0o555)
    is_one_line(*call(store), ["Permission denied"])


# --- checkpoints ----------------------------------------------------------------------------------------------


class StopAt(L.Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == self.epoch:
            raise KeyboardInterrupt


def fit(path, said=None, **more):
    s = settings(train={"epochs": 4})
    parts = preprocess.prepare(made_splits(), s.data, True, CPU)
    say = (said if said is not None else []).append
    return train.fit(s, parts, 0, path, CPU, say=say, checkpoint_seconds=0.0, **more)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The bytes of a checkpoint after two epochs of four, and the result of the whole run."""
    folder = tmp_path_factory.mktemp("checkpoint")
    with pytest.raises(KeyboardInterrupt):
        fit(folder / "a.ckpt", callbacks=[StopAt(2)])
    content = (folder / "a.ckpt").read_bytes()
    return content, fit(folder / "b.ckpt")


def figures(outcome):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in outcome.curve]


IDENTITY = {"settings": settings(train={"epochs": 4}).digest(), "seed": "0"}


@FRACTIONS
@pytest.mark.timeout(3600)
def test_a_checkpoint_cut_or_changed_at_any_byte_is_not_resumed(tmp_path, checkpoint, fraction):
    content, _ = checkpoint
    path = tmp_path / "a.ckpt"
    path.write_bytes(content)
    good = checkpoint_file.saved(path)
    assert checkpoint_file.sound(path, IDENTITY, print) and path.exists()
    rng = random.Random(0)
    n, harmless = count(100) // fraction, 0
    for i in range(n):
        at = rng.randrange(len(content))
        raw = bytearray(content)
        if i % 2:
            raw[at] ^= rng.randrange(1, 256)
        else:
            del raw[at:]
        path.write_bytes(raw)
        said = []
        if checkpoint_file.sound(path, IDENTITY, said.append):
            harmless += 1
            assert i % 2 and equal(checkpoint_file.saved(path), good), f"change at byte {at} was not noticed"
        else:
            assert len(said) == 1 and said[0].isprintable()
            assert "is damaged" in said[0] and "starting afresh" in said[0]
            assert not path.exists() and path.with_name("a.ckpt.other").read_bytes() == raw
            path.with_name("a.ckpt.other").unlink()
    tell("checkpoints cut or changed", tried=n, refused=n - harmless, with_all_numbers_as_they_were=harmless)
    assert harmless < 0.1 * n


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999, 1.0])
def test_after_a_cut_checkpoint_the_result_is_the_undisturbed_one(tmp_path, checkpoint, share):
    content, wanted = checkpoint
    path = tmp_path / "a.ckpt"
    path.write_bytes(content[: int(share * len(content))])
    said = []
    outcome = fit(path, said)
    assert figures(outcome) == figures(wanted) and equal(outcome.net, wanted.net)
    assert bool(said) == (share < 1)


@pytest.mark.parametrize("part", checkpoint_file.OTHER)
def test_a_checkpoint_of_a_run_that_differs_in_any_part_of_its_key_is_not_resumed(tmp_path, checkpoint, part):
    content, _ = checkpoint
    path, said = tmp_path / "a.ckpt", []
    path.write_bytes(content)
    assert not checkpoint_file.sound(path, IDENTITY | {part: "another"}, said.append)
    how = f"was begun {checkpoint_file.OTHER[part]} (2 epochs), starting afresh"
    assert said == [f"checkpoint a.ckpt {how}; the old one is kept as a.ckpt.other"]
    assert path.with_name("a.ckpt.other").read_bytes() == content


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("ran",))


def test_no_code_in_a_checkpoint_or_net_is_run(tmp_path, checkpoint, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, _ = checkpoint
    path = tmp_path / "a.ckpt"
    torch.save({"run": Evil()}, path)
    assert not checkpoint_file.sound(path, IDENTITY, print)
    path.write_bytes(content)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "b.ckpt", "w") as target:
        for name in source.namelist():
            evil = name.endswith("data.pkl")
            target.writestr(name, pickle.dumps({"run": Evil()}) if evil else source.read(name))
    assert not checkpoint_file.sound(tmp_path / "b.ckpt", IDENTITY, print)
    torch.save(Evil(), path)
    with pytest.raises(ValueError, match="cannot be read"):
        weights.load(path)
    assert not (tmp_path / "ran").exists()


def test_files_left_by_killed_processes_are_removed(tmp_path, call):
    store = tmp_path / "store"
    assert call(store)[0] == 0
    (path,) = (store / "runs").glob("*.json")
    left = [store / "work" / f"{path.stem}.99.tmp", store / "nets" / f".{path.stem}.safetensors.99"]
    left += [store / "runs" / f".{path.stem}.json.99", store / "work" / f"{path.stem}.ckpt"]
    other = store / "work" / "table1-other-small-seed0-0.99.tmp"
    for scratch in [*left, other]:
        scratch.write_bytes(b"half")
    assert call(store)[0] == 0
    assert not [p for p in left if p.exists()] and other.exists()


# --- numbers --------------------------------------------------------------------------------------------------


def test_a_failed_run_is_recorded_with_epoch_seed_and_its_curve_so_far(tmp_path, call, monkeypatch, capsys):
    rate = train.optim.rate

    def jumps(rule, epochs, epoch):
        return 1e38 if epoch == 1 else rate(rule, epochs, epoch)

    monkeypatch.setattr(train.optim, "rate", jumps)
    store = tmp_path / "store"
    code, out = call(store)
    record = record_of(store)
    assert code == 1 and "failed: table1/made, seed 0:" in out.out
    assert record["status"] == "failed" and "after epoch 2" in record["failure"] and record["seed"] == 0
    assert [row["epoch"] for row in record["curve"]] == [1] and "result" not in record
    assert not list((store / "nets").iterdir())
    kept = list((store / "work").glob("*.ckpt"))
    assert (
        kept and len(checkpoint_file.saved(kept[0])["run"]["curve"]) == 1
    )  # nothing of the broken epoch was saved
