"""Products with binary weights on a GPU's tensor cores, which hold ±1 and 0 exactly and sum in float32.

Linear layers take bf16 operands: signs as they are, a gradient as the sum of a high and a low part (16
significant bits: a relative error of at most 2^-17 in each of its elements), a first layer's real inputs as three
parts (all 24 bits). So a product of two ±1 operands is an integer and exact. The gradient of a first layer's
weights, real by real, stays in float32.

A 3×3 convolution gives its result in the type of its operands, so bf16 would round it to 8 bits. Forward it takes
fp16 where every possible result is a number of fp16 (`exact_in_fp16`), else TF32; backward it takes TF32, where a
gradient enters rounded to 11 significant bits, with a relative error of at most 2^-11 in each of its elements.

`ways` says which of these are used: without "bf16" linear layers take TF32 as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from torch.utils.weak import WeakIdKeyDictionary

from reproduce.nets import ways
from reproduce.nets.binarize import sign


def serves(x: Tensor) -> bool:
    """Whether products of x go through this module."""
    return x.is_cuda


def linear(x: Tensor, weight: Tensor, bias: Tensor, signs_in: bool) -> Tensor:
    """`products.binary_linear` for float32 x on a GPU."""
    kind = _Halves if ways.uses("bf16") else _TensorCores
    out: Tensor = kind.apply(x, weight, bias, signs_in)
    return out


def conv2d(x: Tensor, weight: Tensor, bias: Tensor, signs_in: bool) -> Tensor:
    """`products.binary_conv2d` for float32 x on a GPU. With `signs_in` no element of x is 0: no layer before a
    convolution has dropout."""
    out: Tensor = _TensorCores.apply(x, weight, bias, signs_in)
    return out


# --- signs of weights, kept beside them -----------------------------------------------------------------------


@dataclass
class _Kept:
    """The signs of a weight, with its strides.

    `version`, `address`: the weight's version counter and address when the signs were computed. `followed`: the
    update kernel, which does not change that counter, writes the signs whenever it writes the weight.
    """

    signs: Tensor
    version: int
    address: int
    followed: bool = False


_kept = WeakIdKeyDictionary()


def signs_of(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """sign(weight) in bfloat16 or float16. Valid until the weight changes: later calls reuse the memory.

    The signs are computed here unless the update kernel has kept them up to date (`follow`).
    """
    kept: _Kept | None = _kept.get(weight)
    if kept is None or kept.signs.dtype != dtype or kept.address != weight.data_ptr():
        kept = _kept[weight] = _Kept(
            torch.empty_like(weight, dtype=dtype, requires_grad=False), -1, weight.data_ptr()
        )
    if not (kept.followed and kept.version == weight._version):
        kept.signs.copy_(sign(weight))
        kept.version, kept.followed = weight._version, False
    return kept.signs


def follow(weight: Tensor) -> Tensor | None:
    """The kept signs of a weight, for an update kernel that then writes both; None if there are none."""
    kept: _Kept | None = _kept.get(weight)
    if kept is None or kept.version != weight._version or kept.signs.stride() != weight.stride():
        return None
    kept.followed = True
    return kept.signs


def one(signs: Tensor | None) -> int:
    """The bit pattern of +1 in the dtype of the signs; 0 for None."""
    return 0 if signs is None else int(torch.ones((), dtype=signs.dtype).view(torch.int16))


# --- linear layers in bf16 ------------------------------------------------------------------------------------


def parts(x: Tensor, count: int) -> Tensor:
    """Float32 x (N, K) as a sum of `count` bf16 tensors, stacked as (count · N, K): 8 · count bits of x."""
    found, rest = [x.to(torch.bfloat16)], x
    for _ in range(count - 1):
        rest = rest - found[-1]
        found.append(rest.to(torch.bfloat16))
    return found[0] if count == 1 else torch.cat(found)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a (M, K) @ b (K, N), both bf16: float32 (M, N)."""
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


