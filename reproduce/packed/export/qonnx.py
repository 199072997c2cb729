"""A packed net as a QONNX graph, for FINN, hls4ml and whatever else reads that dialect.

Weights and activations go through `BipolarQuant` nodes of scale 1, the images through `Quant` (8 bits, unsigned).
A unit's threshold is a half-integer added before its sign, so that no sum is ever 0 and no tool's idea of sign(0)
matters. A unit that is +1 *below* its threshold gives the opposite, and the next layer's weights are negated
there: hardware tools want thresholds of one direction.

All tensors are float32, as QONNX has them. The input is `images` (N, 784) or (N, 3, 32, 32), pixels 0 to 255; the
output is `scores` (N, classes). N is 1 in the file, as these tools want it fixed.

The first convolution sees a border of zeros *after* preprocessing. Where that is a range (-1 to 1, say), the pixel
that becomes 0 is taken off first, in whole numbers, and one threshold a channel does. Elsewhere (standardize) the
thresholds differ from place to place, which the QONNX executor runs and hardware tools may not take. A net of real
inputs (ZCA, GCN, LCN) has its first layer in float32, where the packed net has float64.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kernels
from reproduce import spec
from reproduce.packed.blocks import Norm, OutputLayer, PixelLayer, RealLayer
from reproduce.packed.export.graph import OPSET, Graph, channels, direction
from reproduce.packed.net import PackedNet

DOMAIN = "qonnx.custom_op.general"
BATCH = 500


def build(net: PackedNet) -> bytes:
    """The file. ValueError where the net's sums are too large for float32."""
    shapes = import_module("qonnx.transformation.infer_shapes")
    model = import_module("qonnx.core.modelwrapper").ModelWrapper(_Qonnx(net).model())
    content: bytes = model.transform(shapes.InferShapes()).model.SerializeToString()
    return content


def run(content: bytes, images: NDArray[Any]) -> NDArray[np.float64]:
    """Scores (N, classes) of images as the packed net takes them, by the QONNX executor."""
    wrapper = import_module("qonnx.core.modelwrapper").ModelWrapper
    shapes = import_module("qonnx.transformation.infer_shapes")
    batches = import_module("qonnx.transformation.change_batchsize")
    executor = import_module("qonnx.core.onnx_exec")
    x = images.transpose(0, 3, 1, 2) if images.ndim == 4 else images.reshape(len(images), -1)
    found, model = [], None
    for start in range(0, len(x), BATCH):
        part = np.ascontiguousarray(x[start : start + BATCH], np.float32)
        if model is None or start + BATCH > len(x):
            model = wrapper(content).transform(batches.ChangeBatchSize(len(part))).transform(shapes.InferShapes())
        found.append(executor.execute_onnx(model, {"images": part})["scores"])
    return np.concatenate(found).astype(np.float64)


