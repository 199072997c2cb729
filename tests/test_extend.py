"""Experiments of one's own: files anywhere, errors in them, registered code, data sets of other sizes."""

import json
import sys
from typing import Literal

import pytest
import torch
import yaml
from made import made_splits, settings
from torch import nn
from torch.nn import functional as F

from kernels.cpu.step import ternary
from reproduce import extensions, identity, nets, spec, yamlfile
from reproduce.datasets import DATASETS, data, description
from reproduce.nets import layers
from reproduce.packed import PackedError, freeze
from reproduce.records import machine
from reproduce.report.sections import groups
from reproduce.training import optim, preprocess, step, train

CPU = torch.device("cpu")
MNIST = spec.EXPERIMENTS / "table1" / "bnn-theano-mnist.yaml"


# --- files ----------------------------------------------------------------------------------------------------


def write(path, change=lambda content: None):
    content = yaml.load(MNIST.read_text(encoding="utf-8"), Loader=yamlfile._Loader)
    change(content)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def misspelt(content):
    content["train"]["epocs"] = content["train"].pop("epochs")
    content["train"]["batch"] = 0
    content["net"]["norm"]["kind"] = "vanila"
    content["small"] = {"net": {"hiden": [3]}}


def test_all_problems_of_a_file_are_reported_at_once_misspelt_keys_first(tmp_path):
    path = write(tmp_path / "mine" / "a.yaml", misspelt)
    with pytest.raises(spec.SpecError) as error:
        spec.load(path)
    lines = [line.removeprefix(f"{path}: ") for line in str(error.value).splitlines()]
    assert lines[0] == "train.epocs: unknown key; did you mean 'epochs'?"
    assert lines[1] == "small.net.hiden: unknown key; did you mean 'hidden'?"
    assert any(line.startswith("train.batch: ") and "given: 0" in line for line in lines)
    assert any(line.startswith("net.norm.kind: 'vanila'") and "'vanilla'" in line for line in lines)
    assert not any(line.startswith("train.epochs") for line in lines)  # `epocs` was meant as that
    assert len(lines) == 4


def test_files_and_folders_anywhere_and_a_broken_one_stops_no_other(tmp_path, capsys):
    good, broken = write(tmp_path / "mine" / "good.yaml"), write(tmp_path / "mine" / "broken.yaml", misspelt)
    for words, folder in (
        ([str(tmp_path / "mine")], spec.EXPERIMENTS),
        (None, tmp_path / "mine"),
        (None, tmp_path),
    ):
        assert [c.name for c in spec.cells(words, folder)] == ["mine/good"]
        told = capsys.readouterr().err
        assert told.count("left out") == 1 and "broken.yaml: train.epocs" in told
    assert [c.path for c in spec.cells([str(good)])] == [good]
    assert [c.name for c in spec.cells(["mine/good"], tmp_path)] == ["mine/good"]
    for words in ([str(broken)], [str(good), str(broken)]):
        with pytest.raises(spec.SpecError, match=r"broken.yaml: train.epocs"):
            spec.cells(words)
    with pytest.raises(spec.SpecError, match=r"broken\.yaml"):
        spec.cells(["mine/broken"], tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "nothing").mkdir()
    with pytest.raises(spec.SpecError, match="no experiment files in"):
        spec.cells([str(tmp_path / "nothing")])
    with pytest.raises(spec.SpecError, match="two files have the name mine/good"):
        (tmp_path / "other" / "mine").mkdir()
        write(tmp_path / "other" / "mine" / "good.yaml")
        spec.cells([str(good), str(tmp_path / "other" / "mine")])


def test_a_file_with_its_own_module_is_read_only_if_the_module_is_in_use(own, tmp_path):
    for name in ("a", "b", "b-two"):
        write(tmp_path / "mine" / f"{name}.yaml")
    (tmp_path / "mine" / "b.py").write_text("x = 1\n")
    assert [c.name for c in spec.cells(None, tmp_path)] == ["mine/a"]
    extensions.use([tmp_path / "mine" / "b.py"])
    assert [c.name for c in spec.cells(None, tmp_path)] == ["mine/a", "mine/b-two", "mine/b"]