class _Halves(Function):
    """A linear layer, by bf16 operands and float32 results."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, signs_in: bool) -> Tensor:
        signs = signs_of(weight, torch.bfloat16)
        ctx.save_for_backward(x, signs)
        ctx.signs_in = signs_in
        return _added(product(parts(x, 1 if signs_in else 3), signs.T), len(x)).add_(bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        x, signs = ctx.saved_tensors
        (grad,) = grads
        halves = parts(grad, 2)
        to_x = _added(product(halves, signs), len(x)) if ctx.needs_input_grad[0] else None
        if ctx.signs_in:
            to_weight = product(halves.T, x.to(torch.bfloat16).repeat(2, 1))
        else:
            with precision(False):
                to_weight = grad.T @ x
        return to_x, to_weight, grad.sum(0), None


def _added(y: Tensor, rows: int) -> Tensor:
    """The sum of the products of stacked `parts`: (count · rows, n) -> (rows, n)."""
    return y if len(y) == rows else y.view(-1, rows, y.shape[1]).sum(0)


# --- convolutions, and linear layers in TF32 ------------------------------------------------------------------


def exact_in_fp16(channels: int) -> bool:
    """Whether fp16 holds every result of a 3×3 convolution of ±1 by ±1 with this many input channels exactly.

    A result sums t · channels terms ±1, where t <= 9 taps lie within the image, and has that number's parity. fp16
    holds all integers up to 2,048, and the even ones up to 4,096.
    """
    return all(t * channels <= (4096 if t * channels % 2 == 0 else 2048) for t in range(1, 10))


class _TensorCores(Function):
    """A linear layer (a weight of two axes) or a 3×3 convolution (four axes), in the precision stated above."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, signs_in: bool) -> Tensor:
        halves = (
            x.dim() == 4
            and x.dtype == torch.float32
            and signs_in
            and ways.uses("fp16")
            and exact_in_fp16(x.shape[1])
        )
        signs = signs_of(weight, torch.float16) if halves else sign(weight)
        ctx.save_for_backward(x, signs)
        ctx.signs_in = signs_in
        if halves:
            return F.conv2d(x.half(), signs, padding=1).float().add_(bias.view(-1, 1, 1))
        with precision(signs_in):
            if x.dim() == 2:
                return F.linear(x, signs, bias)
            if signs_in and not ways.uses("tf32"):
                return unfolded(x, signs).add_(bias.view(-1, 1, 1))
            return F.conv2d(x, signs, bias, padding=1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        x, signs = ctx.saved_tensors
        (grad,), signs = grads, signs.to(x.dtype)
        wanted = ctx.needs_input_grad[0]
        if x.dim() == 2:
            with precision(True):
                to_x = grad @ signs if wanted else None
            with precision(ctx.signs_in):
                return to_x, grad.T @ x, grad.sum(0), None
        with precision(True):
            to_x = conv_backward(grad, x, signs, (True, False, False))[0] if wanted else None
        with precision(ctx.signs_in):
            to_weight = conv_backward(grad, x, signs, (False, True, False))[1]
        return to_x, to_weight, grad.sum((0, 2, 3)), None


def conv_backward(grad: Tensor, x: Tensor, weight: Tensor, mask: tuple[bool, bool, bool]) -> tuple[Tensor, ...]:
    """Gradients of a 3×3 convolution, padded by one, for x, weight and bias; only those that `mask` names."""
    found: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        grad, x, weight, None, (1, 1), (1, 1), (1, 1), False, (0, 0), 1, mask
    )
    return found


def unfolded(x: Tensor, signs: Tensor) -> Tensor:
    """The 3×3 convolution as a matrix product of x's windows, channels-last: exact for ±1, without cuDNN."""
    images, _, height, width = x.shape
    y: Tensor = signs.flatten(1) @ F.unfold(x, 3, padding=1)
    return y.view(images, -1, height, width).contiguous(memory_format=torch.channels_last)


def full_precision() -> None:
    """Make full float32 the default of products on a GPU; torch's own default for convolutions is TF32."""
    for holder in _holders():
        holder.fp32_precision = "ieee"
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


def _holders() -> tuple[Any, Any]:
    return torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]


@contextlib.contextmanager
def precision(tensor_cores: bool) -> Iterator[None]:
    """A block in which torch's float32 products on a GPU use TF32 (`tensor_cores`) or full float32."""
    wanted = "tf32" if tensor_cores else "ieee"
    holders = _holders()
    before = [holder.fp32_precision for holder in holders]
    try:
        for holder in holders:
            holder.fp32_precision = wanted
        yield
    finally:
        for holder, value in zip(holders, before, strict=True):
            holder.fp32_precision = value
