"""Exported nets against an independent float64 evaluation, and the command that writes them."""

import hashlib
import io
import json
import re
import zipfile

import numpy as np
import pytest
from made import convnet_settings, made_cell
from test_campaign import go
from test_freeze import run
from test_packed import SHIFT, evaluate, images_for, of_kind, preprocessed, random_state, shift_of

from reproduce import files
from reproduce.packed import freeze_net
from reproduce.packed.export import formats, npz, qonnx
from reproduce.records import read_records, runs

onnx = pytest.importorskip("onnx")
QONNX = pytest.mark.skipif(bool(formats.missing("qonnx")), reason="no qonnx")
KINDS = ["onnx", "npz", pytest.param("qonnx", marks=QONNX)]


def lacks(proof, published):
    """What is missing in the proof of a published run's export; empty if nothing is."""
    of = {record.key: record for record in published}.get(proof["about"]["key"])
    if of is None:
        return "a published run"
    right = {
        "the run's weights": proof["about"]["weights_sha256"] == of.weights_sha256,
        "every test image": proof["images"] == of.result.test_images,
        "equal predictions": proof["differing"] == [],
        "the run's errors": proof["wrong"] == round(of.result.test_error * of.result.test_images / 100),
        "the file's digest": bool(re.fullmatch("[0-9a-f]{64}", str(proof.get("file_sha256")))),
        "the run's hash in the file's name": proof["file"].startswith(of.stem),
    }
    return ", ".join(what for what, there in right.items() if not there)


def scored(kind, net, images):
    return formats.FORMATS[kind].run(formats.FORMATS[kind].build(net), images)


def held(kind, net, images, scores):
    """The exported file's scores are those of float64, up to qonnx's float32."""
    found = scored(kind, net, images)
    rtol, atol = (1e-4, 1e-4) if kind == "qonnx" else (1e-12, 1e-9)
    np.testing.assert_allclose(found, scores, rtol=rtol, atol=atol)
    assert (found.argmax(1) == scores.argmax(1)).all()


@pytest.mark.parametrize("shift", ["scalar", "per pixel"])
@pytest.mark.parametrize("net", ["mlp", "convnet"])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_a_float64_evaluation(kind, net, shift):
    """Ties, units with negative gamma, constant units, and thresholds that depend on the position."""
    wanted = of_kind(net)
    images, moved = images_for(wanted), shift_of(shift, wanted)
    for seed in range(2):
        state = random_state(wanted, seed)
        packed = freeze_net(wanted, state, (1 / 128, moved))
        assert packed.first.rule.below.any() and any(layer.rule.below.any() for layer in packed.hidden)
        held(kind, packed, images, evaluate(wanted, state, preprocessed(wanted, images, 1 / 128, moved))[1])


@pytest.mark.parametrize("net", ["mlp", "convnet"])
@pytest.mark.parametrize("kind", KINDS)
def test_shift_norms_and_a_centred_range(kind, net):
    wanted = of_kind(net, SHIFT)
    images, state = images_for(wanted), random_state(wanted, 3, wild=False)
    packed = freeze_net(wanted, state, (2 / 255, np.float32(-1)))
    held(kind, packed, images, evaluate(wanted, state, preprocessed(wanted, images, 2 / 255, -1.0))[1])


