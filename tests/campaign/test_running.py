"""Unfinished runs: published as such until they end, shown, and used in no table, verdict or claim."""

import contextlib
import json
import time

import pytest
import torch
from made import made_cell, made_record, made_run, made_splits
from test_campaign import command, experiments

from reproduce import files, report, spec
from reproduce.campaign import under_way, worker
from reproduce.campaign.progress import Progress
from reproduce.datasets.data import Dataset
from reproduce.records import machine, read_record, read_running, runs
from reproduce.report import claims
from reproduce.report.html import head
from reproduce.report.sections import running as shown
from reproduce.report.sections import table1
from reproduce.training import preprocess, train

CPU = torch.device("cpu")
CELL = made_cell(train={"epochs": 4})


def go(store, epochs=None, seed=0, cell=CELL, scale="small"):
    """Trains that many epochs of a run, one in each call, or all that are left."""
    run = runs.Run(cell, scale, seed, cell.scales[scale], Dataset("mnist", {}, "d" * 64, "o" * 64))
    store.prepare()
    data = preprocess.prepare(made_splits(), run.settings.data, True, CPU)
    for _ in range(epochs or 1):
        deadline = None if epochs is None else time.monotonic()
        rest = (CPU, Progress([1.0], print), print, False, deadline, machine.call("cpu"), None)
        with contextlib.suppress(train.OutOfTime):
            worker._train(run, store, lambda _: data, *rest)


@pytest.fixture
def store(tmp_path):
    """A store with one run that has trained two epochs of four."""
    store = runs.Store(tmp_path / "store")
    go(store, 2)
    return store


def publish(store, target, cells=(CELL,)):
    """Publishes as the command does; returns the messages."""
    said = []
    runs.publish(store, target / "runs", said.append)
    under_way.publish(store, target, cells, said.append)
    return said


def names(folder):
    return sorted(path.name for path in folder.glob("*"))


def test_a_run_under_way_is_published_with_its_curve_and_removed_once_its_record_is_there(store, tmp_path):
    target = tmp_path / "public"
    assert publish(store, target) == []
    (path,) = (target / "running").iterdir()
    begun = read_running(path)
    assert (begun.cell, begun.scale, begun.seed) == ("table1/made", "small", 0)
    assert (begun.epochs_done, begun.epochs, len(begun.curve), begun.valid_images) == (2, 4, 2, 200)
    go(store, 1)
    publish(store, target)
    assert read_running(path).epochs_done == 3 and read_running(path).curve[:2] == begun.curve
    go(store)
    publish(store, target)
    assert names(target / "running") == [] and names(target / "runs") == [path.name]
    record = read_record(target / "runs" / path.name)
    assert record.curve[:2] == begun.curve and len(record.curve) == 4
    for name in ("key", "settings_digest", "data"):
        assert getattr(record, name) == getattr(begun, name)
    for name in ("source", "device", "mode", "revision", "dirty"):
        assert record.code[name] == begun.code[name], name
    assert begun.calls[-1]["name"] == record.machine["name"]
    assert sum(row.seconds for row in begun.curve) == pytest.approx(begun.seconds)


def test_unfinished_runs_of_another_store_are_kept_and_failed_runs_are_not_unfinished(store, tmp_path):
    target, other = tmp_path / "public", runs.Store(tmp_path / "other")
    go(other, 1, seed=1)
    publish(store, target)
    publish(other, target)
    assert len(names(target / "running")) == 2
    begun = read_running(next((target / "running").glob("*seed0*")))
    broken = made_record(made_run(train={"epochs": 4}), status="failed", result=None, failure="x", key=begun.key)
    store.write(broken)
    publish(store, target)
    assert ["seed1" in name for name in names(target / "running")] == [True]


def test_a_lost_run_is_no_longer_unfinished_once_another_run_of_its_seed_has_ended(store, tmp_path):
    target, other = tmp_path / "public", runs.Store(tmp_path / "other")
    publish(store, target)
    go(other, 1, seed=1)
    publish(other, target)
    other.write(made_record(made_run(train={"epochs": 4}), key="e" * 64))  # seed 0, of other code
    publish(other, target)
    assert ["seed1" in name for name in names(target / "running")] == [True]
    publish(store, target)  # where the run is still under way
    assert len(names(target / "running")) == 2


def test_a_run_begun_anew_by_other_code_takes_the_place_of_the_lost_one(store, tmp_path, monkeypatch):
    target, other = tmp_path / "public", runs.Store(tmp_path / "other")
    publish(store, target)
    monkeypatch.setattr(machine, "source_digest", lambda _: "f" * 64)
    go(other, 1)
    publish(other, target)
    (path,) = (target / "running").iterdir()
    assert read_running(path).epochs_done == 1 and read_running(path).code["source"] == "f" * 64


