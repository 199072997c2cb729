"""Records and stores: whole or not at all, keyed by what decides the numbers, foreign files named and left out."""

import dataclasses
import json
from typing import get_args

import pytest
import torch
from made import made_record, made_run
from pydantic import BaseModel

from reproduce import files, identity, spec, yamlfile
from reproduce.nets import products
from reproduce.records import machine, read_record, read_records, runs
from reproduce.report import rows


def test_key_holds_settings_seed_scale_data_code_device_and_mode(monkeypatch):
    base = made_run()
    others = [
        made_run(seed=1),
        made_run(digest="e" * 64),
        made_run(order="p" * 64),
        made_run(scale="paper"),
        made_run(train={"epochs": 4}),
        dataclasses.replace(base, device="cuda"),
    ]
    assert len({base.key, *(run.key for run in others)}) == 7
    assert base.stem != others[-1].stem
    key = base.key
    with monkeypatch.context() as patch:
        patch.setattr(machine, "source_digest", lambda _: "changed")
        assert base.key != key
    monkeypatch.setattr(products, "mode", lambda _: "another")
    assert base.key != key


def test_a_gpu_run_and_a_cpu_run_of_one_seed_are_two_runs_with_digests_of_their_own(monkeypatch):
    """The device kind tells them apart even where the digests should be the same."""
    cpu, cuda = made_run(), dataclasses.replace(made_run(), device="cuda")
    assert cpu.parts["source"] != cuda.parts["source"]
    assert (cpu.parts["device"], cuda.parts["device"]) == ("cpu", "cuda")
    monkeypatch.setattr(machine, "source_digest", lambda _: "s" * 64)
    monkeypatch.setattr(products, "mode", lambda _: "torch")
    assert cpu.key != cuda.key


def test_a_record_says_digest_device_mode_and_threads():
    code = made_record().code
    assert (code["source"], code["device"]) == (identity.digest("cpu"), "cpu")
    assert code["mode"] == products.mode("cpu") and code["threads"] == [torch.get_num_threads()]


def test_every_committed_record_is_read_and_its_settings_are_todays_schemas():
    """Records of all revisions: their settings give the digest they say, by today's rule."""
    paths = [p for folder in ("runs", "check/calibration", "check/mutants") for p in folder_of(folder)]
    assert len(paths) > 50
    for path in paths:
        record = read_record(path)
        if any(step["step"] == "lcn" and "as_in" not in step for step in record.settings["data"]["preprocess"]):
            continue  # the normalization of the first records is no longer there
        settings = spec.Settings.model_validate_json(json.dumps(record.settings))
        assert settings.digest() == record.settings_digest, path.name
        assert rows.made_by(record).device in ("cpu", "cuda")


def folder_of(name):
    return sorted((runs.PUBLISHED / name).glob("*.json"))


def test_a_field_added_with_a_default_leaves_the_digest_of_older_settings():
    class Train(spec.Train):
        warmup: int = 0

    class Settings(spec.Settings):
        train: Train

    content = made_run().settings.model_dump(mode="json")
    wider = Settings.model_validate_json(json.dumps(content))
    assert wider.train.warmup == 0 and wider.digest() == made_run().settings.digest()
    content["train"]["warmup"] = 3
    assert Settings.model_validate_json(json.dumps(content)).digest() != wider.digest()
    content["train"]["warmup"] = 0
    assert Settings.model_validate_json(json.dumps(content)).digest() == wider.digest()


def test_the_defaults_of_settings_are_these_and_never_change():
    """A field at its default is not in the digest: with another default, other runs would have the same digest.

    A new field goes in here with its default, which stands for what runs did before there was the field.
    """
    registries = (spec.NETS, spec.OPTIMIZERS, spec.RATES, spec.PREPROCESSING)
    found, todo = {}, [spec.Settings, *(model for registry in registries for model in registry.schemas.values())]
    while todo:
        model = todo.pop()
        for name, field in model.model_fields.items():
            if not field.is_required():
                found[f"{model.__name__}.{name}"] = field.default
            todo += models_in(field.annotation)
    known = {f"{net}.ste_mask": True for net in ("MLPNet", "ConvNet")} | {"Train.loss": "squared_hinge"}
    known |= {f"{net}.first_weights": "as_others" for net in ("MLPNet", "ConvNet")} | {"ConvNet.border": 0}
    known |= {"ShiftAdaMaxRule.decays": False}
    assert found == known


def models_in(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in models_in(argument)]


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
    files.write_sealed(store.runs / f"{run.stem}.json", other.model_dump(mode="json", exclude_none=True))
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
    files.write_sealed(tmp_path / "a.json", content)
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "c.json").write_bytes(b"\xff")
    good = runs.Store(tmp_path / "s")
    good.prepare()
    (tmp_path / "d.json").write_text(good.write(made_record()).read_text())
    records, problems = read_records(tmp_path)
    assert len(records) == 1 and len(problems) == 3
    assert words in problems[0] and all("\n" not in p for p in problems)


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
    assert "is damaged" in said[1] and path.name in said[1] and len(said) == 2


def test_code_in_another_repository_is_not_called_clean(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "ROOT", yamlfile.ROOT / "reproduce")  # a folder inside a repository
    machine._revision.cache_clear()
    try:
        found = machine.code()
    finally:
        machine._revision.cache_clear()
    assert found["revision"] is None and found["dirty"] is None
