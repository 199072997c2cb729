"""A packed net as an ONNX graph of plain operators, for ONNX Runtime and whatever reads ONNX.

Images go in as they are: uint8 (N, *image), for MNIST (N, 28, 28). Weights are stored as int8 and become float32
when the graph is loaded. A sign is a comparison with the unit's integer threshold, so that a tie gives +1;
products are sums of ±1 or of pixels, exact in float32. The output layer's batch norm is in float64, as the packed
net has it.
Outputs: `scores` float64 (N, classes) and `classes` int64 (N,), the first of the highest scores.

Where the net was trained on numbers that are not pixels up to a scale and a shift (ZCA, GCN, LCN), the graph takes
those, as float32, and does its first layer in float64.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kernels
from reproduce.packed.blocks import Norm, OutputLayer, PixelLayer, RealLayer
from reproduce.packed.export.graph import Graph, channels, direction
from reproduce.packed.net import PackedNet

BATCH = 1000


def build(net: PackedNet) -> bytes:
    """The file. ValueError where the net's sums are too large for float32."""
    content: bytes = _Plain(net).model().SerializeToString()
    return content


def run(content: bytes, images: NDArray[Any]) -> NDArray[np.float64]:
    """Scores (N, classes) of images, by ONNX Runtime on the CPU; its `classes` are checked to be their maxima."""
    runtime = import_module("onnxruntime")
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = []
    for start in range(0, len(images), BATCH):
        scores, classes = session.run(["scores", "classes"], {"images": images[start : start + BATCH]})
        if not np.array_equal(scores.argmax(1), classes):
            raise RuntimeError("the graph's classes are not those of its highest scores")
        found.append(scores)
    return np.concatenate(found)


class _Plain(Graph):
    def __init__(self, net: PackedNet) -> None:
        super().__init__(net)
        self.kinds = self.onnx.TensorProto
        self.constant(np.float32(1), "plus")
        self.constant(np.float32(-1), "minus")

    def images(self) -> Any:
        kind = self.kinds.UINT8 if self.net.pixels else self.kinds.FLOAT
        return self.onnx.helper.make_tensor_value_info("images", kind, ["N", *self.net.image])

    def weights(self, signs: NDArray[np.int8]) -> str:
        before = self.h
        made = self.node("Cast", self.constant(signs), to=self.kinds.FLOAT)
        self.h = before
        return made

    def sign(self, level: NDArray[np.int64], below: NDArray[np.bool_]) -> None:
        turn = direction(below)
        if below.any():
            self.node("Mul", self.h, self.constant(turn.astype(np.float32)))
        self.node("GreaterOrEqual", self.h, self.constant((turn * level).astype(np.float32)))
        self.node("Where", self.h, "plus", "minus")

    def pixels(self, layer: PixelLayer) -> None:
        rule, shape = layer.rule, layer.shape
        if shape.padding:
            self.node("Transpose", self.h, perm=[0, 3, 1, 2])
        else:
            self.node("Flatten", self.h)
        self.node("Cast", self.h, to=self.kinds.FLOAT)
        self.product(layer.weights, shape, 255)
        level = rule.level[rule.row][:, rule.column].transpose(2, 0, 1) if shape.padding else rule.level[0, 0]
        self.sign(level, channels(rule.below, shape))

    def reals(self, layer: RealLayer) -> None:
        """In float64. ONNX Runtime has no such convolution, so it is a product a tap."""
        shape, signs = layer.shape, kernels.unpack(layer.weights).astype(np.float64)
        self.node("Cast", self.h, to=self.kinds.DOUBLE)
        if not shape.padding:
            self.node("Flatten", self.h)
            self.node("MatMul", self.h, self.constant(signs.reshape(len(signs), -1).T))
        else:
            pads = [0, shape.padding, shape.padding, 0] * 2
            padded = self.node("Pad", self.h, self.constant(np.array(pads)))
            axes, total = self.constant(np.array([1, 2])), ""
            for y, x in np.ndindex(signs.shape[1:3]):
                starts, ends = np.array([y, x]), np.array([y + shape.size, x + shape.size])
                self.node("Slice", padded, self.constant(starts), self.constant(ends), axes)
                tap = self.node("MatMul", self.h, self.constant(signs[:, y, x].T))
                total = self.node("Add", total, tap) if total else tap
        self.norm(layer.norm)
        self.node("GreaterOrEqual", self.h, self.constant(np.float64(0)))
        self.node("Where", self.h, "plus", "minus")
        if shape.padding:
            self.node("Transpose", self.h, perm=[0, 3, 1, 2])

    def norm(self, norm: Norm) -> None:
        """Batch norm in float64, step by step as `Norm` computes it; units last."""
        for kind, value in (("Add", norm.bias), ("Sub", norm.mean), ("Mul", norm.factor), ("Add", norm.beta)):
            self.node(kind, self.h, self.constant(value))

    def output(self, layer: OutputLayer) -> list[Any]:
        self.product(layer.weights, self.net.output.shape)
        self.node("Cast", self.h, to=self.kinds.DOUBLE)
        self.norm(layer.norm)
        self.node("Identity", self.h, output="scores")
        self.node("ArgMax", "scores", output="classes", axis=1, keepdims=0)
        info = self.onnx.helper.make_tensor_value_info
        return [
            info("scores", self.kinds.DOUBLE, ["N", len(layer.norm.beta)]),
            info("classes", self.kinds.INT64, ["N"]),
        ]
