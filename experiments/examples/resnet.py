"""A small binary ResNet: the sums of ±1 convolutions are added to real-valued shortcuts.

Liu et al., "Bi-Real Net" (2018): each convolution has a shortcut of its own. At the start of a stage the shortcut
is averaged over 2×2 pixels and its channels are repeated.
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from reproduce import spec
from reproduce.nets import Sign
from reproduce.nets.layers import BinaryConv2d, BinaryLinear, Norm


class ResNetSpec(spec.Net):
    kind: Literal["binary_resnet"]
    widths: Annotated[list[spec.Count], Field(min_length=1)]
    """Channels of each stage: a multiple of those of the stage before."""
    blocks: spec.Count
    norm: spec.Norm


class RealShortcut(nn.Module):
    """x -> x + norm(conv(sign(x))), where only the signs are binary; `pool`: at half the size."""

    def __init__(self, inputs: int, width: int, norm: Norm, pool: bool) -> None:
        super().__init__()
        self.sign, self.conv, self.norm = Sign(inputs, True), BinaryConv2d(inputs, width), norm
        self.pool, self.times = pool, width // inputs

    def forward(self, x: Tensor) -> Tensor:
        y, shortcut = self.conv(self.sign(x)), x.repeat(1, self.times, 1, 1)
        if self.pool:
            y, shortcut = F.max_pool2d(y, 2), F.avg_pool2d(shortcut, 2)
        out: Tensor = shortcut + self.norm(y)
        return out


@spec.NETS.add(ResNetSpec)
class ResNet(nn.Sequential):
    def __init__(self, net: ResNetSpec, image: spec.Image, classes: int) -> None:
        def norm(units: int) -> Norm:
            made: Norm = spec.NORMS[net.norm.kind](units, net.norm.eps, net.norm.alpha)
            return made

        width = net.widths[0]
        layers: list[nn.Module] = [BinaryConv2d(image[2], width, binary=False), norm(width)]
        for number, wider in enumerate(net.widths):
            for block in range(net.blocks):
                layers.append(RealShortcut(width, wider, norm(wider), pool=number > 0 and block == 0))
                width = wider
        layers += [nn.AdaptiveAvgPool2d(4), nn.Flatten()]
        layers += [BinaryLinear(16 * width, classes, binary=False), norm(classes)]
        super().__init__(*layers)
