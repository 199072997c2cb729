"""How often binary convolution filters repeat (arXiv Figure 2): distinct k×k kernels of a layer, by two rules.

A 3×3 kernel of ±1 is one of 512. The paper does not say over what it averaged. A layer of 128 × 128 maps has more
than 512 kernels, so only kernels that act on the same input map can be compared. By the first rule all 512 are
different. By the second a kernel and its negation count as one (256 classes): their products differ only in sign.
By a reading note of the arXiv version that is the paper's rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

RULES = {"512 classes": "distinct", "256 classes": "distinct_up_to_sign"}  # rule for 3×3 kernels -> key of `layer`


def codes(weights: NDArray[Any]) -> NDArray[np.int64]:
    """(maps out, maps in, k, k) real weights -> (maps out, maps in): each kernel's signs as bits of a number."""
    bits = (weights >= 0).reshape(*weights.shape[:2], -1)
    return bits @ (1 << np.arange(bits.shape[-1], dtype=np.int64))


def layer(weights: NDArray[Any]) -> dict[str, Any]:
    """maps_in, maps_out, kernel (k) and, by each rule, the share of distinct kernels: a mean over input maps."""
    found = codes(weights)
    folded = np.minimum(found, (1 << weights[0, 0].size) - 1 - found)
    return {
        "maps_in": weights.shape[1],
        "maps_out": weights.shape[0],
        "kernel": weights.shape[2],
        "distinct": _share(found),
        "distinct_up_to_sign": _share(folded),
    }


def _share(codes: NDArray[np.int64]) -> float:
    """Distinct values in a column as a share of its length, averaged over the columns."""
    ordered = np.sort(codes, axis=0)
    distinct = 1 + np.count_nonzero(np.diff(ordered, axis=0), axis=0)
    return float(np.mean(distinct) / len(codes))


def of_net(state: Mapping[str, Any]) -> dict[str, Any] | None:
    """The counts of binary convolutions for a run's record, from a state_dict in the order of the layers.

    `layers`: one `layer` each; `first`: the first layer's filters, a string of 0 (-1) and 1 (+1) each, input map
    by input map, row by row. None for a net without convolutions.
    """
    weights = [value.numpy() for key, value in state.items() if key.endswith("layer.weight") and value.dim() == 4]
    if not weights:
        return None
    first = ["".join("1" if w >= 0 else "0" for w in filter.ravel()) for filter in weights[0]]
    return {"layers": [layer(w) for w in weights], "first": first}


def random_share(classes: int, maps_out: int) -> float:
    """The expected share of distinct kernels among `maps_out` drawn from `classes` equally likely ones."""
    return classes / maps_out * (1 - (1 - 1 / classes) ** maps_out)
