"""The nets of the benchmarks: of the paper's sizes, trained ones if `results/nets` has them, else random."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import kernels
from reproduce import files, nets, spec
from reproduce.datasets import fetch
from reproduce.nets import binarize
from reproduce.packed import PackedNet, freeze_net, publish_nets
from reproduce.packed.blocks import Floats, Norm, PixelLayer, convolved, shapes
from reproduce.records import runs

RANDOM = "random weights"
SCALE, SHIFT = 2 / 255, -1.0  # pixels onto -1..1, as the BNN cells of MNIST and CIFAR-10 have them
CELLS = {"MNIST MLP": "table1/bnn-theano-mnist", "CIFAR-10 ConvNet": "table1/bnn-theano-cifar10"}


def floats(images: Tensor) -> Tensor:
    """8-bit images as a float net takes them: (N, pixels), or (N, C, H, W) channels-last in memory."""
    x = images.to(torch.float32).mul_(SCALE).add_(SHIFT)
    return x.flatten(1) if x.dim() == 3 else x.permute(0, 3, 1, 2)


def net_of(name: str, quick: bool) -> tuple[spec.Settings, PackedNet, nn.Module, str]:
    """A net to be timed: its settings, packed, in torch float32, and a note on where its weights are from.

    A tiny one (`quick`) is random. ValueError if a packed net in `results/nets` is damaged.
    """
    settings = cell_settings(name, quick)
    path = None if quick else trained(name)
    if path is None:
        return settings, *random_net(settings), RANDOM
    net = PackedNet.load(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return net.settings, net, float_twin(net), f"trained weights of {path.stem} (sha256 of the file: {digest})"


def trained(name: str) -> Path | None:
    """The committed packed net of a net's cell, at the paper's scale or else of a short schedule.

    Of several the newest; one of other layers or another preprocessing than today's cell does not count.
    """
    settings, folder = cell_settings(name, quick=False), runs.PUBLISHED / publish_nets.FOLDER
    for scale, cell in (("paper", CELLS[name]), ("short", CELLS[name].replace("table1/", "short/"))):
        found = []
        for path in folder.glob(f"{cell.replace('/', '-')}-{scale}-seed*-*.bnn"):
            other = PackedNet.load(path).settings
            if shapes(other) == shapes(settings) and other.data.preprocess == settings.data.preprocess:
                found.append((files.read_sealed(path.with_suffix(".json"))["started"], path))
        if found:
            return max(found)[1]
    return None


def float_twin(net: PackedNet) -> nn.Module:
    """A packed net of 8-bit images in torch float32: ±1 weights as floats, images as SCALE · x + SHIFT.

    A packed net has thresholds where the trained one has batch norms: here a unit's batch norm is 0 halfway
    between the integers on both sides of its threshold.
    """
    every = [net.first, *net.hidden, net.output]
    plain = {"kind": "vanilla", "eps": 1e-4, "alpha": 0.1}  # training's, not used
    over = {"weights": "float", "activation": "sign", "norm": plain, "output_norm": plain}
    plain_net = type(net.settings.net).model_validate(net.settings.net.model_dump(mode="json") | over)
    twin = nets.build(net.settings.model_copy(update={"net": plain_net}))
    state = twin.state_dict()
    for i, layer in enumerate(every):
        signs = torch.from_numpy(kernels.unpack(layer.weights)).float()
        signs = signs.permute(0, 3, 1, 2) if signs.dim() == 4 else signs
        state[f"blocks.{i}.layer.weight"] = signs.reshape(state[f"blocks.{i}.layer.weight"].shape)
    assert isinstance(net.first, PixelLayer)
    zeros = [_first_zero(net.first), *(layer.rule.level - 0.5 + layer.rule.below for layer in net.hidden)]
    falls = [net.first.rule.below, *(layer.rule.below for layer in net.hidden)]
    for i, (zero, below) in enumerate(zip(zeros, falls, strict=True)):
        none = np.zeros(len(zero))
        _set_norm(state, i, Norm(none, zero.astype(np.float64), np.where(below, -1.0, 1.0), none))
    _set_norm(state, len(zeros), net.output.norm)
    twin.load_state_dict(state)
    return twin.eval()


def _set_norm(state: dict[str, Tensor], i: int, norm: Norm) -> None:
    parts = {"layer.bias": norm.bias, "norm.mean": norm.mean, "norm.inv_std": norm.factor, "norm.bias": norm.beta}
    parts["norm.weight"] = np.ones_like(norm.mean)
    state.update({f"blocks.{i}.{name}": torch.from_numpy(value).float() for name, value in parts.items()})


def _first_zero(first: PixelLayer) -> Floats:
    """The zero of each unit's batch norm in the first layer, in sums of SCALE · x + SHIFT: float64 (units,).

    The integer thresholds of a unit differ from place to place, and each leaves an interval for it; it lies in the
    middle of what is common to all. A threshold out of reach leaves one side open.
    """
    size, inputs = first.shape.size, first.weights.k
    image = np.full((size, size, inputs), SHIFT)
    offset = convolved(image, kernels.unpack(first.weights).astype(np.float64), first.shape.padding)
    row, column = (np.unique(part, return_index=True)[1] for part in (first.rule.row, first.rule.column))
    offset = offset[row][:, column]
    reach = 255 * int(np.prod(first.weights.shape[1:]))
    under = first.rule.level - 1 + first.rule.below  # the unit changes between this integer and the next
    low = np.where(under < -reach, -np.inf, SCALE * under + offset).max((0, 1))
    high = np.where(under >= reach, np.inf, SCALE * (under + 1) + offset).min((0, 1))
    low, high = np.where(np.isinf(low), high - SCALE, low), np.where(np.isinf(high), low + SCALE, high)
    zero: Floats = (low + high) / 2
    return zero


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
    """The paper-scale settings of a net's cell; `quick`: with a tiny net."""
    (cell,) = spec.cells([CELLS[name]])
    settings = cell.scales["paper"]
    if not quick:
        return settings
    small: dict[str, Any] = {"hidden": [32, 32]} if name == "MNIST MLP" else {"channels": [8], "dense": [16]}
    return settings.model_copy(update={"net": settings.net.model_copy(update=small)})


def images_of(
    name: str, settings: spec.Settings, data_folder: Path | None, count: int
) -> tuple[NDArray[np.uint8], str]:
    """The first `count` test images if the data set is in the data folder, else random bytes; and a note which."""
    file = fetch.folder(data_folder) / f"{settings.data.name}.npz"
    if file.exists():  # nothing is fetched: any images will do for a measurement
        images = fetch.load(settings.data.name, data_folder).arrays["x_test"][:count]
        return np.ascontiguousarray(images), f"the first {count} test images"
    found = np.random.default_rng(0).integers(0, 256, (count, *settings.dataset.image)).astype(np.uint8)
    return found, f"{count} random images ({file.name} is not in the data folder)"
