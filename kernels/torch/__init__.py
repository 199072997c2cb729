"""1-bit products as operators and layers of PyTorch.

    layer = BinaryLinear(512, 256)            # sign(x) · sign(W)ᵀ + b; latent weights, straight-through gradients
    make_binary(model, real_inputs={"0"})     # replaces every Linear and Conv2d of a model by such a layer
    clip_weights(model)                       # after each step of the optimizer: latent weights stay in [-1, 1]

In training a layer multiplies real numbers by ±1 (`torch.ops.kernels.real_linear`, `real_conv2d`), with the
gradients of Algorithm 1 of the paper (arXiv 1602.02830). After `eval()` it has its weights as bits, and without
gradients (`torch.no_grad`) it packs its input and counts bits (`pack`, `xnor_linear`, `xnor_conv2d`).

All operators have fake kernels, so they work under `torch.compile`. Bits are int64 words: bit i of word j of a row
is 1 where element 64 j + i is +1, bits beyond K are 0. On a CPU with AVX-512 float32 products of real numbers
with ±1 use tables (kernels.reals), elsewhere torch. Bits on a GPU need CuPy. 1-bit products on a CPU use
$KERNELS_THREADS threads, by default all cores.
"""

from kernels.torch.layers import BinaryConv2d, BinaryLinear, clip_weights, make_binary, sign
from kernels.torch.operators import pack

__all__ = ["BinaryConv2d", "BinaryLinear", "clip_weights", "make_binary", "pack", "sign"]
