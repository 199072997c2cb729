"""Shared by the two ONNX formats: a packed net as a graph of products, poolings and comparisons."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from importlib import import_module, metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kernels
from reproduce.packed.blocks import BitLayer, OutputLayer, PixelLayer, RealLayer, Shape
from reproduce.packed.net import PackedNet
from reproduce.records import machine

OPSET = 13
PRODUCER = "bnn-reproduce"
EXACT = 2**24  # float32 holds every integer up to this one


def about(net: PackedNet) -> dict[str, str]:
    """The origin of an exported file: the run and its hash, settings, code revision; all as text."""
    settings = net.settings.model_dump(mode="json")
    found: dict[str, Any] = {**net.about, "revision": machine.code()["revision"], "settings": settings}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in found.items()}


def version() -> str:
    """The version of this package, or "source" where it runs without having been installed."""
    try:
        return metadata.version(PRODUCER)
    except metadata.PackageNotFoundError:
        return "source"


def direction(below: NDArray[np.bool_]) -> NDArray[np.int64]:
    """-1 for units whose bit is `sum <= level`, +1 for the others: direction · sum >= direction · level."""
    return np.where(below, -1, 1)


class Graph(ABC):
    """A graph in the making, layer after layer; `h` is the name of what the next layer takes.

    Images are (N, 784) or (N, C, H, W) from the first layer on; every sum is an integer that float32 holds.
    """

    domains: tuple[tuple[str, int], ...] = (("", OPSET),)

    def __init__(self, net: PackedNet) -> None:
        self.onnx = import_module("onnx")
        self.net = net
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.h = "images"
        self.flip: NDArray[np.int64] = np.array(1)  # -1 for outputs of `h` that are the opposite of their sign

    # --- what a format decides ---

    @abstractmethod
    def weights(self, signs: NDArray[np.int8]) -> str:
        """The name of ±1 weights in float32."""

    @abstractmethod
    def sign(self, level: NDArray[np.int64], below: NDArray[np.bool_]) -> None:
        """`h` to ±1: by `h >= level`, or by `h <= level` where `below`; both broadcast over h."""

    @abstractmethod
    def pixels(self, layer: PixelLayer) -> None:
        """The first layer over 8-bit images."""

    @abstractmethod
    def reals(self, layer: RealLayer) -> None:
        """The first layer over real numbers."""

    @abstractmethod
    def output(self, layer: OutputLayer) -> list[Any]:
        """The last batch norm; gives the graph's outputs."""

    @abstractmethod
    def images(self) -> Any:
        """The graph's input."""

    # --- what they share ---

    def constant(self, value: Any, name: str | None = None) -> str:
        """An array as a constant of the graph; gives its name."""
        name = name or f"constant_{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """A node whose output is the new `h`; gives its name."""
        self.h = output or f"h_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [self.h], **attributes))
        return self.h

    def product(self, packed: kernels.Packed, shape: Shape, largest: int = 1) -> None:
        """The layer's sums, then its pooling; `largest`: of the inputs, where they are whole numbers, else 0."""
        reach = int(np.prod(packed.shape[1:])) * largest
        if reach >= EXACT:
            raise ValueError(f"sums of up to {reach:,} are not exact in float32: this net cannot be exported")
        signs = (kernels.unpack(packed) * self.flip).astype(np.int8)
        if shape.padding:
            filters = self.weights(signs.transpose(0, 3, 1, 2))
            how: dict[str, Any] = {"strides": [1, 1], "dilations": [1, 1], "group": 1}  # some readers need them
            self.node("Conv", self.h, filters, pads=[shape.padding] * 4, kernel_shape=signs.shape[1:3], **how)
        else:
            if signs.ndim == 4 and shape.size > 1:  # filters as large as the image: (units, H, W, C)
                self.node("Flatten", self.h)
                signs = signs.transpose(0, 3, 1, 2)
            self.node("MatMul", self.h, self.weights(signs.reshape(len(signs), -1).T))
        if shape.pool:
            self.node("MaxPool", self.h, kernel_shape=[2, 2], strides=[2, 2], pads=[0] * 4)

    def hidden(self, layer: BitLayer) -> None:
        """±1 to ±1."""
        self.product(layer.weights, layer.shape)
        self.sign(channels(layer.rule.level, layer.shape), channels(layer.rule.below, layer.shape))

    def model(self) -> Any:
        """The whole net as an ONNX model, checked by the `onnx` package. ValueError where it is not possible."""
        first = self.net.first
        given = self.images()
        if isinstance(first, PixelLayer):
            self.pixels(first)
        else:
            self.reals(first)
        for layer in self.net.hidden:
            self.hidden(layer)
        outputs = self.output(self.net.output)
        helper = self.onnx.helper
        graph = helper.make_graph(self.nodes, "binarized net", [given], outputs, self.constants)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid(name, number) for name, number in self.domains],
            ir_version=8,
            producer_name=PRODUCER,
            producer_version=version(),
        )
        helper.set_model_props(model, about(self.net))
        self.onnx.checker.check_model(model)
        return model


def channels(values: NDArray[Any], shape: Shape) -> NDArray[Any]:
    """One value a unit, (units,), so that it broadcasts over (N, units), or over (N, units, H, W) if padded."""
    return values[:, None, None] if shape.padding else values
