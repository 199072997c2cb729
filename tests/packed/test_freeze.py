"""`reproduce freeze` and `reproduce predict`, from a trained run to figures, on made images."""

import dataclasses
import hashlib
import json
import shutil
import struct

import numpy as np
import pytest
import torch
from made import change, convnet_settings, made_cell, raising, settings
from test_campaign import go
from test_packed import random_state
from typer.testing import CliRunner

from kernels.cuda import launch
from reproduce import files, nets
from reproduce.cli import app as cli
from reproduce.packed import PackedNet, freeze_net, from_run
from reproduce.records import machine, runs, weights


def run(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words])


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(from_run, "MEASURED_SECONDS", 0.0)


def test_a_run_is_packed_and_the_file_predicts_what_the_record_says(tmp_path, data_folder, monkeypatch):
    steps = [{"step": "range", "low": 0, "high": 1}, {"step": "standardize"}]
    store = tmp_path / "store"
    record = go(store, data_folder, [made_cell(train={"epochs": 2}, data={"preprocess": steps})]).records[0]
    done = run("freeze", record.stem, "--results", store, "--data", data_folder)
    assert done.exit_code == 0, done.output
    path = store / "packed" / f"{record.stem}.bnn"
    assert str(path) in done.output and "26,432 weights" in done.output
    net = PackedNet.load(path)
    assert net.pixels and net.about["key"] == record.key
    for backend in ("auto", "reference"):
        done = run("predict", path, "--data", data_folder, "--backend", backend)
        assert done.exit_code == 0, done.output
        wrong = round(record.result.test_error * 2)
        assert f"mnist: {wrong} of 200 test images wrong, {wrong / 2:.2f} %" in done.output
        assert f"the run's record says {wrong / 2:.2f} %" in done.output and "images/s" in done.output
    monkeypatch.chdir(store / "runs")
    for record_file in (store / "runs" / f"{record.stem}.json", f"{record.stem}.json"):
        again = run("freeze", record_file, "--data", data_folder)
        assert again.exit_code == 0, again.output


def test_a_net_of_real_inputs_is_fed_the_preprocessed_images(tmp_path, data_folder):
    steps = [{"step": "range", "low": 0, "high": 1}, {"step": "zca", "bias": 0.1}]
    record = go(tmp_path, data_folder, [made_cell(train={"epochs": 1}, data={"preprocess": steps})]).records[0]
    path = from_run.freeze_run(record.stem, runs.Store(tmp_path), data_folder, print)
    assert not PackedNet.load(path).pixels
    state = weights.load(runs.Store(tmp_path).net(record.stem))
    found = from_run.predict_net(PackedNet.load(path), data_folder, "auto", print, state)
    assert found.images == 200 and abs(found.wrong / 2 - record.result.test_error) <= 0.5
    assert all(image["margin"] < 1e-3 for image in found.differing)


def test_every_prediction_is_compared_with_the_float32_nets_and_recorded(tmp_path, data_folder):
    store = runs.Store(tmp_path / "store")
    record = go(store.root, data_folder, [made_cell(train={"epochs": 1})]).records[0]
    path = from_run.freeze_run(record.stem, store, data_folder, print)
    words = ("predict", path, "--data", data_folder, "--against")
    done = run(*words, store.net(record.stem), "--record", tmp_path / "kept")
    assert done.exit_code == 0, done.output
    assert "the float32 net gives another class on 0 of 200 images" in done.output
    (kept,) = (tmp_path / "kept").iterdir()
    found = json.loads(kept.read_text())
    assert found["differing"] == [] and found["about"]["key"] == record.key and found["images"] == 200
    assert found["times_smaller_than_float32"] == 4 * 26432 / path.stat().st_size
    state = weights.load(store.net(record.stem))
    state["blocks.2.norm.bias"][4] += 1e3
    weights.save(tmp_path / "other.safetensors", state)
    done = run(*words, tmp_path / "other.safetensors")
    said = "other.safetensors: not the weights that this net was packed from"
    assert done.exit_code == 2 and said in done.stderr
    forget_where_from(path)
    done = run(*words, tmp_path / "other.safetensors")
    assert "another class on 200 of" not in done.output and ", not 4 as in float32; in float64 4" in done.output
    done = run(*words, tmp_path / "none.safetensors")
    assert done.exit_code == 2 and "there is no file of its weights" in done.stderr


def test_a_class_that_differs_by_rounding_in_float32_is_the_float64_nets(tmp_path, data_folder):
    """All first-layer units of an image are put next to zero: float32 takes the wrong side of some of them."""
    record = go(tmp_path, data_folder, [made_cell(train={"epochs": 1})]).records[0]
    settings, state = from_run.settings_of(record), weights.load(runs.Store(tmp_path).net(record.stem))
    affine = from_run._affine(settings, data_folder, print)
    net = freeze_net(settings, state, affine)
    found, images = from_run.compare_net(net, data_folder, "auto", print, state)
    assert found.differing == []
    module = nets.build(settings)
    module.load_state_dict(state)
    scale, shift = affine
    differing, values = [], []
    module.blocks[0].norm.register_forward_hook(lambda *given: values.append(given[2]))
    for image in range(20):
        x = torch.from_numpy(images[image : image + 1].reshape(1, -1).astype(np.float64) * scale + shift)
        with torch.no_grad():
            module.double().eval()(x)
        bias = state["blocks.0.norm.bias"]
        moved = state | {"blocks.0.norm.bias": (bias.double() - values[-1][0]).float()}
        net = freeze_net(settings, moved, affine)
        differing += from_run.compare_net(net, data_folder, "auto", print, moved)[0].differing
    assert differing and all(d["float64"] == d["packed"] != d["float32"] for d in differing)