def test_files_that_are_left_out_for_want_of_a_module_are_named(own, tmp_path):
    write(tmp_path / "mine" / "b.yaml")
    (tmp_path / "mine" / "b.py").write_text("x = 1\n")
    for words, folder in ((None, tmp_path / "mine"), ([str(tmp_path / "mine")], spec.EXPERIMENTS)):
        with pytest.raises(spec.SpecError, match=r"mine/b\.yaml needs --use \S*mine/b\.py"):
            spec.cells(words, folder)


def test_what_a_module_imports_from_the_project_is_part_of_a_runs_key(own, tmp_path):
    found = set()
    for name in ("Adam as Base", "SGD as Base", "SGD as Other"):
        text = f"from reproduce.training.optim import {name}\n"
        found.add(identity.module_digest(text))
        assert identity.module_digest(f"# a comment\n{text}") in found
    assert len(found) == 3


def test_a_module_imports_what_lies_beside_it_as_one_copy(own, tmp_path):
    (tmp_path / "helper_of_mine.py").write_text("made = []\n")
    (tmp_path / "user_of_mine.py").write_text("import helper_of_mine\nhelper_of_mine.made.append(1)\n")
    extensions.use([tmp_path / "helper_of_mine.py", tmp_path / "user_of_mine.py"])
    assert sys.modules["helper_of_mine"].made == [1]
    (given,) = [m for name, m in sys.modules.items() if name.startswith("used_helper_of_mine_")]
    assert given is sys.modules["helper_of_mine"]


def test_an_override_removes_a_key_by_null():
    base = {"a": {"kind": "one", "x": 1, "y": None}, "b": 2}
    assert yamlfile.merged(base, {"a": {"kind": "two", "x": None}}) == {"a": {"kind": "two", "y": None}, "b": 2}


def test_a_rule_with_an_own_formula_does_not_use_the_kernel_that_it_inherits():
    class Mine(optim.Adam):
        def formula(self, p, m, v, rate):
            p -= rate

    class Same(optim.Adam):
        pass

    assert (Mine.kernel, Same.kernel, optim.Adam.kernel) == (None, "adam", "adam")
    p = torch.nn.Parameter(torch.ones(3))
    rule = Mine([{"params": [p], "multiplier": 2.0}], 0.9, 0.999, 1e-8)
    rule.set_rate(0.25)
    p.grad = torch.zeros(3)
    rule.step()
    assert not torch.equal(p, torch.ones(3))

    class Plain(optim.Rule):
        def formula(self, p, m, v, rate):
            p -= rate

    p = torch.nn.Parameter(torch.ones(3))
    rule = Plain([{"params": [p], "multiplier": 2.0}], 0.9, 0.999, 1e-8)
    rule.set_rate(0.25)
    p.grad = torch.zeros(3)
    rule.step()
    assert p.tolist() == [0.5] * 3  # the rate itself, times the multiplier


def test_the_code_of_a_module_is_part_of_a_runs_key(own, tmp_path):
    alone, found = machine.source_digest("cpu"), []
    for text in ("x = 1\n", "# a comment\nx  =  1\n", "x = 2\n"):
        path = tmp_path / "own.py"
        path.write_text(text)
        extensions._USED.clear()
        extensions.use([path])
        found.append(machine.source_digest("cpu"))
    assert found[0] == found[1] and len({alone, *found}) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [("import nowhere_at_all\n", "ModuleNotFoundError"), ("x = (\n", "SyntaxError"), (None, "No such file")],
)
def test_a_module_that_cannot_be_used_is_named_in_a_line(own, tmp_path, text, words):
    path = tmp_path / "own.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(spec.SpecError, match=rf"own.py: cannot be used: .*{words}") as error:
        extensions.use([path])
    assert "\n" not in str(error.value)


