"""`reproduce freeze` and `reproduce predict`, from a trained run to figures, on made images."""

import json

import pytest
import torch
from made import convnet_settings, made_cell, settings
from test_campaign import go
from test_packed import random_state
from typer.testing import CliRunner

from kernels.cuda import launch
from reproduce import cli, data, freeze, machine, runs
from reproduce.packed import PackedNet, freeze_net


def run(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words])


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(freeze, "MEASURED_SECONDS", 0.0)


def test_a_run_is_packed_and_the_file_predicts_what_the_record_says(tmp_path, data_folder):
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
    again = run("freeze", store / "runs" / f"{record.stem}.json", "--data", data_folder)
    assert again.exit_code == 0, again.output


def test_a_net_of_real_inputs_is_fed_the_preprocessed_images(tmp_path, data_folder):
    steps = [{"step": "range", "low": 0, "high": 1}, {"step": "zca", "bias": 0.1}]
    record = go(tmp_path, data_folder, [made_cell(train={"epochs": 1}, data={"preprocess": steps})]).records[0]
    path = freeze.freeze_run(record.stem, runs.Store(tmp_path), data_folder, print)
    assert not PackedNet.load(path).pixels
    state = freeze.weights_of(runs.Store(tmp_path).net(record.stem))
    found = freeze.predict_net(PackedNet.load(path), data_folder, "auto", print, state)
    assert found.images == 200 and abs(found.wrong / 2 - record.result.test_error) <= 0.5
    assert all(image["margin"] < 1e-3 for image in found.differing)


def test_every_prediction_is_held_against_the_float32_nets_and_kept(tmp_path, data_folder):
    store = runs.Store(tmp_path / "store")
    record = go(store.root, data_folder, [made_cell(train={"epochs": 1})]).records[0]
    path = freeze.freeze_run(record.stem, store, data_folder, print)
    words = ("predict", path, "--data", data_folder, "--against")
    done = run(*words, store.net(record.stem), "--record", tmp_path / "kept")
    assert done.exit_code == 0, done.output
    assert "the float32 net gives another class on 0 of 200 images" in done.output
    (kept,) = (tmp_path / "kept").iterdir()
    found = json.loads(kept.read_text())
    assert found["differing"] == [] and found["about"]["key"] == record.key and found["images"] == 200
    assert found["times_smaller_than_float32"] == 4 * 26432 / path.stat().st_size
    state = freeze.weights_of(store.net(record.stem))
    state["blocks.2.norm.bias"][4] += 1e3
    torch.save(state, tmp_path / "other.pt")
    done = run(*words, tmp_path / "other.pt")
    assert "another class on 200 of" not in done.output and ", not 4, by " in done.output
    done = run(*words, tmp_path / "none.pt")
    assert done.exit_code == 2 and "its weights are not here" in done.stderr


@pytest.mark.parametrize("backend", ["cuda-xnor", "cuda-bmma"])
def test_a_file_predicts_through_a_cuda_backend(tmp_path, data_folder, cp, monkeypatch, backend):
    """As a person types it; the record names the GPU."""
    if launch.gpu_name() == "host":  # emulated
        real = machine.machine
        monkeypatch.setattr(machine, "machine", lambda device: real("cpu") | {"name": f"of {device}"})
    store = runs.Store(tmp_path / "store")
    record = go(store.root, data_folder, [made_cell(train={"epochs": 1})]).records[0]
    path = freeze.freeze_run(record.stem, store, data_folder, print)
    words = ("predict", path, "--data", data_folder, "--against", store.net(record.stem))
    done = run(*words, "--backend", backend, "--record", tmp_path / "kept")
    assert done.exit_code == 0, done.output
    assert "the float32 net gives another class on 0 of 200 images" in done.output
    assert f"{round(record.result.test_error * 2)} of 200 test images wrong" in done.output
    assert f"; {backend} (sm_" in done.output
    (kept,) = (tmp_path / "kept").iterdir()
    found = json.loads(kept.read_text())
    assert found["backend"].startswith(backend) and found["machine"]["name"] in ("of cuda", launch.gpu_name())


