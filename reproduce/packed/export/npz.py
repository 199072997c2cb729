"""A packed net as NumPy arrays: ±1 weights, thresholds, shapes, and a README of the layout beside them."""

from __future__ import annotations

import inspect
import io
import json
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kernels
from kernels import LocalThresholds
from reproduce.packed.blocks import OutputLayer, RealLayer
from reproduce.packed.export.graph import PRODUCER, about, version
from reproduce.packed.net import PackedNet

README = "README.md"
BATCH = 500


def build(net: PackedNet) -> bytes:
    """The file: a compressed .npz with README.md as one more member."""
    arrays: dict[str, NDArray[Any]] = {}
    layers = (net.first, *net.hidden, net.output)
    for i, layer in enumerate(layers):
        arrays[f"weights_{i}"] = kernels.unpack(layer.weights)
        if isinstance(layer, RealLayer | OutputLayer):
            norm = layer.norm
            arrays[f"norm_{i}"] = np.stack([norm.bias, norm.mean, norm.factor, norm.beta])
            continue
        level, rule = layer.rule.level, layer.rule
        if isinstance(rule, LocalThresholds):
            level = level[rule.row][:, rule.column] if layer.shape.padding else level[0, 0]
        arrays[f"level_{i}"], arrays[f"below_{i}"] = level, rule.below
    arrays["shapes"] = np.array([(layer.shape.size, layer.shape.padding, layer.shape.pool) for layer in layers])
    origin = about(net) | {"producer": f"{PRODUCER} {version()}"}
    arrays["about"] = np.array(json.dumps(origin))
    np.savez_compressed(content := io.BytesIO(), **arrays)  # type: ignore[arg-type]  # its stub takes no keywords
    with zipfile.ZipFile(content, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(README, readme(net, arrays))
    return content.getvalue()


def run(content: bytes, images: NDArray[Any]) -> NDArray[np.float64]:
    """Scores (N, classes) of images as the packed net takes them, by the README's code."""
    with np.load(io.BytesIO(content)) as file:
        net = {name: file[name] for name in file.files if name != README}
    parts = [scores(net, images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    return np.concatenate(parts)


def scores(net: dict[str, NDArray[Any]], images: NDArray[Any]) -> NDArray[np.float64]:
    """What the net of an .npz file says of images: float64 (N, classes). The class is the first of the highest."""
    h = images.astype(np.float64 if "norm_0" in net else np.float32)  # sums of pixels are exact in float32
    last = len(net["shapes"]) - 1
    for i, (size, padding, pool) in enumerate(net["shapes"]):
        w = net[f"weights_{i}"].astype(h.dtype)
        if padding:  # a convolution: filters (units, 3, 3, channels), images (N, size, size, channels)
            wide = np.pad(h, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
            s = np.zeros((len(h), size, size, len(w)), h.dtype)
            for y, x in np.ndindex(w.shape[1:3]):
                s += wide[:, y : y + size, x : x + size] @ w[:, y, x].T
        else:
            s = h.reshape(len(h), -1) @ w.reshape(len(w), -1).T
        if pool:
            s = s.reshape(len(s), size // 2, 2, size // 2, 2, -1).max((2, 4))
        if f"norm_{i}" in net:
            bias, mean, factor, beta = net[f"norm_{i}"]
            normed: NDArray[np.float64] = ((s + bias) - mean) * factor + beta
            if i == last:
                return normed
            plus = normed >= 0
        else:
            plus = np.where(net[f"below_{i}"], s <= net[f"level_{i}"], s >= net[f"level_{i}"])
        h = np.where(plus, np.float32(1), np.float32(-1))
    raise ValueError("no output layer")


def readme(net: PackedNet, arrays: dict[str, NDArray[Any]]) -> str:
    """The layout in words, as a table of this net's arrays, and as code."""
    shape = f"(N, {', '.join(map(str, net.image))})"
    given = f"8-bit pixels, uint8 {shape}, as they are in the data set"
    if not net.pixels:
        steps = ", ".join(step.step for step in net.settings.data.preprocess)
        given = f"real numbers {shape}: pixels after {steps}, fitted on {net.settings.data.name}'s training images"
    table = "\n".join(f"| `{name}` | {value.dtype} | {value.shape} |" for name, value in arrays.items())
    return f"""# A binarized net as NumPy arrays

Images: {given}.
Blocks are numbered from 0. Each is a product with ±1 weights, a 2×2 max pooling if its shape says so, and a sign.

- `weights_i`: ±1. (units, taps, taps, inputs) for filters, the inputs of a place last; (units, inputs) for dense
  layers behind dense ones. A dense layer behind an image has filters as large as the image.
- `shapes`: a row (size, padding, pool) a block: side of the image it gets, zeros around it, whether it pools.
- `level_i`, `below_i`: a unit gives +1 where its sum is >= level, or <= level where `below`; else -1. The levels
  of a first convolution differ from place to place: (size, size, units).
- `norm_i`: bias, mean, factor, beta of a batch norm, y = ((sum + bias) - mean) * factor + beta. The last block's y
  are the scores. A first block over real numbers gives +1 where y >= 0, else -1, and is computed in float64.
- `about`: where the net comes from, as JSON: run and its hash, seed, settings, test error, program and version.

| array | dtype | shape |
|---|---|---|
{table}

```python
import numpy as np

{inspect.getsource(scores).replace("NDArray[Any]", "np.ndarray").replace("NDArray[np.float64]", "np.ndarray")}
with np.load("net.npz") as file:
    net = {{name: file[name] for name in file.files if name != "README.md"}}
classes = scores(net, images).argmax(1)
```
"""
