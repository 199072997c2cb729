"""The products of the paper's two nets, layer by layer: `nets` builds by them, `spec` counts by them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

Image = tuple[int, int, int]
"""Height, width and colours of an image."""


@dataclass(frozen=True)
class Layer:
    """A product of a net, over one image: a convolution, or a dense layer as one of kernel 1 over one pixel.

    `pool`: 2×2 max pooling follows.
    """

    inputs: int
    outputs: int
    kernel: int = 1
    height: int = 1
    width: int = 1
    pool: bool = False

    @property
    def weights(self) -> int:
        return self.kernel**2 * self.inputs * self.outputs

    @property
    def macs(self) -> int:
        """Multiply-adds of one image."""
        return self.weights * self.height * self.width

    @property
    def values_in(self) -> int:
        return self.inputs * self.height * self.width

    @property
    def values_out(self) -> int:
        pixels = (self.height // 2) * (self.width // 2) if self.pool else self.height * self.width
        return self.outputs * pixels


def mlp(image: Image, hidden: Sequence[int], classes: int) -> list[Layer]:
    """Dense layers of these numbers of units, from the pixels to the classes."""
    return [Layer(a, b) for a, b in pairwise([math.prod(image), *hidden, classes])]


def convnet(image: Image, channels: Sequence[int], dense: Sequence[int], classes: int) -> list[Layer]:
    """Stages of two 3×3 convolutions, the second with pooling, then dense layers."""
    height, width, inputs = image
    found = []
    for outputs in channels:
        for pool in (False, True):
            found.append(Layer(inputs, outputs, 3, height, width, pool))
            inputs = outputs
        height, width = height // 2, width // 2
    sizes = [height * width * inputs, *dense, classes]
    return found + [Layer(a, b) for a, b in pairwise(sizes)]
