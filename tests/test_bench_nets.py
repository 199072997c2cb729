"""The nets that benchmarks time: a committed trained one where there is one, and its twin in float32."""

import json
import shutil

import numpy as np
import pytest
import torch
from made import settings
from test_packed import random_state

from kernels import unpack
from reproduce import files, machine, runs, spec, yamlfile
from reproduce.benchmarks import nets
from reproduce.packed import PackedError, freeze_net
from reproduce.training import nets as float_nets

WEBS = {
    "MNIST MLP": {"hidden": [48, 33, 40]},
    "CIFAR-10 ConvNet": {"channels": [8, 12], "dense": [16, 24]},
}


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
    """Scores by the float net itself, in float64."""
    module = float_nets.build(wanted.net)
    module.load_state_dict(state)
    return module.double().eval()(as_floats(images, torch.float64)).numpy()


def as_floats(images, dtype):
    x = torch.from_numpy(images).to(dtype) * nets.SCALE + nets.SHIFT
    return x.flatten(1) if x.dim() == 3 else x.permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", WEBS)
@pytest.mark.parametrize("wild", [True, False])
def test_the_twin_decides_as_the_packed_net_and_as_the_float_net_it_was_made_from(name, wild):
    """Every hidden bit; with `wild` also ties, constant units and falling batch norms of every kind."""
    wanted, state, net = packed_of(name, 3, wild)
    shape = (28, 28) if name == "MNIST MLP" else (32, 32, 3)
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (100, *shape)).astype(np.uint8)
    images = images // rng.integers(1, 200, len(images)).reshape(-1, *[1] * len(shape)).astype(np.uint8)  # dark ones
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