def test_each_groups_name_gives_its_own_anchor():
    assert groups._anchor("mine-2") == "mine-2"
    assert len({groups._anchor(name) for name in ("my own", "my-own", "my/own")}) == 3


# --- pieces ---------------------------------------------------------------------------------------------------


def classifier(wanted, splits):
    return train.Classifier(wanted, preprocess.prepare(splits, wanted.data, wanted.net.flat, CPU), 0)


def test_a_parameter_that_no_group_claims_is_an_error(own):
    @spec.ACTIVATIONS.add("lost")
    class Lost(nets.Sign):
        def __init__(self, units, masked):
            super().__init__(units, masked)
            self.shift = nn.Parameter(torch.zeros(units))

    with pytest.raises(spec.SpecError, match=r"blocks\.0\.act\.shift: no optimizer group claims"):
        classifier(settings(net={"activation": "lost"}), made_splits())


def test_loss_rate_norm_and_preprocessing_of_ones_own(own, monkeypatch):
    monkeypatch.setenv("REPRODUCE_PRODUCTS", "fixed16" if ternary.available() else "float32")

    @spec.LOSSES.add("cross_entropy")
    def cross_entropy(scores, targets):
        return F.cross_entropy(scores, targets.argmax(1))

    class Constant(spec.Rate):
        kind: Literal["constant"]
        value: spec.Positive

    spec.RATES.add(Constant)(lambda rule, epochs, epoch: rule.value)

    class Invert(spec.PreprocessingStep):
        step: Literal["invert"]

    spec.PREPROCESSING.add(Invert)(lambda step, rows, image: {k: -r for k, r in rows.items()})
    spec.NORMS.add("mine")(type("Mine", (layers.BatchNorm,), {}))
    content = settings(
        data={"preprocess": [{"step": "range", "low": -1, "high": 1}, {"step": "invert"}]},
        net={"norm": {"kind": "mine", "eps": 1e-4, "alpha": 0.1}},
        train={"loss": "cross_entropy"},
    ).model_dump()
    content["train"]["rate"] = {"kind": "constant", "value": 0.01}
    wanted = spec.Settings.model_validate(content)
    splits = made_splits()
    module = classifier(wanted, splits)
    image = module.data["train"].images(torch.arange(1))
    expected = -(torch.from_numpy(splits["train"][0][:1].reshape(1, -1)).float() * (2 / 255) - 1)
    torch.testing.assert_close(image, expected, atol=1e-6, rtol=0)
    assert optim.rate(wanted.train.rate, 10, 7) == 0.01
    assert module.step.engine is None and "loss of the kind cross_entropy" in step.why_autograd(wanted)
    module.on_train_epoch_start()
    images, labels = module.data["train"].images(torch.arange(100)), module.data["train"].labels[:100]
    module.net.train()
    costs = []
    for _ in range(4):
        module.loss_sum.zero_()
        module.training_step([torch.arange(100)] * 5, 0)
        costs.append(float(module.loss_sum) / 5)
    assert costs == sorted(costs, reverse=True) and costs[0] < 2.5  # of ten equal classes: 2.30
    scores = module.net(images)
    module.loss_sum.zero_()
    torch.testing.assert_close(module.step.cost(scores, module.targets[labels]), F.cross_entropy(scores, labels))
    assert settings().digest() != wanted.digest()
    with pytest.raises(PackedError, match=r"blocks\.0: a norm of the kind mine"):
        freeze(module)


def test_a_name_can_be_registered_only_once(own):
    with pytest.raises(ValueError, match="loss 'squared_hinge' is registered already"):
        spec.LOSSES.add("squared_hinge")(lambda scores, targets: scores.sum())

    class Other(spec.Optimizer):
        kind: Literal["adam"]

    with pytest.raises(ValueError, match="'adam' is registered already, with another schema"):
        spec.OPTIMIZERS.add(Other)