def forget_where_from(path):
    """A net packed as in earlier versions, without a run."""
    dataclasses.replace(PackedNet.load(path), about={}).save(path)


def test_weights_of_another_run_are_refused(tmp_path, data_folder):
    """Weights of another run are not packed under this run's name; an older record accepts any that fit."""
    store = runs.Store(tmp_path / "store")
    cell = made_cell(train={"epochs": 1})
    one, other = go(store.root, data_folder, [cell], seeds=(0, 1)).records
    assert one.weights_sha256 == weights.digest(weights.load(store.net(one.stem))) != other.weights_sha256
    shutil.copy(store.net(other.stem), store.net(one.stem))
    words = ("freeze", one.stem, "--results", store.root, "--data", data_folder)
    done = run(*words)
    assert done.exit_code == 2 and "the digest of these weights is not the one in the run's record" in done.stderr
    assert not (store.root / "packed").exists()
    older(store, one)
    done = run(*words)
    assert (
        done.exit_code == 0 and "an older one, has no digest of its weights: they cannot be checked" in done.output
    )


def older(store, record):
    """Rewrites a record as it was before records held the digest of the weights."""
    content = record.model_dump(mode="json", exclude_none=True)
    del content["weights_sha256"]
    files.write_sealed(store.runs / f"{record.stem}.json", content)


def test_the_digest_of_weights_is_that_of_every_name_shape_and_number():
    state = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(1.0)}
    by_hand = b"a[]" + struct.pack("<f", 1.0) + b"b[2, 3]" + struct.pack("<6f", *range(6))
    assert weights.digest(state) == hashlib.sha256(by_hand).hexdigest()
    same = {"a": state["a"], "b": state["b"].T.contiguous().T}
    assert weights.digest(same) == weights.digest(state)
    others = [{"b": state["b"]}, state | {"b": state["b"].reshape(3, 2)}, state | {"a": torch.tensor(1.0 + 1e-7)}]
    assert len({weights.digest(each) for each in [state, *others]}) == 4


@pytest.mark.exhaustive
@pytest.mark.parametrize("backend", ["cuda-xnor", "cuda-bmma"])
def test_a_file_predicts_through_a_cuda_backend(tmp_path, data_folder, cp, monkeypatch, backend):
    """Runs the command; the record names the GPU."""
    if launch.gpu_name() == "host":  # emulated
        real = machine.machine
        monkeypatch.setattr(machine, "machine", lambda device: real("cpu") | {"name": f"of {device}"})
    store = runs.Store(tmp_path / "store")
    record = go(store.root, data_folder, [made_cell(train={"epochs": 1})]).records[0]
    path = from_run.freeze_run(record.stem, store, data_folder, print)
    words = ("predict", path, "--data", data_folder, "--against", store.net(record.stem))
    done = run(*words, "--backend", backend, "--record", tmp_path / "kept")
    assert done.exit_code == 0, done.output
    assert "the float32 net gives another class on 0 of 200 images" in done.output
    assert f"{round(record.result.test_error * 2)} of 200 test images wrong" in done.output
    assert f"; {backend} (sm_" in done.output
    (kept,) = (tmp_path / "kept").iterdir()
    found = json.loads(kept.read_text())
    assert found["backend"].startswith(backend) and found["machine"]["name"] in ("of cuda", launch.gpu_name())


def test_a_run_that_cannot_be_packed_is_one_line(tmp_path, data_folder):
    store = tmp_path / "store"
    cell = made_cell(train={"epochs": 1}, net={"weights": "float"})
    record = go(store, data_folder, [cell]).records[0]

    def refused(code, words, *arguments):
        done = run(*arguments)
        assert done.exit_code == code and done.stderr.count("\n") == 1 and words in done.stderr, done.output

    options = ("--results", store, "--data", data_folder)
    refused(2, "blocks.0.layer: float weights: only ±1", "freeze", record.stem, *options)
    refused(2, f"did you mean '{record.stem}'?", "freeze", record.stem[:-3], *options)
    weights = runs.Store(store).net(record.stem)
    weights.write_bytes(b"no weights")
    refused(2, "cannot be read", "freeze", record.stem, *options)
    weights.unlink()
    refused(2, "there is no file of its weights", "freeze", record.stem, *options)
    files.write_sealed(store / "runs" / "x.json", {"format": 9})
    refused(2, "record format 9", "freeze", "x", *options)
    file = tmp_path / "x.bnn"
    torch.save({}, file)
    refused(2, "x.bnn: not a packed net", "predict", file)
    refused(2, "No such file", "predict", tmp_path / "none.bnn")


def test_an_unknown_backend_and_missing_data_are_one_line(tmp_path, data_folder, monkeypatch, capsys):
    change(monkeypatch, "cifar10", sources=[raising(OSError("unreachable"))])
    wanted = convnet_settings()
    file = tmp_path / "net.bnn"
    freeze_net(wanted, random_state(wanted), None).save(file)
    monkeypatch.setattr("sys.argv", ["reproduce", "predict", str(file), "--data", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 3 and "reproduce data cifar10" in capsys.readouterr().err
    wanted = settings()
    freeze_net(wanted, random_state(wanted), None).save(file)
    done = run("predict", file, "--data", data_folder, "--backend", "abacus")
    assert done.exit_code == 2 and "no backend 'abacus'" in done.stderr
