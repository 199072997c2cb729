"""A trained net becomes a packed one: weights as bits, batch norm and sign as thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import kernels
from kernels import Packed, Thresholds
from reproduce import nets, spec
from reproduce.nets.binarize import ap2
from reproduce.packed.blocks import (
    BitLayer,
    Norm,
    OutputLayer,
    PackedError,
    PixelLayer,
    RealLayer,
    Shape,
    pixel_layer,
    shapes,
    thresholds,
)
from reproduce.packed.net import PackedNet
from reproduce.training.train import Classifier


def freeze(module: Classifier) -> PackedNet:
    """The module's net, as its parameters now are, packed. PackedError if weights or activations are not ±1."""
    data = module.data["train"]
    affine = (data.scale, data.shift.cpu().numpy()) if data.rows.dtype == torch.uint8 else None
    return freeze_net(module.settings, module.net.state_dict(), affine)


def freeze_net(
    settings: spec.Settings,
    state: Mapping[str, Tensor],
    affine: tuple[float, NDArray[np.float32]] | None,
    about: dict[str, Any] | None = None,
) -> PackedNet:
    """The net of `settings` with the parameters `state` (a state_dict of nets.MLP or nets.ConvNet), packed.

    `affine`: scale and shift, () or (H · W · C,), that take 8-bit pixels to what the net was trained on, or None
    where that is not such a map. Raises PackedError.
    """
    net = packable(settings)
    every = shapes(settings)
    blocks = [_Block(state, i, net) for i in range(len(every))]
    kinds = [net.norm] * (len(every) - 1) + [net.output_norm]
    weights = [block.signs(shape) for block, shape in zip(blocks, every, strict=True)]
    norms = [
        block.norm(kind, shape.weights[0], block is not blocks[-1])
        for block, kind, shape in zip(blocks, kinds, every, strict=True)
    ]
    first: PixelLayer | RealLayer = RealLayer(every[0], weights[0], norms[0])
    if affine is not None:
        first = pixel_layer(every[0], weights[0], norms[0], *affine)
    hidden = [
        BitLayer(shape, w, Thresholds(*thresholds(norm, int(np.prod(w.shape[1:])))))
        for shape, w, norm in zip(every[1:-1], weights[1:-1], norms[1:-1], strict=True)
    ]
    output = OutputLayer(every[-1], weights[-1], norms[-1])
    return PackedNet(settings, first, tuple(hidden), output, about or {})


def packable(settings: spec.Settings) -> spec.PaperNet:
    """The net's settings. PackedError, which names the layer, if it is not the paper's chain of ±1 layers."""
    net = settings.net
    if not isinstance(net, spec.MLPNet | spec.ConvNet) or net.kind not in ("mlp", "convnet"):
        with torch.device("meta"):
            layers = nets.build(settings).named_children()
        name, layer = next(((n, m) for n, m in layers if not isinstance(m, nets.Block)), (net.kind, None))
        raise PackedError(f"{name} ({type(layer).__name__}): only a chain of the paper's blocks can be packed")
    if settings.dataset.planes[0] != settings.dataset.planes[1]:
        raise PackedError(f"blocks.0: images of {settings.data.name} are not square")
    plain = net.weights == "binary"
    if net.weights == "float" or not (plain or hasattr(spec.WEIGHTS[net.weights], "scales")):
        raise PackedError(f"blocks.0.layer: {net.weights} weights: only ±1, times a scale a unit, can be packed")
    if net.first_weights == "float":
        raise PackedError("blocks.0.layer: float weights: only ±1, times a scale a unit, can be packed")
    if isinstance(net, spec.ConvNet) and net.border:
        raise PackedError("blocks.1.layer: a border of ones: only convolutions padded with zeros can be packed")
    if not issubclass(spec.ACTIVATIONS[net.activation], nets.Sign):
        raise PackedError(f"blocks.0.act: {net.activation} activations: only ±1 can be packed")
    for where, norm in (("blocks.0", net.norm), ("the last block", net.output_norm)):
        if norm.kind not in ("vanilla", "std", "shift"):
            raise PackedError(f"{where}: a norm of the kind {norm.kind} cannot be packed")
    return net


class _Block:
    """The parameters of `blocks.<i>` in a state_dict, each checked for its size."""

    def __init__(self, state: Mapping[str, Tensor], i: int, net: spec.PaperNet) -> None:
        self.state, self.prefix, self.net = state, f"blocks.{i}.", net

    def _get(self, name: str, count: int) -> Tensor:
        value = self.state.get(self.prefix + name)
        if value is None or value.dtype != torch.float32 or value.numel() != count:
            raise PackedError(f"weights of another net: {self.prefix}{name} should be {count} float32 numbers")
        return value.detach().cpu()

    def signs(self, shape: Shape) -> Packed:
        weight = self._get("layer.weight", int(np.prod(shape.weights)))
        if len(shape.weights) == 4:
            units, taps, _, inputs = shape.weights
            weight = weight.reshape(units, inputs, taps, taps).permute(0, 2, 3, 1)
        if not bool(weight.isfinite().all()):
            raise PackedError(f"{self.prefix}layer.weight has numbers that are not finite")
        return kernels.pack(weight)

    def norm(self, kind: spec.Norm, units: int, hidden: bool) -> Norm:
        """Batch norm on the sums of ±1, with the weights' scale and what the activation adds before its sign."""
        gamma = self._get("norm.weight", units)
        if kind.kind == "std":
            factor = gamma.double() / (self._get("norm.std", units).double() + kind.eps)
        else:
            inv_std = self._get("norm.inv_std", units)
            if kind.kind == "shift":
                inv_std, gamma = ap2(inv_std), ap2(gamma)
            factor = inv_std.double() * gamma.double()
        rest = [self._get(name, units) for name in ("layer.bias", "norm.mean", "norm.bias")]
        bias, mean, beta = (value.double() for value in rest)
        if hidden and (added := spec.ACTIVATIONS[self.net.activation].added):
            beta = beta + self._get(f"act.{added}", units).double()
        if self.net.weights != "binary":  # scale · s takes the place of s
            weight = self.state[f"{self.prefix}layer.weight"]
            scale = spec.WEIGHTS[self.net.weights].scales(weight).double().cpu()
            bias, mean, factor = bias / scale, mean / scale, factor * scale
        return Norm(*(value.numpy() for value in (bias, mean, factor, beta)))
