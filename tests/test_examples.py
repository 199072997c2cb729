"""The examples of EXTENDING.md: each trains for an epoch on artificial images, is in the tables, and freezes or
says why not."""

import re

import numpy as np
import pytest
import torch
from made_examples import FOLDER, made_data, shortened
from sample import sample

from kernels.cpu.step import ternary
from reproduce import extensions, nets, spec
from reproduce.cli import app as cli
from reproduce.nets import products
from reproduce.packed import PackedNet, freeze_net
from reproduce.records import runs

FILES = sorted(FOLDER.glob("*.yaml"))


def module(path):
    return FOLDER / f"{path.stem.partition('-')[0]}.py"


def called(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["reproduce", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code or 0


FREEZES = {"fashion", "fashion-convnet", "reactnet", "bop"}


@pytest.mark.parametrize("source", sample(sorted(FILES, key=lambda p: p.stem != "reactnet")), ids=lambda p: p.stem)
def test_an_example_trains_is_listed_and_freezes_or_names_the_layer_that_cannot(
    own, source, tmp_path, monkeypatch, capsys
):
    assert len(module(source).read_text().splitlines()) <= 60
    extensions.use([module(source)])
    name = spec.load(source).scales["small"].data.name
    made_data(monkeypatch, tmp_path / "data", name)
    file = shortened(source, tmp_path / "mine")
    store, words = tmp_path / "store", ("--results", tmp_path / "store", "--use", module(source))
    assert called(monkeypatch, "run", file, "--data", tmp_path / "data", "--device", "cpu", *words) == 0
    said = capsys.readouterr().out
    (path,) = (store / "runs").glob("*.json")
    record = runs.read_record(path)
    assert record.result.test_error < 75 and "small" in said  # chance would give 90
    assert record.code["uses"] == [module(source).name]
    engine = ternary.available() and source.stem.startswith("fashion")
    assert record.code["mode"] == ("fixed16" if engine else products.by_autograd())
    assert ("steps go through autograd: a" in said or "plain signs" in said) is not engine
    assert called(monkeypatch, "list", "--experiments", tmp_path / "mine", *words) == 0
    assert f"mine/{source.stem}" in capsys.readouterr().out
    assert called(monkeypatch, "report", "--experiments", tmp_path / "mine", *words) == 0
    page = (store / "report" / "index.html").read_text(encoding="utf-8")
    assert "Group: mine" in page and record.stem in page
    capsys.readouterr()
    frozen = called(monkeypatch, "freeze", record.stem, "--data", tmp_path / "data", *words)
    said = capsys.readouterr().err
    if source.stem not in FREEZES:
        assert frozen == 2 and re.search(r"0 \(BinaryConv2d\)|RealShortcut", said), said
        return
    assert frozen == 0, said
    (packed,) = (store / "packed").glob("*.bnn")
    (weights,) = (store / "nets").glob("*.safetensors")
    assert called(monkeypatch, "predict", packed, "--data", tmp_path / "data", "--against", weights) == 0
    assert "another class on 0 of 200 images" in capsys.readouterr().out
    assert PackedNet.load(packed).image == (28, 28)


def test_shifts_and_scales_are_folded_into_the_thresholds(own, monkeypatch):
    """Every class and score of the packed net equals the float32 net's; without shifts or scales they do not."""
    extensions.use([FOLDER / "reactnet.py"])
    content = spec.load(FOLDER / "reactnet.yaml").scales["small"].model_dump()
    content["net"] |= {"channels": [8, 12], "dense": [16]}
    wanted = spec.Settings.model_validate(content)
    torch.manual_seed(0)
    net = nets.build(wanted).eval()
    with torch.no_grad():
        for name, value in [*net.named_parameters(), *net.named_buffers()]:
            if name.endswith("layer.weight"):
                value.mul_(torch.rand(len(value), *[1] * (value.dim() - 1)) + 0.1)
            elif name.endswith("inv_std"):
                value.uniform_(0.05, 0.3)
            elif name.endswith(("act.shift", "norm.mean")):
                value.uniform_(-1, 1)
            elif name.endswith("bias"):
                value.uniform_(-0.2, 0.2)
        images = np.random.default_rng(0).integers(0, 256, (100, 28, 28)).astype(np.uint8)
        scores = net(torch.from_numpy(images).float()[:, None] * (2 / 255) - 1).numpy()

    def packed():
        return freeze_net(wanted, net.state_dict(), (2 / 255, np.float32(-1).reshape(()))).scores(images)

    np.testing.assert_allclose(packed(), scores, atol=1e-4)
    assert np.array_equal(packed().argmax(1), scores.argmax(1))
    monkeypatch.setattr(spec.ACTIVATIONS["shifted_sign"], "added", None)
    assert not np.allclose(packed(), scores, atol=0.1)
    monkeypatch.undo()
    monkeypatch.setattr(type(spec.WEIGHTS["scaled"]), "scales", lambda self, weight: torch.ones(len(weight)))
    assert not np.allclose(packed(), scores, atol=0.1)