@pytest.mark.exhaustive
def test_checkpoints_that_cannot_be_read_or_are_of_other_cells_or_settings_are_named_and_left_out(store, tmp_path):
    (path,) = (store.root / "work").glob("*.ckpt")
    content = path.read_bytes()
    (path.parent / "cut.ckpt").write_bytes(content[:-100])
    at = content.index(b"train_loss")
    (path.parent / "changed.ckpt").write_bytes(content[:at] + b"X" + content[at + 1 :])
    (path.parent / "copy.ckpt").write_bytes(content)
    go(store, 1, cell=made_cell("table1/other", train={"epochs": 4}))
    go(store, 1, seed=1, cell=made_cell(train={"epochs": 5}))
    said = publish(store, tmp_path / "public")
    assert names(tmp_path / "public" / "running") == [f"{path.stem}.json"]
    told = {line.split(": ")[1].split("-small")[0]: line.split(": ", 2)[2] for line in said}
    assert told == {
        "cut.ckpt": "not a checkpoint that can be read",
        "changed.ckpt": "not a checkpoint that can be read",
        "copy.ckpt": "of other cells than these",
        "table1-other": "of other cells than these",
        "table1-made": "of other settings than today's experiment files",
    }


def test_the_report_shows_it_as_unfinished_and_its_tables_and_claims_do_not_change(store, tmp_path):
    target = tmp_path / "public"
    done = [made_record(made_run(seed=seed, train={"epochs": 4}), error=2.0 + seed) for seed in (1, 2)]
    for record in done:
        store.write(record)
    runs.publish(store, target / "runs", print)
    before = report.gather(target, [CELL])
    publish(store, target)
    after = report.gather(target, [CELL])
    assert len(after.running) == 1 and after.problems == () and after.runs == before.runs
    old, new = (report.tables(found, report.sections(found)) for found in (before, after))
    assert set(new) - set(old) == {"data/running-curves.csv", "data/running.csv"}
    changed = [name for name, text in old.items() if new[name] != text]
    assert changed in ([], ["data/forest.csv"])  # which says why a cell was not run
    assert head.sentences(before) == head.sentences(after)
    report.write(after, tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text()
    assert (tmp_path / "report" / "running-curves.svg").exists() and "Unfinished runs" in page
    assert "unfinished: 2 of 4 epochs" in page and "seed 0, epoch 2 of 4: " in page
    assert f'running/{after.running[0].stem}.json"' in page
    figure = shown.section(after).parts[1].frame
    errors = figure[figure["quantity"] == "validation error"]["value"]
    assert list(errors) == [row.valid_wrong / 2 for row in after.running[0].curve]  # of 200 images


@pytest.mark.exhaustive
def test_a_store_with_only_unfinished_runs_has_no_measurements(store, tmp_path):
    publish(store, tmp_path / "public")
    found = report.gather(tmp_path / "public", [CELL])
    assert not found.empty and set(table1.frame(found.runs, found.cells, quoted=False)["verdict"]) == {"not run"}
    empty = report.gather(tmp_path / "none", [CELL])
    assert claims.frame(found).equals(claims.frame(empty))


def test_damaged_and_foreign_files_of_runs_under_way_are_named_and_left_out(store, tmp_path):
    target = tmp_path / "public"
    publish(store, target)
    folder = target / "running"
    (path,) = folder.iterdir()
    good = json.loads(path.read_text())
    del good["sha256"]
    (folder / "changed.json").write_text(path.read_text().replace('"epochs_done": 2', '"epochs_done": 3'))
    for name, change in {"other": {"cell": "table1/other"}, "old": {"settings_digest": "0"}}.items():
        stem = runs.stem_of(good["cell"] if name == "old" else change["cell"], "small", 3, good["key"])
        files.write_sealed(folder / f"{stem}.json", good | {"seed": 3} | change)
    found = report.gather(target, [CELL])
    assert [run.stem for run in found.running] == [path.stem]
    words = {
        "changed.json": "its checksum does not fit",
        "table1-other": "of a cell that is not in this report",
        "table1-made": "of other settings",
    }
    assert len(found.problems) == len(words)
    for name, why in words.items():
        assert any(problem.startswith(name) and why in problem for problem in found.problems), name
    record = made_record(made_run(train={"epochs": 4}), key=good["key"])
    files.write_sealed(target / "runs" / path.name, record.model_dump(mode="json", exclude_none=True))
    found = report.gather(target, [CELL])
    assert found.running == () and any("there is a record of this run" in p for p in found.problems)


def test_publish_and_list_on_the_command_line(tmp_path, monkeypatch, capsys):
    folder = experiments(tmp_path / "experiments", epochs=3)
    monkeypatch.setattr(runs, "PUBLISHED", tmp_path / "public")
    store = runs.Store(tmp_path / "store")
    (cell,) = spec.cells(["table1/made"], folder)
    go(store, 2, cell=cell)
    (store.root / "work" / "cut.ckpt").write_bytes(b"")

    def typed(*words):
        assert command(monkeypatch, tmp_path, *words, "--results", str(store.root)) == 0
        out = capsys.readouterr().out
        return " ".join(out.replace("│", " ").split())

    assert "not run; seed 0 at epoch 2 of 3" in typed("list", "table1/made")
    said = typed("publish", "--to", str(tmp_path / "public"))
    assert "0 record(s) copied" in said and "1 run(s) under way" in said
    assert "left out: cut.ckpt: not a checkpoint that can be read" in said
    (path,) = (tmp_path / "public" / "running").iterdir()
    (store.root / "work" / f"{path.stem}.ckpt").unlink()
    assert "seed 0 at epoch 2 of 3" in typed("list", "table1/made")  # the published one
    go(store, cell=cell)
    said = typed("publish", "--to", str(tmp_path / "public"))
    assert "1 record(s) copied" in said and "0 run(s) under way" in said and not path.exists()
    assert "at epoch" not in typed("list", "table1/made")
