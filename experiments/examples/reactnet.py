"""ReActNet's sign with a learned shift for each channel, and XNOR-Net's scale for each filter.

Liu et al., "ReActNet" (2020): sign(x + shift); the gradient goes to x and, summed, to the shift.
Rastegari et al., "XNOR-Net" (2016): each filter is its mean |W| times sign(W).
"""

import torch
from torch import Tensor, nn

from reproduce import spec
from reproduce.nets import Sign
from reproduce.nets.binarize import binarize_weight, sign_ste


@spec.ACTIVATIONS.add("shifted_sign")
class ShiftedSign(Sign):
    added = "shift"  # a packed net includes it in its thresholds

    def __init__(self, units: int, masked: bool) -> None:
        super().__init__(units, masked)
        self.shift = nn.Parameter(torch.zeros(units))

    def forward(self, x: Tensor) -> Tensor:
        return sign_ste(x + self.shift.view(-1, *[1] * (x.dim() - 2)), self.masked)

    def rates(self) -> dict[str, float]:
        """Parameters that the optimizer trains, with multipliers of the common rate."""
        return {"shift": 1.0}


class Scaled:
    def __call__(self, weight: Tensor) -> Tensor:
        """Latent weights (out, …) -> the weights used; gradients flow through both factors."""
        return self.scales(weight).view(-1, *[1] * (weight.dim() - 1)) * binarize_weight(weight)

    def scales(self, weight: Tensor) -> Tensor:
        """The factors of the signs, (out,); a packed net includes them in its thresholds."""
        return weight.abs().flatten(1).mean(1)


spec.WEIGHTS.add("scaled")(Scaled())
