"""The operators `torch.ops.kernels.…`: bits by bits, and real numbers by ±1 with their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

import kernels
from kernels import reals
from kernels.arrays import Floats
from kernels.cuda import arrays
from kernels.operands import Packed, words_for

_library = torch.library.Library("kernels", "DEF")
operators = torch.ops.kernels


def _operator(schema: str, fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function as the operator of this schema on CPU and CUDA; `fake` returns an empty result."""

    def register(real: Callable[..., Any]) -> Callable[..., Any]:
        name = schema.partition("(")[0]
        _library.define(schema)
        for device in ("CPU", "CUDA"):
            _library.impl(name, real, device)
        torch.library.register_fake(f"kernels::{name}", fake, lib=_library)
        return real

    return register


# --- ±1 by ±1 -------------------------------------------------------------------------------------------------


def _pack_fake(x: Tensor) -> Tensor:
    count = arrays.gpu_words_for if x.device.type == "cuda" else words_for
    return x.new_empty((*x.shape[:-1], count(x.shape[-1])), dtype=torch.int64)


@_operator("pack(Tensor x) -> Tensor", _pack_fake)
def _pack(x: Tensor) -> Tensor:
    words = kernels.pack(x.detach()).words.view(np.int64)
    found: Tensor = arrays.as_torch(words) if x.is_cuda else torch.from_numpy(words.copy())
    return found


def pack(x: Tensor) -> Tensor:
    """The signs of x (*lead, K) along its last axis: int64 words (*lead, ceil(K / 64)); on a GPU an even number.

    x: any dtype that `kernels.pack` takes. Values >= 0 are +1. ValueError for NaN, TypeError for other dtypes.
    """
    found: Tensor = operators.pack(x)
    return found


def _packed(words: Tensor, k: int) -> Packed:
    """Words of `pack` as a packed array of `kernels`, over the same memory."""
    words = words.detach().contiguous()
    if words.is_cuda:
        return arrays.GpuPacked(arrays.as_cupy(words)[0].view(np.uint64), k)
    return Packed(words.numpy().view(np.uint64), k)


kept_weights: Any = WeakTensorKeyDictionary()
"""(version, packed array) of each tensor of packed weights that was used."""


def _weights(words: Tensor, k: int) -> Packed:
    """`_packed`, which is kept with its derived layouts until the tensor is changed or freed."""
    if words.is_inference():  # these tensors have no version counter
        return _packed(words, k)
    version, found = kept_weights.get(words, (None, None))
    if version != words._version or found.k != k:
        found = _packed(words, k)
        kept_weights[words] = words._version, found
    kept: Packed = found
    return kept


def _integers(found: Any) -> Tensor:
    """An int32 result of `kernels` as a tensor over the same memory."""
    made: Tensor = torch.from_numpy(found) if isinstance(found, np.ndarray) else arrays.as_torch(found)
    return made


@_operator(
    "xnor_linear(Tensor x, Tensor weight, SymInt k) -> Tensor",
    lambda x, weight, k: x.new_empty((x.shape[0], weight.shape[0]), dtype=torch.int32),
)
def _xnor_linear(x: Tensor, weight: Tensor, k: int) -> Tensor:
    """Words (M, w) by words (N, w) of rows of k signs: int32 (M, N). ValueError where they do not fit."""
    return _integers(kernels.xnor_matmul(_packed(x, k), _weights(weight, k)))


def _size(length: int, taps: int, padding: int, stride: int) -> int:
    return (length + 2 * padding - taps) // stride + 1


def _xnor_conv2d_fake(x: Tensor, weight: Tensor, k: int, padding: int, stride: int) -> Tensor:
    height, width = (_size(x.shape[i], weight.shape[i], padding, stride) for i in (1, 2))
    return x.new_empty((x.shape[0], height, width, weight.shape[0]), dtype=torch.int32)


