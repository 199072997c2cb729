"""ReActNet's sign with a learned shift a channel, and XNOR-Net's scale a filter: two pieces for the paper's nets.

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
    added = "shift"  # so a packed net's thresholds take it in

    def __init__(self, units: int, masked: bool) -> None:
        super().__init__(units, masked)
        self.shift = nn.Parameter(torch.zeros(units))

    def forward(self, x: Tensor) -> Tensor:
        return sign_ste(x + self.shift.view(-1, *[1] * (x.dim() - 2)), self.masked)

    def rates(self) -> dict[str, float]:
        """What the optimizer is to train, and with how many times the common rate."""
        return {"shift": 1.0}


class Scaled:
    def __call__(self, weight: Tensor) -> Tensor:
        """Latent weights (out, …) -> the weights used, with the gradient of both factors."""
        return self.scales(weight).view(-1, *[1] * (weight.dim() - 1)) * binarize_weight(weight)

    def scales(self, weight: Tensor) -> Tensor:
        """What the signs are multiplied with, (out,): a packed net's thresholds take it in."""
        return weight.abs().flatten(1).mean(1)


spec.WEIGHTS.add("scaled")(Scaled())
