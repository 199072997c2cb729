"""Packed nets as evidence: which runs' nets `publish` packs, what it compares, and which results it keeps."""

import hashlib
import json
import shutil

import pytest
from made import made_cell, made_splits, raising
from test_report_evidence import packed, put
from test_running import go

from reproduce import report
from reproduce.datasets import data, fetch
from reproduce.datasets.data import Dataset
from reproduce.packed import PackedNet, publish_nets
from reproduce.records import runs, weights
from reproduce.report import claims
from reproduce.report.sections import energy

CELL = made_cell(train={"epochs": 1})


@pytest.fixture(autouse=True)
def images(monkeypatch):
    """Makes the training images of `go`'s runs the data set."""
    monkeypatch.setattr(fetch, "load", lambda *_: Dataset("mnist", {}, "d" * 64, "o" * 64))
    monkeypatch.setattr(data, "splits", lambda *_: made_splits())


def publish(store, target):
    said = []
    return publish_nets.publish(store, target, None, said.append), said


def test_finished_bnn_runs_are_packed_once_and_every_prediction_compared(tmp_path):
    store, target = runs.Store(tmp_path / "store"), tmp_path / "public" / "nets"
    for seed in (0, 1):
        go(store, seed=seed, cell=CELL, scale="paper")
    go(store, cell=CELL)
    go(store, cell=made_cell("table1/float", train={"epochs": 1}, net={"weights": "float"}), scale="paper")
    go(store, 1, cell=made_cell("table1/begun", train={"epochs": 3}), scale="paper")
    assert publish(store, target) == (2, [])
    zero, one = sorted((target).glob("*.json"))
    assert [path.name for path in target.glob("*.bnn")] == [f"{zero.stem}.bnn"]
    assert "paper-seed0" in zero.stem and "paper-seed1" in one.stem
    for path in (zero, one):
        found = json.loads(path.read_text())
        state = weights.load(store.net(path.stem))
        record = json.loads((store.runs / path.name).read_text())
        assert (found["images"], found["differing"]) == (200, [])
        assert found["wrong"] == round(2 * record["result"]["test_error"])
        assert found["about"]["weights_sha256"] == weights.digest(state) and found["about"]["key"] == record["key"]
        assert "latency" not in found and "images_per_second" not in found
    content = (target / f"{zero.stem}.bnn").read_bytes()
    assert json.loads(zero.read_text())["file_sha256"] == hashlib.sha256(content).hexdigest()
    assert json.loads(zero.read_text())["bytes"] == len(content)
    assert PackedNet.load(target / f"{zero.stem}.bnn").about["seed"] == 0
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    assert publish(store, target) == (0, [])
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before


def test_the_claim_uses_the_records_and_fails_if_a_prediction_differs(tmp_path):
    store, target = runs.Store(tmp_path / "store"), tmp_path / "public" / "nets"
    go(store, cell=CELL, scale="paper")
    publish(store, target)
    found = report.gather(tmp_path / "public", [CELL])
    assert found.problems == () and len(found.nets) == 1
    (line,) = energy.files(found).to_dict("records")
    assert (line["cell"], line["scale"], line["images"], line["differing"]) == ("table1/made", "paper", 200, 0)
    assert line["records"].startswith("public/nets/table1-made-paper-seed0-")
    backend = found.nets[0].backend
    said = f"0 of 200 predictions of 1 packed net (paper scale; {backend}) differ from the float32 net's"
    assert lost(found) == (said, "holds")
    small = packed(differing=[{"image": 1, "packed": 2, "float32": 3, "float64": 3}], wrong=1)
    put(tmp_path / "public" / "kernels", "net-1.json", small)  # counts only if there is no other
    assert lost(report.gather(tmp_path / "public", [CELL])) == lost(found)
    put(tmp_path / "small" / "kernels", "net-1.json", small)
    said = "1 of 100 predictions of 1 packed net (small scale) differ from the float32 net's"
    assert lost(report.gather(tmp_path / "small", [CELL])) == (
        f"{said}; 1 of these from the float64 net's too",
        "does not hold",
    )
    rounded = packed(differing=[{"image": 1, "packed": 2, "float32": 3, "float64": 2}], wrong=1)
    put(tmp_path / "small" / "kernels", "net-1.json", rounded)
    assert lost(report.gather(tmp_path / "small", [CELL])) == (
        f"{said}; there float64 agrees with ours",
        "holds",
    )
    (path,) = target.glob("*.json")
    state = weights.load(store.net(path.stem))
    state["blocks.2.norm.bias"][4] += 1e3  # another net, which predicts 4 for every image
    record = json.loads((store.runs / path.name).read_text())
    weights.save(store.net(path.stem), state)
    path.unlink()
    done, said = publish(store, target)
    assert (
        done == 0
        and "the digest of these weights is not the one in the run's record" in said[0]
        and record["weights_sha256"]
    )


def lost(found):
    frame = claims.frame(found)
    (line,) = frame[frame["again"].str.startswith("reproduce predict FILE --against")].to_dict("records")
    return line["measured"], line["verdict"]


def test_a_net_without_weights_or_data_or_too_large_is_reported(tmp_path, monkeypatch):
    store, target = runs.Store(tmp_path / "store"), tmp_path / "nets"
    go(store, cell=CELL, scale="paper")
    with monkeypatch.context() as patch:
        patch.setattr(fetch, "load", raising(data.DataError("mnist cannot be had")))
        done, said = publish(store, target)
        assert done == 0 and said[0].endswith(": mnist cannot be had") and not target.exists()
    with monkeypatch.context() as patch:
        patch.setattr(publish_nets, "LARGEST", 100)
        done, said = publish(store, target)
        assert done == 1 and "is not copied" in said[0] and [p.suffix for p in target.iterdir()] == [".json"]
    shutil.rmtree(target)
    shutil.rmtree(store.root / "nets")
    done, said = publish(store, target)
    assert done == 0 and "there is no file of its weights" in said[0]
