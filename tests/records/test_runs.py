"""Records and stores: complete or absent, keyed by all that decides the numbers; foreign files are skipped."""

import dataclasses
import json
from typing import get_args

import torch
from made import made_record, made_run
from pydantic import BaseModel

from reproduce import files, identity, spec, yamlfile
from reproduce.nets import products
from reproduce.records import machine, read_record, read_records, runs
from reproduce.report import rows


def test_key_holds_settings_seed_scale_data_code_device_and_mode(monkeypatch):
    base = made_run()
    epochs = {"train": {"epochs": 4}}
    changes = ({"seed": 1}, {"digest": "e" * 64}, {"order": "p" * 64}, {"scale": "paper"}, epochs)
    others = [*(made_run(**change) for change in changes), dataclasses.replace(base, device="cuda")]
    assert len({base.key, *(run.key for run in others)}) == 7
    assert base.stem != others[-1].stem
    key = base.key
    with monkeypatch.context() as patch:
        patch.setattr(machine, "source_digest", lambda _: "changed")
        assert base.key != key
    monkeypatch.setattr(products, "mode", lambda _: "another")
    assert base.key != key


def test_a_gpu_run_and_a_cpu_run_of_one_seed_are_different_runs(monkeypatch):
    """The kind of device distinguishes them even if the digests are equal."""
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


def test_every_committed_record_is_read_and_its_settings_fit_todays_schema():
    """Records of all revisions: today's rule gives the digest of their settings that they state."""
    paths = [p for folder in ("runs", "check/calibration", "check/mutants") for p in folder_of(folder)]
    assert len(paths) > 50
    for path in paths:
        record = read_record(path)
        if any(step["step"] == "lcn" and "as_in" not in step for step in record.settings["data"]["preprocess"]):
            continue  # the normalization of the first records no longer exists
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


def test_the_defaults_of_settings_do_not_change():
    """A field at its default is not in the digest: with another default, other runs would have the same digest.

    Add each new field here with its default, which must describe what runs did before the field existed.
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


def test_a_written_record_is_read_unchanged(tmp_path):
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


def test_damaged_foreign_or_future_records_are_named(tmp_path):
    content = made_record().model_dump(mode="json", exclude_none=True)
    files.write_sealed(tmp_path / "a.json", content | {"format": 2})
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "c.json").write_bytes(b"\xff")
    good = runs.Store(tmp_path / "s")
    good.prepare()
    (tmp_path / "d.json").write_text(good.write(made_record()).read_text())
    records, problems = read_records(tmp_path)
    assert len(records) == 1 and len(problems) == 3
    assert "record format 2" in problems[0] and all("\n" not in p for p in problems)


def test_publish_copies_each_run_once_also_failed_ones_but_no_mutants(tmp_path):
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


def test_publish_names_what_it_leaves_out_and_what_uncommitted_code_made(tmp_path):
    store, target, said = runs.Store(tmp_path / "local"), tmp_path / "public", []
    store.prepare()
    record = made_record(made_run(seed=1))
    dirty = store.write(record.model_copy(update={"code": record.code | {"dirty": True}}))
    path = store.write(made_record())
    (store.runs / "copy.json").write_bytes(path.read_bytes())
    target.mkdir()
    (target / path.name).write_text("{")
    assert runs.publish(store, target, said.append) == 1
    assert f"note: {dirty.name} was made by code with uncommitted changes" in said
    assert f"left out: copy.json: its name does not match its content, {path.stem}" in said
    assert any(line.startswith("left out: the published record of this name is damaged") for line in said)
    assert len(said) == 3 and (target / path.name).read_text() == "{"


def test_a_published_record_is_replaced_only_if_its_failed_run_has_finished(tmp_path):
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


def test_code_in_another_repository_is_not_called_clean(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "ROOT", yamlfile.ROOT / "reproduce")  # a folder inside a repository
    machine._revision.cache_clear()
    try:
        found = machine.code()
    finally:
        machine._revision.cache_clear()
    assert found["revision"] is None and found["dirty"] is None