class _Qonnx(Graph):
    domains = (("", OPSET), (DOMAIN, 1))

    def __init__(self, net: PackedNet) -> None:
        super().__init__(net)
        self.constant(np.float32(1), "one")

    def images(self) -> Any:
        height, width, colours = self.net.settings.dataset.planes
        flat = self.net.settings.net.flat
        shape = [1, height * width * colours] if flat else [1, colours, height, width]
        return self.onnx.helper.make_tensor_value_info("images", self.onnx.TensorProto.FLOAT, shape)

    def weights(self, signs: NDArray[np.int8]) -> str:
        before = self.h
        made = self.node("BipolarQuant", self.constant(signs.astype(np.float32)), "one", domain=DOMAIN)
        self.h = before
        return made

    def sign(self, level: NDArray[np.int64], below: NDArray[np.bool_]) -> None:
        turn = direction(below)
        self.bipolar(turn, turn * level - 0.5)

    def bipolar(self, turn: NDArray[np.int64], least: NDArray[Any]) -> None:
        """`h` to ±1 by turn · h >= least, a half-integer; where turn is -1, to the opposite."""
        self.node("Add", self.h, self.constant(-(turn * least)[None].astype(np.float32)))
        self.node("BipolarQuant", self.h, "one", domain=DOMAIN)
        self.flip = turn.reshape(-1)

    def pixels(self, layer: PixelLayer) -> None:
        rule, shape = layer.rule, layer.shape
        inputs = (self.h, "one", self.constant(np.float32(0)), self.constant(np.float32(8)))
        self.node("Quant", *inputs, signed=0, narrow=0, rounding_mode="ROUND", domain=DOMAIN)
        centred = centre(self.net.settings) if shape.padding else None
        least = None if centred is None else one_threshold(layer, *centred)
        if centred is not None and least is not None:
            times, moved = centred
            if times != 1:
                self.node("Mul", self.h, self.constant(np.float32(times)))
            if moved != 0:
                self.node("Add", self.h, self.constant(np.float32(-moved)))
            self.product(layer.weights, shape, 255 * times + abs(moved))
            self.bipolar(channels(direction(rule.below), shape), channels(least, shape))
        else:
            self.product(layer.weights, shape, 255)
            level = rule.level[rule.row][:, rule.column].transpose(2, 0, 1) if shape.padding else rule.level[0, 0]
            self.sign(level, channels(rule.below, shape))

    def reals(self, layer: RealLayer) -> None:
        self.product(layer.weights, layer.shape, 0)
        self.norm(layer.norm, bool(layer.shape.padding))
        self.node("BipolarQuant", self.h, "one", domain=DOMAIN)

    def norm(self, norm: Norm, images: bool = False) -> None:
        """Batch norm as a product and a sum for each unit, found in float64; `images`: of (N, units, H, W)."""
        for kind, value in (("Mul", norm.factor), ("Add", (norm.bias - norm.mean) * norm.factor + norm.beta)):
            value = value[None, :, None, None] if images else value[None]
            self.node(kind, self.h, self.constant(value.astype(np.float32)))

    def output(self, layer: OutputLayer) -> list[Any]:
        self.product(layer.weights, layer.shape)
        self.norm(layer.norm)
        self.nodes[-1].output[0] = "scores"
        size = [1, len(layer.norm.beta)]
        return [self.onnx.helper.make_tensor_value_info("scores", self.onnx.TensorProto.FLOAT, size)]


def centre(settings: spec.Settings) -> tuple[int, int] | None:
    """(times, moved): times · pixel - moved is a whole number that is 0 where the preprocessed pixel is.

    None where the preprocessing is not a range alone.
    """
    steps = settings.data.preprocess
    if len(steps) != 1 or not isinstance(steps[0], spec.Range):
        return None
    doubled = -510 * steps[0].low // (steps[0].high - steps[0].low)
    return (2, doubled) if doubled % 2 else (1, doubled // 2)


def one_threshold(layer: PixelLayer, times: int, moved: int) -> NDArray[np.float64] | None:
    """One threshold a unit, half-integers (units,), for sums of times · pixel - moved within a border of zeros.

    It decides as the layer's own thresholds do, at every place and for every image: turn · sum >= threshold, with
    turn = `direction(below)`. None where no such threshold exists.
    """
    rule, size, padding = layer.rule, layer.shape.size, layer.shape.padding
    signs = kernels.unpack(layer.weights).astype(np.int64)
    turn = direction(rule.below)
    taps = np.arange(size)[:, None] + np.arange(signs.shape[1]) - padding
    inside = ((taps >= 0) & (taps < size)).astype(np.int64)  # (place, tap), the same both ways
    plus, minus = (
        np.einsum("yi,xj,uijc->yxu", inside, inside, (turn[:, None, None, None] * signs == sign).astype(np.int64))
        for sign in (1, -1)
    )
    least = turn * rule.level[rule.row][:, rule.column]  # the bit is + where turn · (sum of pixels) >= least
    highest, lowest = 255 * plus, -255 * minus
    shift = moved * (plus - minus)  # turn · sum = times · turn · (sum of pixels) - shift
    under = times * np.minimum(least - 1, highest) - shift  # the threshold lies over the last sum that gives -
    over = times * np.maximum(least, lowest) - shift  # and not over the first that gives +
    far = np.iinfo(np.int64).max
    lower = np.where(least - 1 < lowest, -far, under).max((0, 1))
    upper = np.where(least > highest, far, over).min((0, 1))
    if (lower >= upper).any():
        return None
    found: NDArray[np.float64] = np.where(upper == far, lower + 0.5, upper - 0.5)
    return found