@pytest.mark.parametrize("net", ["mlp", "convnet"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_net_of_real_inputs_takes_them(kind, net):
    wanted = of_kind(net)
    state = random_state(wanted, wild=False)
    packed = freeze_net(wanted, state, None)
    x = np.random.default_rng(1).normal(size=(5, *packed.image)).astype(np.float32)
    held(kind, packed, x, evaluate(wanted, state, x.reshape(5, -1) if net == "mlp" else x)[1])


@QONNX
@pytest.mark.parametrize(
    ("steps", "scale", "shift", "one_each"),
    [
        ([{"step": "range", "low": -1, "high": 1}], 2 / 255, -1.0, True),
        ([{"step": "range", "low": 0, "high": 1}], 1 / 255, 0.0, True),
        ([{"step": "range", "low": 0, "high": 1}, {"step": "standardize"}], 1 / 64, -1.75, False),
    ],
)
def test_a_first_convolution_has_one_threshold_for_each_channel_if_possible(steps, scale, shift, one_each):
    """The border is 0 after preprocessing: at pixel 127.5, 0, 112."""
    wanted = convnet_settings(net={"channels": [70]}, data={"preprocess": steps})
    state, images = random_state(wanted, wild=False), images_for(wanted, 12)
    net = freeze_net(wanted, state, (scale, np.float32(shift)))
    held("qonnx", net, images, evaluate(wanted, state, preprocessed(wanted, images, scale, shift))[1])
    model = onnx.load_from_string(qonnx.build(net))
    places = [c for c in model.graph.initializer if list(c.dims) == [1, 70, 32, 32]]
    assert len(places) == (not one_each)


@QONNX
def test_one_threshold_is_right_for_every_sum_of_pixels_at_every_position():
    """Every sum that images can have, at each kind of position, against the rule of that position."""
    wanted = convnet_settings(net={"channels": [40]})
    net = freeze_net(wanted, random_state(wanted), (2 / 255, np.float32(-1)))
    layer = net.first
    found = qonnx.one_threshold(layer, 2, 255)
    w = np.where(np.unpackbits(layer.weights.words.view(np.uint8), axis=-1, bitorder="little")[..., :3], 1, -1)
    for y, x in [(0, 0), (0, 9), (31, 31), (14, 0), (11, 20)]:
        rows, columns = (slice(int(i == 0), 3 - int(i == 31)) for i in (y, x))
        taps = w[:, rows, columns].reshape(40, -1)
        level = layer.rule.level[layer.rule.row[y], layer.rule.column[x]]
        for unit in range(40):
            sums = np.arange(-255 * (taps[unit] < 0).sum(), 255 * (taps[unit] > 0).sum() + 1)
            falls = layer.rule.below[unit]
            right = sums <= level[unit] if falls else sums >= level[unit]
            moved = 2 * sums - 255 * taps[unit].sum()
            assert ((-moved if falls else moved) >= found[unit]).tolist() == right.tolist()
    assert qonnx.one_threshold(layer, 2, 254) is None


def test_an_onnx_file_has_plain_operators_and_says_where_it_is_from():
    wanted = of_kind("convnet")
    about = {"cell": "table1/made", "seed": 3, "key": "abc", "weights_sha256": "f" * 64}
    net = freeze_net(wanted, random_state(wanted), (2 / 255, np.float32(-1)), about)
    model = onnx.load_from_string(formats.FORMATS["onnx"].build(net))
    assert {node.domain for node in model.graph.node} == {""} and [o.version for o in model.opset_import] == [13]
    assert model.producer_name == "bnn-reproduce" and model.producer_version
    props = {p.key: p.value for p in model.metadata_props}
    assert {key: props[key] for key in about} == {key: str(value) for key, value in about.items()}
    assert json.loads(props["settings"]) == wanted.model_dump(mode="json")
    weights = [c for c in model.graph.initializer if c.data_type == onnx.TensorProto.INT8]
    values = np.concatenate([onnx.numpy_helper.to_array(c).reshape(-1) for c in weights])
    assert len(values) == net.weights and set(values.tolist()) == {-1, 1}


@QONNX
def test_a_qonnx_file_has_a_bipolar_node_for_each_weight_and_activation():
    wanted = of_kind("convnet")
    net = freeze_net(wanted, random_state(wanted), (2 / 255, np.float32(-1)), {"key": "abc"})
    model = onnx.load_from_string(qonnx.build(net))
    kinds = [node.op_type for node in model.graph.node]
    layers = len(net.hidden) + 2
    assert kinds.count("BipolarQuant") == 2 * layers - 1 and kinds.count("Quant") == 1
    assert {node.domain for node in model.graph.node if "Quant" in node.op_type} == {"qonnx.custom_op.general"}
    assert "abc" in {p.value for p in model.metadata_props}
    assert {o.domain: o.version for o in model.opset_import} == {"": 13, "qonnx.custom_op.general": 1}
    assert model.producer_name == "bnn-reproduce" and model.producer_version


@pytest.mark.parametrize("net", ["mlp", "convnet", "real"])
def test_the_code_in_an_npz_files_readme_runs_the_net(tmp_path, monkeypatch, net):
    """Runs the code of the README with nothing but the file."""
    wanted = of_kind("convnet" if net == "real" else net)
    state = random_state(wanted, wild=False)
    packed = freeze_net(wanted, state, None if net == "real" else (2 / 255, np.float32(-1)), {"key": "abc"})
    images = images_for(wanted)
    if net == "real":
        images = np.random.default_rng(0).normal(size=images.shape).astype(np.float32)
    content = npz.build(packed)
    (tmp_path / "net.npz").write_bytes(content)
    text = zipfile.ZipFile(io.BytesIO(content)).read("README.md").decode()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    monkeypatch.chdir(tmp_path)
    names = {"images": images}
    exec(code, names)
    assert names["classes"].tolist() == packed.predict(images, "reference").tolist()
    told = json.loads(str(names["net"]["about"]))
    assert told["key"] == "abc" and told["producer"].startswith("bnn-reproduce ")
    for name, array in names["net"].items():
        assert f"| `{name}` | {array.dtype} | {array.shape} |" in text
    assert ("Images: real numbers" in text) == (net == "real")


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_exported_and_proven_on_its_test_set(tmp_path, data_folder, kind):
    store = tmp_path / "store"
    record = go(store, data_folder, [made_cell(train={"epochs": 1})]).records[0]
    words = ("export", record.stem, "--format", kind, "--results", store, "--data", data_folder)
    done = run(*words, "--record", tmp_path / "kept")
    assert done.exit_code == 0, done.output
    rate = record.result.test_error
    assert f"all 200 test images: the packed net's class, {rate:.2f} % of them wrong" in done.output
    file = store / "exports" / f"{record.stem}{formats.SUFFIXES[kind]}"
    assert str(file) in done.output and f"{file.stat().st_size:,} bytes" in done.output
    (kept,) = (tmp_path / "kept").iterdir()
    found = json.loads(kept.read_text())
    assert (found["images"], found["differing"], found["wrong"]) == (200, [], round(2 * rate))
    assert found["about"]["key"] == record.key and found["file_format"] == kind and found["file"] == file.name
    assert lacks(found, [record]) == "" and lacks(found, []) == "a published run"
    assert found["file_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    packed, other = store / "packed" / f"{record.stem}.bnn", tmp_path / "other"
    done = run("export", packed, "--format", kind, "--results", other, "--data", data_folder)
    assert done.exit_code == 0 and "all 200 test images" in done.output, done.output
    assert (other / "exports" / file.name).stat().st_size == file.stat().st_size
    assert record.key.encode() in (file.read_bytes() if kind != "npz" else np.load(file)["about"].item().encode())


PROOFS = sorted((runs.PUBLISHED / "exports").glob("*.json"))


@pytest.mark.skipif(not PROOFS, reason="no proofs are committed: make export-proofs RUN=… after publishing")
def test_every_committed_proof_is_whole_and_of_a_published_run():
    published, _ = read_records(runs.PUBLISHED / "runs")
    kinds = {}
    for path in PROOFS:
        proof = files.read_sealed(path)
        assert lacks(proof, published) == "", path.name
        kinds.setdefault(proof["about"]["key"], set()).add(proof["file_format"])
    assert all(found == set(formats.FORMATS) for found in kinds.values())


def test_a_file_with_other_predictions_is_not_kept(tmp_path, data_folder, monkeypatch):
    store = tmp_path / "store"
    record = go(store, data_folder, [made_cell(train={"epochs": 1})]).records[0]
    real = npz.run

    def one_wrong(content, images):
        scores = real(content, images)
        scores[17] = -scores[17]
        return scores

    monkeypatch.setattr(npz, "run", one_wrong)
    done = run("export", record.stem, "--format", "npz", "--results", store, "--data", data_folder)
    assert done.exit_code == 1 and "1 of 200 predictions are not the packed net's (images 17)" in done.stderr
    assert not (store / "exports").exists()


def test_a_net_that_cannot_be_exported_is_one_line(tmp_path, data_folder, monkeypatch):
    store = tmp_path / "store"
    record = go(store, data_folder, [made_cell(train={"epochs": 1}, net={"weights": "float"})]).records[0]

    def refused(code, words, *arguments):
        done = run("export", *arguments, "--results", store, "--data", data_folder)
        assert done.exit_code == code and done.stderr.count("\n") == 1 and words in done.stderr, done.output

    refused(2, "--format takes onnx, qonnx, npz, not 'tflite'", record.stem, "--format", "tflite")
    refused(2, "no run 'x'", "x", "--format", "npz")
    refused(2, "blocks.0.layer: float weights: only ±1", record.stem, "--format", "onnx")
    assert not (store / "exports").exists()
    monkeypatch.setitem(formats.NEEDS, "qonnx", ("onnx", "no_such_package"))
    refused(2, "no_such_package not installed: pip install -e '.[export]'", record.stem, "--format", "qonnx")


def test_sums_that_float32_cannot_hold_are_refused(monkeypatch):
    wanted = of_kind("mlp")
    net = freeze_net(wanted, random_state(wanted), (2 / 255, np.float32(-1)))
    monkeypatch.setattr("reproduce.packed.export.graph.EXACT", 784 * 255)
    with pytest.raises(ValueError, match=r"sums of up to 199,920 are not exact"):
        formats.FORMATS["onnx"].build(net)