@_operator("xnor_conv2d(Tensor x, Tensor weight, SymInt k, int padding, int stride) -> Tensor", _xnor_conv2d_fake)
def _xnor_conv2d(x: Tensor, weight: Tensor, k: int, padding: int, stride: int) -> Tensor:
    """Words (N, H, W, w) by words (Cout, kh, kw, w) of k channels, a border of zeros: int32 (N, H', W', Cout).

    Raises as `kernels.xnor_conv2d` does.
    """
    return _integers(kernels.xnor_conv2d(_packed(x, k), _weights(weight, k), padding, stride))


# --- real by ±1 -----------------------------------------------------------------------------------------------


def signs_of(x: Tensor) -> Tensor:
    """±1 of x's dtype, +1 where x >= 0."""
    return x.ge(0).to(x.dtype) * 2 - 1


def by_tables(*operands: Tensor) -> bool:
    """Whether products of these operands use `reals`: float32 on a CPU with AVX-512."""
    return reals.available() and all(x.device.type == "cpu" and x.dtype == torch.float32 for x in operands)


def _nhwc(x: Tensor) -> Floats:
    """x (A, B, H, W) as a dense array (A, H, W, B): a view where it is channels-last."""
    return np.ascontiguousarray(x.detach().permute(0, 2, 3, 1).numpy())


def _images(x: Tensor, *shape: int) -> Tensor:
    """Uninitialised, of the dtype of x: (N, C, H, W), channels-last in memory, from shape (N, H, W, C)."""
    return x.new_empty(shape).permute(0, 3, 1, 2)


@_operator(
    "real_linear(Tensor x, Tensor weight) -> Tensor",
    lambda x, weight: x.new_empty((x.shape[0], weight.shape[0])),
)
def _real_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x (M, K) · sign(weight (N, K))ᵀ: (M, N) of x's dtype; the gradient of sign(weight) is passed to weight."""
    if not by_tables(x, weight):
        return F.linear(x, signs_of(weight))
    latent = weight.detach()
    turned = latent.stride(0) == 1 and latent.stride(1) != 1
    signs = reals.signs(latent.T.numpy()) if turned else reals.signs(latent.numpy(), transposed=True)
    return torch.from_numpy(reals.real_matmul(x.detach().numpy(), signs))


@_operator(
    "real_linear_weight(Tensor grad, Tensor x) -> Tensor",
    lambda grad, x: grad.new_empty((grad.shape[1], x.shape[1])),
)
def _real_linear_weight(grad: Tensor, x: Tensor) -> Tensor:
    """gradᵀ (N, M) · x (M, K): the gradient of a weight (N, K); by tables if x is 0 and ± one number."""
    values = x.detach().contiguous().numpy() if by_tables(grad, x) else None
    found = None if values is None else reals.ternary(values)
    if values is None or found is None:
        return grad.T.matmul(x)
    one, zeros = found
    above = reals.signs(values, strict=True) if zeros else None
    made = reals.real_matmul(grad.detach().numpy().T, reals.signs(values), above, one / 2 if zeros else one)
    return torch.from_numpy(made)


def _real_conv2d_fake(x: Tensor, weight: Tensor, padding: int, stride: int) -> Tensor:
    height, width = (_size(x.shape[i], weight.shape[i], padding, stride) for i in (2, 3))
    return _images(x, x.shape[0], height, width, weight.shape[0])


@_operator("real_conv2d(Tensor x, Tensor weight, int padding, int stride) -> Tensor", _real_conv2d_fake)
def _real_conv2d(x: Tensor, weight: Tensor, padding: int, stride: int) -> Tensor:
    """x (N, C, H, W) by sign(weight (Cout, C, kh, kw)), a border of zeros: (N, Cout, H', W'), channels-last.

    The gradient of sign(weight) is passed to weight.
    """
    found = _real_conv2d_fake(x, weight, padding, stride)
    if not by_tables(x, weight) or stride != 1:
        return found.copy_(F.conv2d(x, signs_of(weight), padding=padding, stride=stride))
    cout, channels, *taps = weight.shape
    by_tap = _nhwc(weight).reshape(cout, -1, channels).swapaxes(0, 1)
    signs, out = reals.signs(by_tap, transposed=True), found.permute(0, 2, 3, 1).numpy()
    reals.real_conv2d(_nhwc(x), signs, (taps[0], taps[1]), padding, out=out)
    return found


