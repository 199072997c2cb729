"""What the benchmarks run: nets of the paper's sizes with random weights, which take the time of trained ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from reproduce import fetch, spec
from reproduce.packed import PackedNet, freeze_net
from reproduce.training import binarize, nets

SCALE, SHIFT = 2 / 255, -1.0  # pixels onto -1..1, as the BNN cells of MNIST and CIFAR-10 have them
CELLS = {"MNIST MLP": "table1/bnn-theano-mnist", "CIFAR-10 ConvNet": "table1/bnn-theano-cifar10"}


def random_net(settings: spec.Settings) -> tuple[PackedNet, nn.Module]:
    """A net of `settings` with random weights, BN of every slope: packed, and in torch float32 with ±1 weights."""
    torch.manual_seed(0)
    state = nets.build(settings).state_dict()
    for key, value in state.items():
        if key.endswith("norm.inv_std"):
            value.fill_(state[key.replace("norm.inv_std", "layer.weight")][0].numel() ** -0.5)
        elif key.endswith("norm.weight"):
            value.uniform_(-1, 1)
        elif key.endswith(("norm.bias", "layer.bias")):
            value.uniform_(-0.1, 0.1)
    packed = freeze_net(settings, state, (SCALE, np.full((), SHIFT, np.float32)))
    signs = {k: binarize.sign(v) if k.endswith("layer.weight") else v for k, v in state.items()}
    net = settings.net.model_copy(update={"weights": "float"})  # ±1 as floats: no sign in each call
    plain = nets.build(settings.model_copy(update={"net": net}))
    plain.load_state_dict(signs)
    return packed, plain.eval()


def cell_settings(name: str, quick: bool) -> spec.Settings:
    """The settings at the paper's scale of the cell that stands for a net; `quick`: with a tiny net."""
    (cell,) = spec.cells([CELLS[name]])
    settings = cell.scales["paper"]
    if not quick:
        return settings
    small: dict[str, Any] = {"hidden": [32, 32]} if name == "MNIST MLP" else {"channels": [8], "dense": [16]}
    return settings.model_copy(update={"net": settings.net.model_copy(update=small)})


def images_of(
    name: str, settings: spec.Settings, data_folder: Path | None, count: int
) -> tuple[NDArray[np.uint8], str]:
    """The first `count` test images if the data set lies in the data folder, else random bytes; and which."""
    file = fetch.folder(data_folder) / f"{settings.data.name}.npz"
    if file.exists():  # nothing is fetched for a measurement that any images will do for
        images = fetch.load(settings.data.name, data_folder).arrays["x_test"][:count]
        return np.ascontiguousarray(images), f"the first {count} test images"
    found = np.random.default_rng(0).integers(0, 256, (count, *settings.dataset.image)).astype(np.uint8)
    return found, f"{count} random images ({file.name} is not in the data folder)"
