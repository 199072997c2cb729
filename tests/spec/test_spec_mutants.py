"""Mutants of every committed YAML file: each is read as exactly what it states, or refused in one line.

The meaning of a mutant comes from `mutants.stated`, which shares only PyYAML's syntax tree with the
project's loader. `make fuzz N=5000` tests many.
"""

import copy
import math
import re

import pytest
import torch
import yaml
from made import made_splits
from mutants import FRACTIONS, SHORT, Refused, at, count, mutant, paths, stated, tell

from reproduce import nets, spec, yamlfile
from reproduce.cli import app as cli
from reproduce.training import optim, preprocess

FILES = [p for p in spec._files(spec.EXPERIMENTS) if p.parent.name != "ablations"]  # ablations have their own test
OPTIONAL = {"published", "margin", "small", "check", "plus_minus", "seeds"}
WHERE = r"(line \d+|the top level|not valid YAML: .*(line \d+|position \d+|decode)|not valid YAML: \S+|\S.*?: )"


def same(left, right):
    """Equal in value and type, except that an integer may stand for a float."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, bool) or isinstance(right, bool) or not isinstance(left, int | float):
        return type(left) is type(right) and left == right
    return isinstance(right, int | float) and not isinstance(right, bool) and float(left) == float(right)


def laid_over(base, override):
    """A copy of `base` with the leaves of `override`; a list is a leaf."""
    if not isinstance(base, dict) or not isinstance(override, dict):
        return override
    result = dict(base)
    for key, value in override.items():
        result[key] = laid_over(base[key], value) if key in base else value
    return result


def means(cell, tree):
    """A difference between a loaded cell and its document, in words; None if there is none."""
    dump = cell.experiment.model_dump(exclude_unset=True)
    if not same(dump, tree):
        return "the file's keys are not the experiment's"
    full = cell.experiment.model_dump()
    if added := {k for k in full if k not in tree} - OPTIONAL:
        return f"defaults for {added}"
    base = {part: tree[part] for part in ("data", "net", "train")}
    small = laid_over(base, tree.get("small") or {})
    wanted = {tree["scale"]: base} | ({"small": small} if tree.get("small") is not None else {})
    found = {scale: settings.model_dump() for scale, settings in cell.scales.items()}
    for name, over in ((tree.get("check") or {}).get("mutants") or {}).items():
        wanted[f"mutant {name}"] = laid_over(small, over)
        found[f"mutant {name}"] = cell.mutants[name].model_dump()
    for one in wanted.values():
        one["train"] = {"loss": "squared_hinge"} | one["train"]
        one["net"] = {"first_weights": "as_others"} | one["net"]
        if one["net"]["kind"] == "convnet":
            one["net"] = {"border": 0} | one["net"]
        if one["train"]["optimizer"]["kind"] == "shift_adamax":
            one["train"]["optimizer"] = {"decays": False} | one["train"]["optimizer"]
        if one["net"]["activation"] == "relu" and "ste_mask" not in one["net"]:
            one["net"] = one["net"] | {"ste_mask": True}  # has no meaning there
    return None if same(found, wanted) else "a scale's settings are not what the file says"


def told(message, path, about):
    """Checks a refusal: a line for each problem, not too many, each with file and place."""
    lines = message.split("\n")
    if lines[yamlfile.MOST :]:
        assert re.fullmatch(r".*: and \d+ more problems", lines.pop())
    assert len(lines) <= yamlfile.MOST and len(set(lines)) == len(lines), f"{about}: {message}"
    for line in lines:
        assert line.isprintable() and len(line) < 500, f"{about}: {line!r}"
        assert re.fullmatch(re.escape(str(path)) + ": " + WHERE + ".*", line), f"{about}: {line}"


def runs(settings):
    """Checks that the net and its update rule can be made, and that rates are finite."""
    with torch.device("meta"):
        net = nets.build(settings)
        optim.optimizer(net, settings.train)
    train = settings.train
    rates = [optim.rate(train.rate, train.epochs, epoch) for epoch in (0, train.epochs - 1)]
    shape = (8, 8, 3)[: len(settings.dataset.image)]
    splits = made_splits(shape, train=200, valid=20, test=20)
    data = preprocess.prepare(splits, settings.data, settings.net.kind == "mlp", torch.device("cpu"))
    finite = all(bool(part.images(torch.arange(20)).isfinite().all()) for part in data.values())
    return finite and all(0 <= r and math.isfinite(r) for r in rates)


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(spec.cells, "__defaults__", (None, tmp_path))
    monkeypatch.setattr("sys.argv", ["reproduce", "list"])

    def call():
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, capsys.readouterr()

    return call


@FRACTIONS
@pytest.mark.timeout(3600)
def test_mutants_of_experiment_files(tmp_path, command, fraction):
    path = tmp_path / "group" / "cell.yaml"
    path.parent.mkdir()
    loaded = refused = 0
    for seed in range(count() // fraction):
        source = FILES[seed % len(FILES)]
        raw = mutant(seed, source.read_text(encoding="utf-8"))
        path.write_bytes(raw)
        about = f"mutant {seed} of {source.name}"
        try:
            cell = spec.load(path)
        except spec.SpecError as error:
            refused += 1
            message = str(error)
            told(message, path, about)
            code, out = command()
            assert (code, out.out, out.err) == (2, "", f"reproduce: {message}\n"), about
            continue
        loaded += 1
        try:
            tree = stated(raw.decode("utf-8"))
        except Refused as why:
            pytest.fail(f"{about}: loaded, but {why}")
        assert means(cell, tree) is None, f"{about}: {means(cell, tree)}"
        for settings in [*cell.scales.values(), *cell.mutants.values()]:
            assert runs(settings), about
    tell("mutants of experiment files", tried=loaded + refused, load_as_stated=loaded, refused_in_a_line=refused)
    assert loaded > refused / 50 and refused > loaded


@pytest.mark.parametrize("source", FILES, ids=lambda p: "/".join(p.with_suffix("").parts[-2:]))
def test_committed_files_load_as_stated(source):
    assert means(spec.load(source), stated(source.read_text(encoding="utf-8"))) is None


@FRACTIONS
def test_each_missing_or_misspelt_key_is_named(tmp_path, fraction):
    """Without any of its keys, except optional ones, a file is refused with the name of that key."""
    path = tmp_path / "group" / "cell.yaml"
    path.parent.mkdir()
    tried = 0
    for source in FILES[:: 1 if count() > SHORT else 2 + 2 * fraction]:
        whole = stated(source.read_text(encoding="utf-8"))
        for place in paths(whole):
            if place[0] in ("small", "check") or not isinstance(place[-1], str):
                continue
            for renamed in (False, True):
                tree = copy.deepcopy(whole)
                parent = at(tree, place[:-1])
                value = parent.pop(place[-1])
                if renamed:
                    parent[place[-1] + "q"] = value
                elif place[-1] in OPTIONAL and place != ("margin",) and place != ("published",):
                    continue
                path.write_text(yaml.safe_dump(tree, sort_keys=False))
                with pytest.raises(spec.SpecError) as error:
                    spec.load(path)
                message = str(error.value)
                assert place[-1] in message or ".".join(map(str, place[:-1])) + ":" in message, (place, message)
                tried += 1
    assert tried > 300 / fraction
