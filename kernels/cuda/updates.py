"""Updates of latent weights on a GPU (src/updates.cu), for callers whose arrays belong to another library.

All arguments are device addresses, also the rate and the number of steps, so that a launch recorded in a CUDA
graph computes the rate of the step in which it is replayed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kernels.cuda import launch, tiles

ENTRIES = ("update_adam", "update_shift_adamax")


@dataclass(frozen=True)
class Part:
    """A parameter of a step: `count` float32 numbers at each of the addresses w, m, v and g.

    The step's rate is multiplied with `multiplier`; the new w are clipped to [-bound, bound]. signs, if not 0, is
    the address to which sign(w) of the new w is written, two bytes each: `one` (1.0 in bfloat16 or float16) for
    w >= 0, else `one` with the sign bit set.
    """

    w: int
    m: int
    v: int
    g: int
    count: int
    multiplier: float = 1.0
    bound: float = math.inf
    signs: int = 0
    one: int = 0


def update(
    entry: str,
    parts: Sequence[Part],
    *,
    clock: int,
    rate: int,
    beta1: float,
    beta2: float,
    eps: float,
    stream: int = 0,
) -> None:
    """Queues one of ENTRIES on `stream` for all of `parts`: one launch for every MOST_PARTS of them.

    clock, rate: addresses of float64 on the device: the number of steps, this one included, and the common rate r.
    Formulas as in `kernels.Rule`, with the rate r · sqrt(1 - beta2^t) / (1 - beta1^t) for Adam, AP2(r / (1 -
    beta1^t)) for shift-based AdaMax. Raises RuntimeError on a GPU that the kernel is not compiled for.
    """
    most, chunk = tiles.UPDATES["MOST_PARTS"], tiles.UPDATES["CHUNK"]
    whole = [part for part in parts if part.count]
    for start in range(0, len(whole), most):
        fields: list[int | float] = []
        chunks = 0
        some = whole[start : start + most]
        for part in some:
            fields += [part.w, part.m, part.v, part.g, part.signs, part.one, part.count, chunks]
            fields += [float(part.multiplier), float(part.bound)]
            chunks += -(-part.count // chunk)
        fields += [0] * (len(fields) // len(some) * (most - len(some)))
        numbers = (float(beta1), float(beta2), float(eps))
        argument = launch.structure(clock, rate, *numbers, chunks, len(some), *fields)
        blocks = min(chunks, launch.multiprocessors() * 4)  # as many as run at the same time
        with launch.on(stream):
            launch.kernel(tiles.UPDATES, entry, (blocks,), argument)
