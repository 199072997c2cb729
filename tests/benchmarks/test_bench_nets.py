"""The nets that benchmarks time: a committed trained net if there is one, and the same net in float32."""

import hashlib

import numpy as np
import pytest
import torch
from test_packed import random_state

from reproduce import files
from reproduce import nets as float_nets
from reproduce.benchmarks import cells as nets
from reproduce.benchmarks import on_cpu as cpu
from reproduce.packed import freeze_net
from reproduce.records import runs

WEBS = {"MNIST MLP": {"hidden": [48, 32, 64]}, "CIFAR-10 ConvNet": {"channels": [8, 12], "dense": [16, 24]}}


def packed_of(name, seed=0, wild=True):
    """A packed net of a cell's data and preprocessing with few units, as `freeze` makes it from a state_dict."""
    cell = nets.cell_settings(name, quick=False)
    small = type(cell.net).model_validate(cell.net.model_dump(mode="json") | WEBS[name])
    wanted = cell.model_copy(update={"net": small})
    state = random_state(wanted, seed, wild)
    shift = np.full((), nets.SHIFT, np.float32)
    return wanted, state, freeze_net(wanted, state, (nets.SCALE, shift), {"cell": nets.CELLS[name]})


@torch.no_grad()
def in_float(wanted, state, images):
    """Scores of the float net, in float64."""
    module = float_nets.build(wanted)
    module.load_state_dict(state)
    return module.double().eval()(as_floats(images, torch.float64)).numpy()


def as_floats(images, dtype):
    x = torch.from_numpy(images).to(dtype) * nets.SCALE + nets.SHIFT
    return x.flatten(1) if x.dim() == 3 else x.permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", WEBS)
@pytest.mark.parametrize("wild", [True, False])
def test_the_float32_copy_predicts_like_the_packed_net_and_the_original_float_net(name, wild):
    """Compares every hidden bit; with `wild` also ties, constant units and batch norms with negative gamma."""
    wanted, state, net = packed_of(name, 3, wild)
    shape = (28, 28) if name == "MNIST MLP" else (32, 32, 3)
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (100, *shape)).astype(np.uint8)
    dark = rng.integers(1, 200, len(images)).astype(np.uint8).reshape(-1, *[1] * len(shape))
    images[50:] //= dark[50:]
    twin = nets.float_twin(net)
    with torch.no_grad():
        x = as_floats(images, torch.float32)
        scores = twin(x).numpy()
        for i, bits in enumerate(net.hidden_bits(images)):
            x = twin.blocks[i](x.flatten(1) if bits.ndim == 2 else x)
            assert np.array_equal(x.numpy() if bits.ndim == 2 else x.permute(0, 2, 3, 1).numpy(), bits), i
            assert i or (np.ptp(bits, axis=0) > 0).mean() > 0.2
    assert np.allclose(scores, net.scores(images), rtol=1e-4, atol=1e-4)
    same = np.isclose(scores, in_float(wanted, state, images), rtol=1e-4, atol=1e-4).all(1)
    assert same.mean() > 0.95 and (wild or np.ptp(scores, axis=0).max() > 0.1)


MLP = "MNIST MLP"


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A folder of committed nets, and cells of few units; keep(stem, started) adds a packed net."""
    small = {name: packed_of(name)[0] for name in WEBS}
    monkeypatch.setattr(runs, "PUBLISHED", tmp_path)
    monkeypatch.setattr(nets, "cell_settings", lambda name, quick: small[name])

    def keep(stem, started="2026-01-01", seed=0, packed=None):
        path = tmp_path / "nets" / f"{stem}.bnn"
        path.parent.mkdir(exist_ok=True)
        (packed or packed_of(MLP, seed)[2]).save(path)
        files.write_sealed(path.with_suffix(".json"), {"started": started})
        return path

    return keep


def test_the_timed_net_is_the_newest_at_paper_scale_else_at_short_scale_else_random(published):
    assert nets.trained(MLP) is None and nets.net_of(MLP, False)[3] == "random weights"
    short = published("short-bnn-theano-mnist-short-seed0-abc")
    assert nets.trained(MLP) == short and nets.trained("CIFAR-10 ConvNet") is None
    published("table1-bnn-theano-mnist-paper-seed0-b", "2026-01-03")
    newest = published("table1-bnn-theano-mnist-paper-seed100-a", "2026-01-04", seed=7)
    published("table1-bnn-theano-mnist-paper-seed0-c", "2026-01-02")
    published("table1-bnn-theano-mnist-paper-seed1-d", "2026-01-01")
    assert nets.trained(MLP) == newest
    assert nets.net_of(MLP, True)[3] == "random weights"
    _, net, _, words = nets.net_of(MLP, False)
    wanted = packed_of(MLP, 7)[2]
    both = zip(net.hidden, wanted.hidden, strict=True)
    assert all(np.array_equal(mine.weights.words, theirs.weights.words) for mine, theirs in both)
    digest = hashlib.sha256(newest.read_bytes()).hexdigest()
    assert words == f"trained weights of {newest.stem} (sha256 of the file: {digest})"


def test_a_committed_net_of_other_layers_or_preprocessing_is_not_timed(published):
    wanted, state, _ = packed_of(MLP)
    steps = [wanted.data.preprocess[0].model_copy(update={"low": 0})]
    other = wanted.model_copy(update={"data": wanted.data.model_copy(update={"preprocess": steps})})
    packed = freeze_net(other, state, (1 / 255, np.zeros((), "f4")))
    published("table1-bnn-theano-mnist-paper-seed0-a", packed=packed)
    published("table1-bnn-theano-mnist-paper-seed0-b", packed=packed_of("CIFAR-10 ConvNet")[2])
    assert nets.trained(MLP) is None


def test_the_record_of_a_benchmark_says_whose_weights_it_timed(published, monkeypatch, tmp_path):
    path = published("table1-bnn-theano-mnist-paper-seed0-abc")
    monkeypatch.setattr(cpu, "net_of", lambda name, quick: nets.net_of(name, False))
    notes = {name: cpu._net_rows(name, print, tmp_path, quick=True)[1] for name in WEBS}
    assert notes[MLP][0].startswith(f"MNIST MLP: trained weights of {path.stem} (sha256 of the file: ")
    assert notes["CIFAR-10 ConvNet"][0].startswith("CIFAR-10 ConvNet: random weights, ")
    assert "MNIST MLP: predictions of packed and float32 net differ on 0 images" in notes[MLP]