@_operator(
    "real_conv2d_input(Tensor grad, Tensor weight, SymInt height, SymInt width, int padding, int stride)"
    " -> Tensor",
    lambda grad, weight, height, width, padding, stride: _images(
        grad, grad.shape[0], height, width, weight.shape[1]
    ),
)
def _real_conv2d_input(grad: Tensor, weight: Tensor, height: int, width: int, padding: int, stride: int) -> Tensor:
    """The gradient of the input of `real_conv2d`: (N, C, height, width), channels-last."""
    cout, channels, *taps = weight.shape
    found = _images(grad, len(grad), height, width, channels)
    border = taps[0] - 1 - padding
    if not by_tables(grad, weight) or stride != 1 or taps[0] != taps[1] or border < 0:
        return found.copy_(_backward(grad, found, signs_of(weight), padding, stride, 0))
    by_tap = _nhwc(weight).reshape(cout, -1, channels).swapaxes(0, 1)[::-1]  # the taps in reverse order
    out = found.permute(0, 2, 3, 1).numpy()
    reals.real_conv2d(_nhwc(grad), reals.signs(by_tap), (taps[0], taps[1]), border, out=out)
    return found


@_operator(
    "real_conv2d_weight(Tensor grad, Tensor x, SymInt kh, SymInt kw, int padding, int stride) -> Tensor",
    lambda grad, x, kh, kw, padding, stride: grad.new_empty((grad.shape[1], x.shape[1], kh, kw)),
)
def _real_conv2d_weight(grad: Tensor, x: Tensor, kh: int, kw: int, padding: int, stride: int) -> Tensor:
    """The gradient of the weight of `real_conv2d`: (Cout, C, kh, kw); by tables if x is ± one number."""
    cout, (images, channels, height, width) = grad.shape[1], x.shape
    fits = (kh, kw, padding, stride) == (3, 3, 1, 1) and width <= reals.MAX_WIDTH
    pixels = _nhwc(x) if fits and by_tables(grad, x) else None
    found = None if pixels is None else reals.ternary(pixels)
    if pixels is None or found is None or found[1]:
        return _backward(grad, x, grad.new_empty((cout, channels, kh, kw)), padding, stride, 1).contiguous()
    signs = reals.signs(pixels.reshape(images * height, width, channels))
    made = torch.from_numpy(reals.conv_gradient(_nhwc(grad), signs))
    return made.mul_(found[0]).permute(0, 3, 1, 2).contiguous()


def _backward(grad: Tensor, x: Tensor, weight: Tensor, padding: int, stride: int, wanted: int) -> Tensor:
    """torch's gradient of the input (`wanted` 0) or of the weight (1) of a convolution."""
    mask = [wanted == 0, wanted == 1, False]
    ends = ([stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1)
    found: Tensor = torch.ops.aten.convolution_backward(grad, x, weight, None, *ends, mask)[wanted]
    return found


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, *ctx.how = inputs
    ctx.save_for_backward(x, weight)


def _linear_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    x, weight = ctx.saved_tensors
    return (
        operators.real_linear(grad, weight.T) if ctx.needs_input_grad[0] else None,
        operators.real_linear_weight(grad, x) if ctx.needs_input_grad[1] else None,
    )


def _conv2d_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    x, weight = ctx.saved_tensors
    size, taps = x.shape[2:], weight.shape[2:]
    to_x = operators.real_conv2d_input(grad, weight, *size, *ctx.how) if ctx.needs_input_grad[0] else None
    to_weight = operators.real_conv2d_weight(grad, x, *taps, *ctx.how) if ctx.needs_input_grad[1] else None
    return to_x, to_weight, None, None


torch.library.register_autograd("kernels::real_linear", _linear_backward, setup_context=_keep, lib=_library)
torch.library.register_autograd("kernels::real_conv2d", _conv2d_backward, setup_context=_keep, lib=_library)
