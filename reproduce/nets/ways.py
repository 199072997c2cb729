"""The optional parts of a training step on a GPU. Each has a plain replacement, for when it fails its trial.

$REPRODUCE_WITHOUT names the parts that are left out, separated by blanks. They are in a run's key and record,
because they change its numbers. `campaign.gpu_trial` makes the trials.
"""

from __future__ import annotations

import os

PARTS = {
    "updates": "update rules in one pass by our kernels; else torch's operations",
    "bf16": "products of linear layers with bf16 operands; else in TF32",
    "fp16": "forward convolutions in fp16 where that is exact; else in TF32",
    "tf32": "forward convolutions by cuDNN in TF32; else as products of unfolded windows",
    "passes": "few kernels between two products of a step; else autograd and torch's operations",
    "graph": "steps recorded as a CUDA graph; else one operation after another",
}


def left_out() -> tuple[str, ...]:
    """The parts that are left out, in the order of PARTS. ValueError for a word that is no part."""
    said = os.environ.get("REPRODUCE_WITHOUT", "").split()
    for word in said:
        if word not in PARTS:
            raise ValueError(f"REPRODUCE_WITHOUT takes {', '.join(PARTS)}, not {word!r}")
    return tuple(part for part in PARTS if part in said)


def uses(part: str) -> bool:
    """Whether a training step uses this one of PARTS."""
    return part not in left_out()


def leave_out(part: str) -> None:
    """Stop using this one of PARTS, in this process and in those it starts."""
    os.environ["REPRODUCE_WITHOUT"] = " ".join(dict.fromkeys([*left_out(), part]))