# --- other sizes ----------------------------------------------------------------------------------------------


def sized(monkeypatch, image, classes):
    """A data set of other sizes, with the name `odd`, and artificial images for it."""
    sizes = {"train": 400, "valid": 100, "test": 100}
    files, split = {"train": 500, "test": 100}, description.last_validate(100)
    odd = description.Description("odd", "Odd", image, classes, files, sizes, split, None, "", ())
    monkeypatch.setitem(DATASETS, "odd", odd)
    splits = {}
    for part, (x, y) in made_splits((28, 28, 2), **sizes).items():
        splits[part] = x[:, : image[0], : image[1]].reshape(-1, image[0], image[1], 2), y % classes
        if len(image) == 2:
            splits[part] = splits[part][0][..., 0], splits[part][1]
    return sizes, splits


NETS = {
    "mlp": {"kind": "mlp", "hidden": [40, 24], "dropout_in": 0.0, "dropout_hidden": 0.0},
    "convnet": {"kind": "convnet", "channels": [8, 12], "dense": [16]},
}


@pytest.mark.parametrize("image", [(16, 16), (12, 12, 2), (20, 12)], ids=str)
@pytest.mark.parametrize("kind", NETS)
def test_nothing_assumes_the_sizes_of_the_papers_data_sets(monkeypatch, kind, image):
    sizes, splits = sized(monkeypatch, image, 7)
    base = settings().model_dump()
    common = {k: v for k, v in base["net"].items() if k not in NETS["mlp"]}
    base["net"], base["data"] = common | NETS[kind], base["data"] | {"name": "odd", **sizes}
    wanted = spec.Settings.model_validate(base)
    found = {}
    for way in ("float32", "fixed16") if ternary.available() else ("float32",):
        monkeypatch.setenv("REPRODUCE_PRODUCTS", way)
        module = classifier(wanted, splits)
        assert (module.step.engine is not None) == (way == "fixed16")
        module.on_train_epoch_start()
        found[way] = []
        for index in torch.arange(200).split(100):
            module.training_step([index], 0)
            found[way].append(float(module.loss_sum))
    first, *other = found.values()
    assert all(costs == pytest.approx(first, rel=0.03) for costs in other)  # the engine's steps equal autograd's
    assert module.net.blocks[-1].layer.out_features == 7
    if image[0] != image[1]:
        with pytest.raises(PackedError, match="not square"):
            freeze(module)
        return
    packed = freeze(module)
    module.net.eval()
    with torch.no_grad():
        scores = module.net(module.data["test"].images(torch.arange(100)))
    mine = torch.from_numpy(packed.scores(splits["test"][0]))
    assert mine.shape == (100, 7) and (mine.argmax(1) == scores.argmax(1)).float().mean() > 0.97


def test_a_convnet_for_images_that_cannot_be_halved_so_often_is_refused():
    base = settings().model_dump()
    common = {k: v for k, v in base["net"].items() if k not in NETS["mlp"]}
    base["net"] = common | NETS["convnet"] | {"channels": [4, 4, 4]}
    with pytest.raises(ValueError, match=r"net.channels: 3 stages cannot halve images of 28×28 pixels"):
        spec.Settings.model_validate(base)


def test_labels_are_checked_against_the_data_sets_classes(monkeypatch):
    _, splits = sized(monkeypatch, (16, 16), 7)
    x, y = splits["train"]
    arrays = {"x_train": x.repeat(2, 0)[:500], "y_train": y.repeat(2)[:500], "x_test": x[:100], "y_test": y[:100]}
    digest = description.content_digest(arrays)
    assert data.checked("odd", arrays, digest).digest == digest
    arrays["y_test"] = arrays["y_test"].copy()
    arrays["y_test"][3] = 7
    with pytest.raises(data.DataError, match="y_test has labels over 6"):
        data.checked("odd", arrays, digest)
