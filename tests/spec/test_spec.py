"""Experiment files: the committed ones are valid, and an error in a file is one clear line."""

import json
import math
from pathlib import Path

import pytest
import yaml

from reproduce import nets, spec, yamlfile

FILES = spec._files(spec.EXPERIMENTS)
THEANO = spec.EXPERIMENTS / "table1" / "bnn-theano-mnist.yaml"


@pytest.mark.parametrize("path", FILES, ids=lambda p: "/".join(p.with_suffix("").parts[-2:]))
def test_committed_file_loads_and_builds_at_every_scale(path):
    for cell in spec.load_all(path):
        for settings in [*cell.scales.values(), *cell.mutants.values()]:
            nets.build(settings)


def test_table1_has_the_twelve_cells_with_the_papers_values():
    paper = yaml.safe_load((spec.EXPERIMENTS / "paper.yaml").read_text())
    rows = paper["table1"]["rows"]
    printed = {(row["row"], dataset): cell for row in rows for dataset, cell in row["error"].items()}
    cells = spec.cells(["table1"])
    assert len(cells) == 12
    for cell in cells:
        experiment = cell.experiment
        value = printed[(experiment.row, experiment.dataset)]
        assert experiment.published.value == (value["value"] if isinstance(value, dict) else value)
        images = 26032 if experiment.dataset == "SVHN" else 10000
        p = experiment.published.value / 100
        assert experiment.margin == round(196 * math.sqrt(p * (1 - p) / images), 2)
        assert set(cell.scales) == {"paper", "small"}


def broken(tmp_path, change):
    content = yaml.load(THEANO.read_text(), Loader=yamlfile._Loader)
    change(content)
    path = tmp_path / "group" / "cell.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    with pytest.raises(spec.SpecError) as error:
        spec.load(path)
    lines = str(error.value).splitlines()
    assert all("cell.yaml: " in line for line in lines)
    return lines[0].split("cell.yaml: ", 1)[1]


def put(*keys):
    def change(content):
        *path, last, value = keys
        for key in path:
            content = content[key]
        content[last] = value

    return change


def second(step, **rest):
    """This step after one that brings the pixels to 0 to 1."""
    return put("data", "preprocess", [{"step": "range", "low": 0, "high": 1}, {"step": step} | rest])


LCN = {"kernel": 3, "threshold": 0.1}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("tran", {}), ["tran", "unknown key", "'train'"]),
        (put("net", "norm", "alhpa", 0.1), ["net.norm.alhpa", "unknown key", "'alpha'"]),
        (put("net", "kind", "mpl"), ["net", "'mpl'", "'mlp'"]),
        (put("net", "activation", "sing"), ["net.activation", "'sing'", "'sign'"]),
        (put("net", "hidden", [10, "ten"]), ["net.hidden.1", "integer"]),
        (put("net", "hidden", []), ["net.hidden"]),
        (put("net", "norm", 3), ["net.norm"]),
        (put("train", "optimizer", "kind", "sgd"), ["train.optimizer.beta1", "unknown key"]),
        (second("lcn", **LCN), ["data.preprocess.1.as_in", "missing"]),
        (put("net", "channels", [64]), ["net.channels", "unknown key"]),
        (put("train", "batch", 2.5), ["train.batch", "2.5"]),
        (put("train", "batch", True), ["train.batch"]),
        (put("train", "epochs", "10"), ["train.epochs", "'10'"]),
        (put("train", "rate", "end", 1.0), ["train.rate.end", "must not rise"]),
        (put("train", "rate", "start", "fast"), ["train.rate.start"]),
        (put("train", "batch", 20000), ["train.batch", "larger than a data split"]),
        (put("data", "name", "minst"), ["data.name", "'minst'", "'mnist'"]),
        (put("data", "name", "cifar10"), ["dataset", "does not fit"]),
        (put("data", "preprocess", [{"step": "center"}]), ["data.preprocess", "'range'"]),
        (put("data", "preprocess", [{"step": "rnage"}]), ["data.preprocess.0", "'range'"]),
        (put("data", "train", 60000), ["data.train", "mnist has 50000 such images, not 60000"]),
        (put("small", {"data": {"valid": 10001}}), ["small.data.valid", "10000"]),
        (second("lcn", **LCN | {"as_in": "dp", "kernel": 4}), ["data.preprocess.1.kernel", "even"]),
        (second("lcn", **LCN, as_in="dp"), ["data.preprocess", "several channels"]),
        (second("gcn", scale=1e30, use_std=True, sqrt_bias=0), ["data.preprocess.1.scale", "1e+30"]),
        (put("small", {"trian": {"epochs": 3}}), ["small.trian", "unknown key", "'train'"]),
        (put("small", {"net": {"hidden": [0]}}), ["small.net.hidden.0"]),
        (lambda c: c.pop("row"), ["row", "missing"]),
        (lambda c: c["train"].pop("clip"), ["train.clip", "missing"]),
        (lambda c: c.pop("margin"), ["margin", "published"]),
    ],
)
def test_an_error_in_a_file_names_the_key_and_the_nearest_valid_name(tmp_path, change, words):
    message = broken(tmp_path, change)
    for word in words:
        assert word in message, message
    assert message.startswith(f"{words[0]}: "), message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("row: a\nrow: b\n", "'row' is given twice"),
        ("row: &x a\ndataset: *x\n", "anchors"),
        ("row: [a\n", "not valid YAML"),
        ("- a\n- b\n", "must be a mapping"),
        ("1: a\n", "is not a name"),
        ("", "must be a mapping"),
        ("row: \udcff\n", "not valid YAML"),  # no UTF-8
        ("row: !!python/object/apply:os.system ['true']\n", "line 1: tags are not allowed"),
    ],
)
def test_bad_yaml_is_one_line(tmp_path, text, words):
    path = tmp_path / "x.yaml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(spec.SpecError, match=words) as error:
        spec.load(path)
    assert "\n" not in str(error.value)


def test_digest_depends_on_every_setting_and_not_on_prose():
    cell = spec.load(THEANO)
    digest = cell.scales["paper"].digest()
    train = cell.scales["paper"].train.model_copy(update={"epochs": 999})
    other = cell.scales["paper"].model_copy(update={"train": train})
    assert other.digest() != digest
    assert cell.scales["small"].digest() != digest


def test_unknown_cell_names_the_nearest():
    with pytest.raises(spec.SpecError, match="bnn-theano-mnist"):
        spec.cells(["table1/bnn-teano-mnist"])
    assert len(spec.cells(["table1/*-mnist"])) == 4
    assert yamlfile.shown(Path("/elsewhere/x")) == "/elsewhere/x"