def test_what_cannot_be_packed_is_one_line(tmp_path, data_folder):
    store = tmp_path / "store"
    cell = made_cell(train={"epochs": 1}, net={"weights": "float"})
    record = go(store, data_folder, [cell]).records[0]

    def refused(code, words, *arguments):
        done = run(*arguments)
        assert done.exit_code == code and done.stderr.count("\n") == 1 and words in done.stderr, done.output

    options = ("--results", store, "--data", data_folder)
    refused(2, "float weights and sign activations: only ±1 can be packed", "freeze", record.stem, *options)
    refused(2, f"did you mean '{record.stem}'?", "freeze", record.stem[:-3], *options)
    weights = runs.Store(store).net(record.stem)
    weights.write_bytes(b"no weights")
    refused(2, "cannot be read", "freeze", record.stem, *options)
    weights.unlink()
    refused(2, "its weights are not here", "freeze", record.stem, *options)
    (store / "runs" / "x.json").write_text(json.dumps({"format": 9}))
    refused(2, "record format 9", "freeze", "x", *options)
    file = tmp_path / "x.bnn"
    torch.save({}, file)
    refused(2, "x.bnn: not a packed net", "predict", file)
    refused(2, "No such file", "predict", tmp_path / "none.bnn")


def test_an_unknown_backend_and_missing_data_are_one_line(tmp_path, data_folder, monkeypatch):
    def unreachable(scratch):
        raise OSError("unreachable")

    monkeypatch.setitem(data.SOURCES, "cifar10", [unreachable])
    wanted = convnet_settings()
    file = tmp_path / "net.bnn"
    freeze_net(wanted, random_state(wanted), None).save(file)
    done = run("predict", file, "--data", tmp_path)
    assert done.exit_code == 3 and "reproduce data cifar10" in done.stderr
    wanted = settings()
    freeze_net(wanted, random_state(wanted), None).save(file)
    done = run("predict", file, "--data", data_folder, "--backend", "abacus")
    assert done.exit_code == 2 and "no backend 'abacus'" in done.stderr


def changed(state, value):
    return state | {"blocks.2.norm.bias": value}


WRONG = {
    "keys that are numbers": lambda s: {3: s["blocks.2.norm.bias"]},
    "values that are none": lambda s: changed(s, 1.0),
    "sparse": lambda s: changed(s, s["blocks.2.norm.bias"].to_sparse()),
    "on no device": lambda s: changed(s, torch.empty(10, device="meta")),
    "not finite": lambda s: changed(s, torch.full((10,), float("nan"))),
    "8-bit": lambda s: changed(s, torch.zeros(10, dtype=torch.int8)),
    "complex": lambda s: changed(s, torch.zeros(10, dtype=torch.complex64)),
    "of another size": lambda s: changed(s, torch.zeros(9)),
    "too few": lambda s: {k: v for k, v in s.items() if k != "blocks.2.norm.bias"},
}


def test_weights_that_will_not_do_are_one_line_and_code_2(tmp_path, data_folder):
    store = runs.Store(tmp_path / "store")
    record = go(store.root, data_folder, [made_cell(train={"epochs": 1})]).records[0]
    path, weights = freeze.freeze_run(record.stem, store, data_folder, print), store.net(record.stem)
    state = freeze.weights_of(weights)
    for about, change in WRONG.items():
        torch.save(change(state), weights)
        for words in (("predict", path, "--against", weights), ("freeze", record.stem, "--results", store.root)):
            done = run(*words, "--data", data_folder)
            assert done.exit_code == 2 and done.stderr.count("\n") == 1, f"{about}: {done.output}"
            assert "norm.bias" in done.stderr or "holds no weights" in done.stderr, f"{about}: {done.stderr}"
