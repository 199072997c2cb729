"""Records and stores: whole or not at all, keyed by what decides the numbers, foreign files named and left out."""

import ast
import json
from pathlib import Path

import pytest
from made import made_record, made_run

from reproduce import files, machine, runs, yamlfile
from reproduce.records import read_record, read_records


def test_key_holds_settings_seed_scale_data_and_training_source(monkeypatch):
    base = made_run().key
    others = [
        made_run(seed=1),
        made_run(digest="e" * 64),
        made_run(order="p" * 64),
        made_run(scale="paper"),
        made_run(train={"epochs": 4}),
    ]
    assert len({base, *(run.key for run in others)}) == 6
    monkeypatch.setattr(machine, "source_digest", lambda: "changed")
    assert made_run().key != base


def test_training_source_covers_what_training_imports():
    """Modules that the training imports, but for the settings' and for the kernels whose results are exact."""
    exact = set("spec yamlfile cpu build packed bitcount reference launch nvrtc tiles".split())
    seen, todo = set(), ["reproduce/training/train.py"]
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        for node in ast.walk(ast.parse((yamlfile.ROOT / path).read_text())):
            if not isinstance(node, ast.ImportFrom) or node.module is None:
                continue
            folder = node.module.replace(".", "/")
            for name in [folder, *(f"{folder}/{alias.name}" for alias in node.names)]:
                found = f"{name}.py"
                if (yamlfile.ROOT / found).is_file() and Path(found).stem not in exact:
                    todo.append(found)
    modules = {name for name in machine.TRAINING_SOURCE if name.endswith(".py")}
    assert seen == modules
    assert all((yamlfile.ROOT / name).is_file() for name in machine.TRAINING_SOURCE)
    used = {Path(name).stem for name in machine.TRAINING_SOURCE if "csrc" in name}
    assert used == {"reals", "signs", "updates"}


def test_written_record_comes_back_whole(tmp_path):
    store = runs.Store(tmp_path)
    store.prepare()
    record = made_record()
    path = store.write(record)
    assert read_record(path) == record
    assert store.finished(made_run()) == record
    assert store.finished(made_run(seed=1)) is None
    assert [p.name for p in store.runs.iterdir()] == [path.name]
    assert json.loads(path.read_text())["machine"]["cores"] >= 1
    assert {"revision", "dirty", "source"} <= set(record.code)
    assert {"python", "torch", "lightning", "numpy"} <= set(record.libraries)


def test_a_record_of_another_run_under_this_name_does_not_count(tmp_path):
    store = runs.Store(tmp_path)
    store.prepare()
    run = made_run()
    other = made_record(made_run(seed=3))
    (store.runs / f"{run.stem}.json").write_text(json.dumps(other.model_dump(mode="json", exclude_none=True)))
    assert store.finished(run) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(format=2), "record format 2"),
        (lambda c: c.update(seed=-1), "seed"),
        (lambda c: c.update(extra=1), "extra"),
        (lambda c: c.pop("curve"), "curve"),
        (lambda c: c["result"].update(test_error="2.0"), "result.test_error"),
        (lambda c: c["result"].update(test_error=101.0), "result.test_error"),
        (lambda c: c["curve"][0].update(train_loss=-1.0), "curve.0.train_loss"),
    ],
)
def test_damaged_foreign_or_future_records_are_named(tmp_path, change, words):
    content = made_record().model_dump(mode="json", exclude_none=True)
    change(content)
    (tmp_path / "a.json").write_text(json.dumps(content))
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "c.json").write_bytes(b"\xff")
    good = runs.Store(tmp_path / "s")
    good.prepare()
    (tmp_path / "d.json").write_text(good.write(made_record()).read_text())
    records, problems = read_records(tmp_path)
    assert len(records) == 1 and len(problems) == 3
    assert words in problems[0] and all("\n" not in p for p in problems)


def test_scratch_files_do_not_stay_when_writing_fails(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        files.write_whole(tmp_path / "x.json", "text")
    assert list(tmp_path.iterdir()) == []


def test_publish_copies_runs_once_broken_ones_too_and_no_mutants(tmp_path):
    store = runs.Store(tmp_path / "local")
    store.prepare()
    store.write(made_record())
    store.write(made_record(made_run(seed=1, variant="no-mask")))
    store.write(made_record(made_run(seed=2), status="failed", result=None, failure="not finite after epoch 3"))
    (store.runs / "bad.json").write_text("{}")
    said = []
    target = tmp_path / "public"
    assert runs.publish(store, target, said.append) == 2
    assert runs.publish(store, target, said.append) == 0
    assert len(list(target.iterdir())) == 2
    assert any("bad.json" in line for line in said) and any("after epoch 3" in line for line in said)


def test_a_published_record_is_only_replaced_where_a_broken_run_has_finished_since(tmp_path):
    store = runs.Store(tmp_path / "local")
    store.prepare()
    target = tmp_path / "public"
    broken = made_record(status="failed", result=None, failure="x")
    path = target / store.write(broken).name
    runs.publish(store, target, lambda _: None)
    store.write(made_record(error=2.0))
    assert runs.publish(store, target, lambda _: None) == 1
    store.write(made_record(error=3.0))
    assert runs.publish(store, target, lambda _: None) == 0
    assert read_record(path).result.test_error == 2.0
    store.write(broken)
    assert runs.publish(store, target, lambda _: None) == 0


def test_publish_tells_of_a_damaged_published_record_and_of_a_false_name(tmp_path):
    store = runs.Store(tmp_path / "local")
    store.prepare()
    target = tmp_path / "public"
    path = target / store.write(made_record()).name
    target.mkdir()
    path.write_text("{}")
    false = store.runs / "another-name.json"
    false.write_bytes((store.runs / path.name).read_bytes())
    said = []
    assert runs.publish(store, target, said.append) == 0
    assert [p.name for p in target.iterdir()] == [path.name] and path.read_text() == "{}"
    assert said[0] == f"left out: another-name.json: not its own name, it holds {path.stem}"
    assert "no sound record" in said[1] and path.name in said[1] and len(said) == 2


def test_a_file_that_is_longer_than_it_says_is_not_taken_by_half():
    """Files of /proc say that they are empty; one that grows while it is read is the same."""
    with pytest.raises(ValueError, match="changed while it was read"):
        yamlfile.whole_file(Path("/proc/self/status"), 2**20)


def test_code_in_another_repository_is_not_called_clean(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "ROOT", yamlfile.ROOT / "reproduce")  # a folder inside a repository
    machine.code.cache_clear()
    try:
        found = machine.code()
    finally:
        machine.code.cache_clear()
    assert found["revision"] is None and found["dirty"] is None
