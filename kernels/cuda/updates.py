"""Updates of latent weights on a GPU (src/updates.cu), for callers whose arrays belong to another library.

Arrays and the rate are passed as device addresses, so that a launch recorded in a CUDA graph reads the rate of the
step in which it is replayed.
"""

from __future__ import annotations

import math

from kernels.cuda import launch, tiles

ENTRIES = ("update_adam", "update_shift_adamax")


def update(
    entry: str,
    w: int,
    m: int,
    v: int,
    g: int,
    count: int,
    *,
    rate: int,
    beta1: float,
    beta2: float,
    eps: float,
    bound: float = math.inf,
    signs: int = 0,
    one: int = 0,
    stream: int = 0,
) -> None:
    """Queues one of ENTRIES on `stream` for `count` float32 numbers at addresses w, m, v and g.

    rate: address of a float64 on the device. Formulas as in `kernels.Rule`. signs, if not 0, is the address for
    sign(w) of the new w, two bytes each: `one` for w >= 0 (1.0 in bfloat16 or float16), else `one` with the sign
    bit. Raises RuntimeError on a GPU that the kernel is not compiled for.
    """
    if count == 0:
        return
    floats = (float(beta1), float(beta2), float(eps), float(bound))
    argument = launch.structure(w, m, v, g, count, rate, *floats, signs, one)
    threads = tiles.UPDATES.threads
    blocks = max(1, min(-(-count // threads), launch.multiprocessors() * 16))
    with launch.on(stream):
        launch.kernel(tiles.UPDATES, entry, (blocks,), argument)
