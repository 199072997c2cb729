"""Layers with ±1 weights and, unless `real_inputs`, ±1 inputs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from kernels.torch.operators import operators, pack, signs_of


class _Sign(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return signs_of(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        found: Tensor = grads[0] * (x.abs() <= 1)
        return found


def sign(x: Tensor) -> Tensor:
    """±1, +1 where x >= 0; backward the straight-through estimator g · 1[|x| <= 1] (equation 4). NaN gives -1."""
    made: Tensor = _Sign.apply(x)
    return made


def _pack_again(module: nn.Module, _: Any) -> None:
    module.train(module.training)


class _Binary(nn.Module):
    """Base class of the layers: latent weights, and their bits after `eval()`."""

    packed: Tensor | None
    real_inputs: bool

    def _begin(self, real_inputs: bool) -> None:
        self.real_inputs = real_inputs
        self._packed_from: tuple[Tensor | None, int] = None, -1  # the weights that were packed, and their version
        self.register_buffer("packed", None, persistent=False)
        self.register_load_state_dict_post_hook(_pack_again)  # type: ignore[no-untyped-call]

    def _latent(self) -> Tensor:
        """The latent weights with the axis that is packed last."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> Any:
        """As for any module; `eval()` packs the current weights.

        Later changes are noticed and packed again, except those written through `weight.data` or another view of
        its memory that PyTorch does not count: call `eval()` again after them.
        """
        super().train(mode)
        self.packed = None
        if not mode and not self.real_inputs:
            self.packed, self._packed_from = pack(self._latent().detach()), self._now()
        return self

    def _now(self) -> tuple[Tensor, int]:
        """The weights, and the number of changes to them that PyTorch counts."""
        weight: Tensor = self.weight  # type: ignore[assignment]
        return weight, -1 if weight.is_inference() else weight._version

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self.train(self.training)  # the layout of bits depends on the device

    def _bits(self) -> Tensor | None:
        """The packed weights if this call uses them, else None."""
        if self.packed is None or torch.is_grad_enabled():
            return None
        if not torch.compiler.is_compiling():
            (packed, version), (weight, count) = self._packed_from, self._now()
            if packed is not weight or version != count or count < 0:  # below 0: changes are not counted
                self.train(False)
        return self.packed

    def _given(self, x: Tensor) -> Tensor:
        return x if self.real_inputs else sign(x)


class BinaryLinear(_Binary, nn.Linear):
    """y = sign(x) · sign(W)ᵀ + b, or x · sign(W)ᵀ + b with `real_inputs` (a first layer): (*, in) to (*, out).

    The gradient of sign(W) is passed to W unchanged, that of sign(x) to x where |x| <= 1 (Algorithm 1): clip the
    weights after each step (`clip_weights`). In `eval()` without gradients, weights and inputs are bits; a NaN in
    x is then a ValueError.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, real_inputs: bool = False, **kind: Any
    ) -> None:
        super().__init__(in_features, out_features, bias, **kind)
        self._begin(real_inputs)

    def _latent(self) -> Tensor:
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        bits = self._bits()
        if bits is None:
            y: Tensor = operators.real_linear(self._given(rows), self.weight.to(x.dtype))
        else:
            y = operators.xnor_linear(pack(rows), bits, self.in_features).to(x.dtype)
        y = y if self.bias is None else y + self.bias
        return y.view(*x.shape[:-1], self.out_features)


class BinaryConv2d(_Binary, nn.Conv2d):
    """sign(x), or x with `real_inputs`, convolved with sign(W), plus b: (N, C, H, W) to (N, Cout, H', W').

    The padding is 0 after the sign: taps outside the image add nothing. Gradients and `eval()` as of BinaryLinear.
    The result is channels-last in memory. ValueError for groups, dilation, padding other than zeros or by name
    ("same"), and for a stride or padding that differs between the axes.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        bias: bool = True,
        real_inputs: bool = False,
        **kind: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=bias, **kind)
        if reason := _unsupported(self):
            raise ValueError(f"BinaryConv2d has no {reason}")
        self.how = (self.padding[0], self.stride[0])
        self._begin(real_inputs)

    def _latent(self) -> Tensor:
        return self.weight.permute(0, 2, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        bits = self._bits()
        if bits is None:
            y: Tensor = operators.real_conv2d(self._given(x), self.weight.to(x.dtype), *self.how)
            return y if self.bias is None else y + self.bias[:, None, None]
        y = operators.xnor_conv2d(pack(x.permute(0, 2, 3, 1)), bits, self.in_channels, *self.how).to(x.dtype)
        y = y if self.bias is None else y + self.bias
        return y.permute(0, 3, 1, 2)


def _unsupported(layer: nn.Conv2d) -> str | None:
    """The first setting of a convolution that the kernels do not support, in words; None if they support all."""
    if layer.groups != 1:
        return f"groups, only groups=1, not {layer.groups}"
    if layer.dilation != (1, 1):
        return f"dilation, only dilation=1, not {layer.dilation}"
    if layer.padding_mode != "zeros":
        return f"padding_mode {layer.padding_mode!r}, only 'zeros'"
    if isinstance(layer.padding, str):
        return f"padding {layer.padding!r}, only a number"
    for setting, pair in (("stride", layer.stride), ("padding", layer.padding)):
        if pair[0] != pair[1]:
            return f"{setting} that differs between the axes: {pair}"
    return None


def make_binary(model: nn.Module, real_inputs: Collection[str]) -> nn.Module:
    """Replaces every Linear and Conv2d inside `model` by a binary layer with the same parameters; returns `model`.

    `real_inputs`: names (as of `named_modules`) of the layers whose inputs stay real, as a first layer's should.
    ValueError for other names, and for convolutions that BinaryConv2d refuses.
    """
    every = model.named_modules(remove_duplicate=False)
    found = {name: layer for name, layer in every if type(layer) in (nn.Linear, nn.Conv2d)}
    if wrong := sorted(set(real_inputs) - set(found)):
        raise ValueError(f"no Linear or Conv2d of the name {wrong[0]!r}: there are {', '.join(found)}")
    made: dict[nn.Module, nn.Module] = {}  # a layer that stands in several places stays one
    for name, layer in found.items():
        if layer not in made:
            alike = {other for other, one in found.items() if one is layer}
            made[layer] = _binary_of(name, layer, not alike.isdisjoint(real_inputs))
        model.set_submodule(name, made[layer])
    return model


def _binary_of(name: str, layer: nn.Linear | nn.Conv2d, real_inputs: bool) -> BinaryLinear | BinaryConv2d:
    bias = layer.bias is not None
    made: BinaryLinear | BinaryConv2d
    if isinstance(layer, nn.Linear):
        made = BinaryLinear(layer.in_features, layer.out_features, bias, real_inputs, device="meta")
    else:
        if reason := _unsupported(layer):
            raise ValueError(f"{name}: BinaryConv2d has no {reason}")
        kernel, stride, padding = layer.kernel_size, layer.stride, layer.padding
        sizes = (layer.in_channels, layer.out_channels, (kernel[0], kernel[1]))
        made = BinaryConv2d(*sizes, stride[0], int(padding[0]), bias, real_inputs, device="meta")
    made.weight, made.bias = layer.weight, layer.bias
    made.train(layer.training)
    return made


@torch.no_grad()
def clip_weights(model: nn.Module) -> None:
    """Clips the latent weights of all binary layers of `model` to [-1, 1], as Algorithm 1 does after each step."""
    for layer in model.modules():
        if isinstance(layer, BinaryLinear | BinaryConv2d):
            layer.weight.clamp_(-1, 1)
