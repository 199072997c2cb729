"""The benchmark's peer in 8-bit integers: a packed net as an ONNX graph, for ONNX Runtime's int8 kernels.

Static quantization at its best: ±1 travel as bytes 127 and 129 around a zero point of 128, weights are int8 ±1,
batch norm and sign are the packed net's own integer thresholds as a layer's bias, and the cut to ±1 is a Clip of
bytes. So it computes what the packed net does. Only the first convolution is in float32 (exact there): its
thresholds differ from place to place, and ONNX's convolutions have one bias a channel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module, util
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kernels
from reproduce.packed.blocks import BitLayer, PixelLayer
from reproduce.packed.net import PackedNet

ZERO, ONE = 128, 129  # the bytes that stand for 0 and +1
OPSET = 17


def missing() -> str | None:
    """Why this peer cannot run here; None if it can."""
    if util.find_spec("onnxruntime") and util.find_spec("onnx"):
        return None
    return "onnxruntime and onnx are not installed"


def classifier(net: PackedNet, threads: int) -> Callable[[NDArray[np.uint8]], NDArray[np.int64]]:
    """Images uint8 as `net.predict` takes them -> classes int64 (N,). ValueError for a net of real inputs."""
    if not net.pixels:
        raise ValueError("a net of real inputs has no first layer in bytes")
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    model = _Graph(net).model().SerializeToString()
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    channels_last = not net.settings.net.flat

    def classes(images: NDArray[np.uint8]) -> NDArray[np.int64]:
        flat = images if channels_last else images.reshape(len(images), -1)
        found: NDArray[np.int64] = session.run(None, {"images": flat})[0]
        return found

    return classes


class _Graph:
    """Builds the model, layer by layer; `h` is the name of what the next layer takes."""

    def __init__(self, net: PackedNet) -> None:
        self.onnx = import_module("onnx")
        self.net = net
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.h = "images"
        for name, value in (("one", 1.0), ("half", 0.5)):
            self.constant(np.float32(value), name)
        for name, byte in (("centre", ZERO), ("plus", ONE), ("minus", ZERO - 1)):
            self.constant(np.uint8(byte), name)
        self.constant(np.int8(0), "no shift")

    def constant(self, value: Any, name: str | None = None) -> str:
        name = name or f"constant {len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> None:
        """A node on `inputs` whose output is the new `h`."""
        name = f"h {len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [name], **attributes))
        self.h = name

    def model(self) -> Any:
        """The graph of all layers: uint8 (N, 784) or (N, 32, 32, 3) to int64 (N,)."""
        helper, kinds = self.onnx.helper, self.onnx.TensorProto
        first, output = self.net.first, self.net.output
        assert isinstance(first, PixelLayer)
        flat = self.net.settings.net.flat
        shape: list[Any] = ["N", math.prod(self.net.image)] if flat else ["N", *self.net.image]
        flip = self.first(first)
        for layer in self.net.hidden:
            flip = self.hidden(layer, flip)
        self.dense(_signs(output.weights, flip))
        norm = output.norm
        self.node("Cast", self.h, to=kinds.DOUBLE)
        self.node("Mul", self.h, self.constant(norm.factor))
        self.node("Add", self.h, self.constant((norm.bias - norm.mean) * norm.factor + norm.beta))
        self.node("ArgMax", self.h, axis=1, keepdims=0)
        graph = helper.make_graph(
            self.nodes,
            "packed net in bytes",
            [helper.make_tensor_value_info("images", kinds.UINT8, shape)],
            [helper.make_tensor_value_info(self.h, kinds.INT64, ["N"])],
            self.constants,
        )
        domains = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=domains, ir_version=8)

    def first(self, layer: PixelLayer) -> NDArray[np.bool_]:
        """Pixels to bytes; gives the units whose byte says the opposite of their sign."""
        rule, below = layer.rule, layer.rule.below
        least = rule.level + below  # sum >= least, or the opposite for falling units
        signs = kernels.unpack(layer.weights).astype(np.int8)
        if layer.shape.size == 1:
            weights = self.constant(np.ascontiguousarray(signs.reshape(len(signs), -1)))
            self.units(self.constant(np.uint8(0)), weights, least[0, 0])
            return below
        places = least[rule.row][:, rule.column].transpose(2, 0, 1)  # (units, H, W)
        self.node("Transpose", self.h, perm=[0, 3, 1, 2])
        self.node("Cast", self.h, to=self.onnx.TensorProto.FLOAT)
        filters = self.constant(np.ascontiguousarray(signs.transpose(0, 3, 1, 2), np.float32))
        self.node("Conv", self.h, filters, pads=[layer.shape.padding] * 4)
        self.node("GreaterOrEqual", self.h, self.constant(places[None].astype(np.float32) - 0.5))
        self.node("Where", self.h, "plus", "minus")
        return below

    def hidden(self, layer: BitLayer, flip: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Bytes to bytes, by weights negated where `flip` says that an input is the opposite of its sign."""
        least = layer.rule.level + layer.rule.below
        signs = _signs(layer.weights, flip)
        if signs.ndim == 2 or layer.shape.padding == 0:
            if signs.ndim == 4:  # filters as large as the image: (units, H, W, C), the bytes lie as C, H, W
                self.node("Flatten", self.h)
                signs = signs.transpose(0, 3, 1, 2).reshape(len(signs), -1)
            self.units("centre", self.constant(np.ascontiguousarray(signs)), least)
            return layer.rule.below
        filters = self.constant(np.ascontiguousarray(signs.transpose(0, 3, 1, 2)))
        rest = ("one", "no shift", "half", "plus", self.constant((-least).astype(np.int32)))
        self.node("QLinearConv", self.h, "one", "centre", filters, *rest, pads=[layer.shape.padding] * 4)
        self.node("Clip", self.h, "minus", "plus")
        if layer.shape.pool:
            self.node("MaxPool", self.h, kernel_shape=[2, 2], strides=[2, 2])
        return layer.rule.below

    def units(self, centre: str, weights: str, least: NDArray[np.int64]) -> None:
        """Dense units: sum >= least as bytes. Twice the excess, so that one below is 127 and none is 129."""
        bias = self.constant((-least).astype(np.int32))
        inputs = (self.h, "one", centre, weights, "one", "no shift", bias, "half", "plus")
        self.node("QGemm", *inputs, transB=1, domain="com.microsoft")
        self.node("Clip", self.h, "minus", "plus")

    def dense(self, signs: NDArray[np.int8]) -> None:
        """The output's integers."""
        if signs.ndim == 4:
            self.node("Flatten", self.h)
            signs = signs.transpose(0, 3, 1, 2).reshape(len(signs), -1)
        self.node("MatMulInteger", self.h, self.constant(np.ascontiguousarray(signs.T)), "centre")


def _signs(weights: kernels.Packed, flip: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Weights ±1 int8, inputs last, those of flipped inputs negated."""
    return np.where(flip, -1, 1).astype(np.int8) * kernels.unpack(weights).astype(np.int8)
