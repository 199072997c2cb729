"""A whole training step on a CPU without autograd: the paper's nets, layer by layer, in fused passes.

The only state between steps is the net's parameters, its batch-norm averages and the optimizer's moments;
`Engine.refresh` reads them. The sums made here do not depend on the number of threads; products of real numbers,
which torch makes, may. Dropout and stochastic signs depend only on the epoch's seed, the step's number and the
element's index.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kernels.arrays import Floats, aligned
from kernels.cpu.step import fixed, norm, ternary
from kernels.cpu.step.memory import in_large_pages
from reproduce import nets
from reproduce.nets.layers import BatchNorm, BinaryConv2d, BinaryLinear, ShiftBatchNorm, StdBatchNorm
from reproduce.training.fused import Convolution, Latent, Linear, Values
from reproduce.training.optim import Rule
from reproduce.training.preprocess import DeviceData


def unknown(net: nn.Module) -> str | None:
    """Why the engine cannot train this net, in a few words; None if it can."""
    if not ternary.available():
        return "no compiled kernels"
    if not isinstance(net, nets.MLP | nets.ConvNet) or type(net) not in (nets.MLP, nets.ConvNet):
        return f"a net of the kind {type(net).__name__}"
    for block in net.blocks:
        assert isinstance(block, nets.Block)
        if type(block) is not nets.Block or type(block.layer) not in (BinaryLinear, BinaryConv2d):
            return f"a {type(block).__name__} with a {type(block.layer).__name__}"
        if type(block.norm) not in (BatchNorm, ShiftBatchNorm, StdBatchNorm):
            return f"a {type(block.norm).__name__}"
        if block.layer.binarize is not None:
            return "weights that are not plain signs"
        if isinstance(block.layer, BinaryConv2d) and block.layer.border:
            return "a border of ones"
        if block.activation not in (None, "sign", "stochastic_sign", "relu"):
            return f"an activation of the kind {block.activation}"
        if block.layer.weight.dtype != torch.float32:
            return "weights that are not float32"
        if block.layer.weight[0].numel() > ternary.MAX_K:
            return f"more than {ternary.MAX_K} inputs of a unit"
    return None


class Stage:
    """One block of the net: product, batch norm, activation, dropout. The arrays for a batch are in `Pass`."""

    def __init__(self, block: nets.Block, position: int) -> None:
        layer = block.layer
        self.block, self.position = block, position
        self.product = Linear(layer) if isinstance(layer, BinaryLinear) else Convolution(layer)
        self.shift = isinstance(block.norm, ShiftBatchNorm)
        assert layer.bias is not None
        self.parameters = (layer.bias, block.norm.weight, block.norm.bias)
        self.bias, self.gamma, self.beta = (p.detach().numpy() for p in self.parameters)
        self.mean = block.norm.mean.numpy()
        self.spread = block.norm.get_buffer(block.norm.spread).numpy()
        self.small: list[Latent] = []

    def inverse(self, spread: Floats) -> Floats:
        """The factor (n,) that the batch norm multiplies with. `spread` (n,): 1/std, of StdBatchNorm the std.

        The factor is 1/std; of shift-based batch norm AP2(1/std), of StdBatchNorm 1/(std + eps).
        """
        if isinstance(self.block.norm, StdBatchNorm):
            inverse: Floats = np.reciprocal(spread + np.float32(self.block.norm.eps))
            return inverse
        return norm.ap2(spread) if self.shift else spread

    def scaled_gamma(self) -> Floats:
        """gamma (n,), of shift-based batch norm AP2(gamma)."""
        return norm.ap2(self.gamma) if self.shift else self.gamma


class Pass:
    """The arrays of one stage for batches of one size."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._rooms: dict[str, NDArray[Any]] = {}
        self._norms: dict[bool, norm.Norm] = {}
        self.x: Values
        self.y: NDArray[Any]
        self.scale = 1.0
        self.key = 0

    def room(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        """The array of this name, which is kept for later steps; a new one holds zeros."""
        found = self._rooms.get(name)
        if found is None or found.shape != shape or found.dtype != dtype:
            found = aligned(math.prod(shape), dtype)[0].reshape(shape)
            found[...] = 0
            self._rooms[name] = found
        return found

    def _norm(self, training: bool, shape: tuple[int, ...]) -> norm.Norm:
        made = self._norms.get(training)
        if made is None:
            block = self.stage.block
            activation = "sign" if block.activation == "stochastic_sign" and not training else block.activation
            made = norm.Norm(
                math.prod(shape[:-1]), shape[-1], activation, shift=self.stage.shift, masked=block.ste_mask,
                drop=block.dropout if training else 0.0,
            )  # fmt: skip
            self._norms[training] = made
        return made

    def forward(self, x: Values, training: bool, key: Callable[[str], int]) -> Values:
        """The stage's output for the input x. key(purpose): key of the random numbers for "dropout" or "noise"."""
        stage, block = self.stage, self.stage.block
        y, scale = stage.product.forward(x, self.room)
        if block.pool:
            n, height, width, channels = y.shape
            small = (n, height // 2, width // 2, channels)
            pooled = self.room("pooled", small, y.dtype.type)
            norm.pool(y, pooled, self.room("which", small, np.uint8))
            y = pooled
        way = self._norm(training, y.shape)
        # a constant of each unit, which only the moving average of the mean needs
        constant = stage.product.of_shift(x) + stage.bias
        if training:
            square = way.statistics(y, scale)
            of_std = isinstance(block.norm, StdBatchNorm)
            found = np.sqrt(square) if of_std else 1 / np.sqrt(square + block.norm.eps)
            spread = found.astype(np.float32)
            way.inverse[:] = stage.inverse(spread)
            inverse = way.inverse.astype(np.float64)
            if of_std:  # a std of 0 means that every value is the mean: the factor is 0
                way.curve[:] = inverse / np.where(found > 0, found, np.inf) / way.rows
            else:
                way.curve[:] = inverse**2 / way.rows
            alpha = np.float32(block.norm.alpha)
            stage.mean += alpha * (way.mean + constant - stage.mean)
            stage.spread += alpha * (spread - stage.spread)
            self.x, self.y, self.scale, self.key = x, y, scale, key("dropout") if block.dropout else 0
        else:
            way.mean[:] = stage.mean - constant
            way.inverse[:] = stage.inverse(stage.spread)
        out = self.room("out", y.shape, np.int8 if way.signed else np.float32)
        noise = key("noise") if training and block.activation == "stochastic_sign" else 0
        way.forward(y, scale, stage.scaled_gamma(), stage.beta, out, noise, self.key if training else 0)
        if not way.signed:
            return Values(out)
        kept = 1 / (1 - block.dropout) if training else 1.0
        return Values(out, kept, zeros=training and block.dropout > 0)

    def backward(self, grad: Floats, first: bool) -> Floats | None:
        """Updates the parameters; returns the gradient of the input, None for the `first` stage.

        `grad` is the gradient of the output, and is overwritten.
        """
        stage = self.stage
        way = self._norms[True]
        to_gamma, to_beta, to_bias = way.backward(self.y, self.scale, stage.beta, grad, self.key)
        grad = grad.reshape(self.y.shape)
        if stage.block.pool:
            n, height, width, channels = self.y.shape
            spread = self.room("spread", (n, 2 * height, 2 * width, channels), np.float32)
            norm.unpool(grad, self._rooms["which"], spread)
            grad = spread
        to_input = None if first else stage.product.to_input(grad, self.room)
        stage.product.update(grad, self.x, self.room)
        for latent, gradient in zip(stage.small, (to_bias, to_gamma, to_beta), strict=True):
            assert latent.rule is not None
            fixed.update_from(gradient, latent.w, latent.m, latent.v, latent.rule)
        return to_input


class Engine:
    """Training steps and scores of `net` on images of a `DeviceData`; the cost is `step.squared_hinge`.

    `batch`: number of images that `scores` computes at once. Steps may have batches of any size.
    """

    def __init__(self, net: nets.MLP | nets.ConvNet, rule: Rule, batch: int) -> None:
        self.net, self.rule, self.batch = net, rule, batch
        self.stages = [Stage(block, k) for k, block in enumerate(net.blocks)]  # type: ignore[arg-type]
        self.flattened = net.convolutions if isinstance(net, nets.ConvNet) else None
        self.drop_in = net.dropout_in if isinstance(net, nets.MLP) else 0.0
        self._passes: dict[int, list[Pass]] = {}
        self._groups = {
            p: (group["multiplier"], 1.0 if group["clip"] else math.inf)
            for group in rule.param_groups
            for p in group["params"]
        }
        self._latents: list[tuple[Tensor, Latent]] = []

    def refresh(self) -> None:
        """Read parameters and moments: before the first step, and whenever other code has changed them."""
        self._latents = []
        for stage in self.stages:
            stage.product.refresh(self._latent(stage.block.layer.weight))
            stage.small = [self._latent(p) for p in stage.parameters]

    def _latent(self, parameter: Tensor) -> Latent:
        m, v = self.rule.moments(parameter)
        held = Latent(_in_memory(parameter.detach()), _in_memory(m), _in_memory(v))
        for array in (held.w, held.m, held.v):
            in_large_pages(array)
        self._latents.append((parameter, held))
        return held

    def step(self, data: DeviceData, index: Tensor, seed: int, number: int) -> float:
        """One training step on the images at `index` (B,); returns the cost before the update.

        `seed` is the epoch's, `number` the step's number in the epoch, from 0.
        """
        rate = self.rule.advance()
        assert self.rule.kernel is not None
        for parameter, held in self._latents:
            multiplier, bound = self._groups[parameter]
            held.rule = fixed.Rule(
                self.rule.kernel, self.rule.beta1, self.rule.beta2, self.rule.eps, rate * multiplier, bound
            )

        def key(purpose: str, position: int) -> int:
            text = f"{seed}/{number}/{position}/{purpose}"
            return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")

        passes = self._of(len(index))
        scores = self._forward(passes, self._input(data, index, key("dropout", -1)), True, key)
        labels = data.labels[index].numpy()
        targets = np.where(np.arange(scores.shape[1]) == labels[:, None], np.float32(1), np.float32(-1))
        slack = np.maximum(1 - targets * scores, 0)
        grad: Floats = slack * targets * np.float32(-2 / slack.size)
        for k in range(len(passes) - 1, -1, -1):
            below = passes[k].backward(grad, first=k == 0)
            if below is not None:
                grad = self._unflattened(below, passes[k - 1]) if k == self.flattened else below
        return float((slack.astype(np.float64) ** 2).mean())

    def scores(self, data: DeviceData, index: Tensor) -> Floats:
        """Scores (N, classes) of the images at `index` (N,), by the moving averages, without dropout and noise."""
        classes = int(self.net.blocks[-1].layer.out_features)  # type: ignore[union-attr, arg-type]
        found = np.empty((len(index), classes), np.float32)
        for start in range(0, len(index), self.batch):
            part = index[start : start + self.batch]
            x = self._input(data, part, None)
            found[start : start + len(part)] = self._forward(self._of(len(part)), x, False, lambda *_: 0)
        return found

    def _of(self, rows: int) -> list[Pass]:
        if rows not in self._passes:
            self._passes[rows] = [Pass(stage) for stage in self.stages]
        return self._passes[rows]

    def _forward(self, passes: list[Pass], x: Values, training: bool, key: Callable[[str, int], int]) -> Floats:
        for k, one in enumerate(passes):
            if k == self.flattened:  # features in the order of (C, H, W), as torch flattens them
                n = len(x.array)
                moved = one.room("flat", (n, x.array.shape[3], *x.array.shape[1:3]), x.array.dtype.type)
                np.copyto(moved, x.array.transpose(0, 3, 1, 2))
                x = Values(moved.reshape(n, -1), x.scale, x.zeros)
            x = one.forward(x, training, lambda purpose, k=k: key(purpose, k))  # type: ignore[misc]
        return x.array

    def _unflattened(self, grad: Floats, below: Pass) -> Floats:
        n, height, width, channels = below.y.shape
        moved = below.room("unflattened", below.y.shape, np.float32)
        np.copyto(moved, grad.reshape(n, channels, height, width).transpose(0, 2, 3, 1))
        return moved

    def _input(self, data: DeviceData, index: Tensor, dropout: int | None) -> Values:
        """The first layer's input. `dropout`: key of its random numbers; None in evaluation."""
        rows = data.rows.index_select(0, index).numpy()
        drop = self.drop_in if dropout is not None else 0.0
        keep = None
        if drop:
            assert dropout is not None
            numbers = norm.numbers(dropout, 0, rows.size).reshape(rows.shape)
            keep = numbers >= np.uint32(round(drop * 2**32))
        if rows.dtype == np.uint8 and not data.shape and self.stages[0].product.binary:
            taken = _pixels(rows, data)
            if keep is None or taken.shift is None:
                if keep is not None:
                    taken.array *= keep
                    taken.scale /= 1 - drop
                return taken
        x = (
            rows.astype(np.float32) * np.float32(data.scale) + data.shift.numpy()
            if rows.dtype == np.uint8
            else rows
        )
        if keep is not None:
            x = x * keep * np.float32(1 / (1 - drop))
        return Values(np.ascontiguousarray(x.reshape(len(x), *(data.shape or (-1,)))), images=True)


def _pixels(rows: NDArray[np.uint8], data: DeviceData) -> Values:
    """Bytes p as scale · q + shift, q int16 of at most 255: q = 2p - 255 if that leaves no shift, else q = p."""
    shift = data.shift.numpy()
    if shift.ndim == 0 and math.isclose(float(shift), -127.5 * data.scale, rel_tol=1e-6):
        return Values(2 * rows.astype(np.int16) - np.int16(255), data.scale / 2, images=True)
    return Values(rows.astype(np.int16), data.scale, shift=shift, images=True)


def _in_memory(t: Tensor) -> Floats:
    """A tensor as an array in the order of its memory: a channels-last weight as (Cout, 3, 3, Cin)."""
    return t.permute(0, 2, 3, 1).numpy() if t.dim() == 4 else t.numpy()
