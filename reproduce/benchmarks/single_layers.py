"""Single layers of kernels.torch on the CPU, beside float32 and int8 ones: from which size on 1 bit pays.

All take and give float32, as a layer inside a model does: the 1-bit layer packs its input and turns integers into
floats, the int8 one (ONNX Runtime, static scales) quantizes and dequantizes. The 1-bit product of an input that is
packed already stands beside them. Linear layers are K → K on M rows, convolutions 3×3 with padding 1, C → C. All
give the same integers, but that an int8 convolution rounds its sums to 255 steps (QLinearConv, the fast one).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn

import kernels
from kernels.bench import timing
from kernels.torch import BinaryConv2d, BinaryLinear, operators, pack
from reproduce.benchmarks import common, peer_onnx
from reproduce.records import machine, runs
from reproduce.terminal import console

Say = Callable[[str], None]
BITS, ALONE, FP32, INT8 = "1-bit layer", "1-bit, packed input", "torch float32", "onnxruntime int8"
ROWS, WIDTHS = (1, 16, 256, 4096), (256, 512, 1024, 2048, 4096)
IMAGES, MAPS = (1, 32), ((32, 128), (16, 256), (8, 512))  # side and channels, as in the paper's ConvNet
BUDGET = 0.5  # seconds of a row's rounds; the largest products take longer
OPSET = 17


def measure(say: Say, _: Path | None, quick: bool = False) -> dict[str, Any]:
    """The record of one run on this machine's CPU, all cores. `quick`: tiny sizes, for tests."""
    started = runs.now()
    missing = peer_onnx.missing()
    notes = [] if missing is None else [f"{INT8} left out: {missing}"]
    rows: list[dict[str, Any]] = []
    linear = [(m, k) for m in ROWS for k in WIDTHS]
    for m, k in [(1, 16), (3, 40)] if quick else linear:
        what = f"linear, {m} × {k}"
        say(what)
        rows += _rows(what, BinaryLinear(k, k), torch.randn(m, k), 2.0 * m * k * k, m, k, quick)
    for n, side, c in [(2, 6, 8)] if quick else [(n, *one) for n in IMAGES for one in MAPS]:
        what = f"3×3 convolution, {n} × {side}×{side} × {c}"
        say(what)
        x = torch.randn(n, c, side, side).contiguous(memory_format=torch.channels_last)
        rows += _rows(what, BinaryConv2d(c, c, 3, padding=1), x, 18.0 * n * side * side * c * c, n, c, quick)
    return common.about("layers", quick, started, machine.versions("onnxruntime", "onnx")) | {
        "backend": kernels.describe("cpu"),
        "rows": rows,
        "notes": notes,
        "warnings": timing.warnings(rows),
    }


def _rows(
    what: str,
    layer: BinaryLinear | BinaryConv2d,
    x: Tensor,
    operations: float,
    batch: int,
    width: int,
    quick: bool,
) -> list[dict[str, Any]]:
    """Rows for one layer on x; RuntimeError where two candidates do not give the same numbers."""
    with torch.no_grad():
        x.copy_(torch.where(x >= 0, 1.0, -1.0))  # so that all give the same integers
        layer.weight.copy_(torch.where(layer.weight >= 0, 1.0, -1.0))
        assert layer.bias is not None
        layer.bias.zero_()
    layer.eval()
    wanted: dict[str, Callable[[], Any]] = {BITS: lambda: layer(x), FP32: lambda: plain(x)}
    ops = operators.operators
    if isinstance(layer, BinaryLinear):
        plain: nn.Module = nn.Linear(width, width)
        bits = pack(x)
        wanted[ALONE] = lambda: ops.xnor_linear(bits, layer.packed, width)
    else:
        plain = nn.Conv2d(width, width, 3, padding=1).to(memory_format=torch.channels_last)
        bits = pack(x.permute(0, 2, 3, 1))
        wanted[ALONE] = lambda: ops.xnor_conv2d(bits, layer.packed, width, 1, 1)
    plain.load_state_dict(layer.state_dict())
    with torch.no_grad():
        right = plain(x).numpy()
        step = 0.0 if isinstance(layer, BinaryLinear) else max(float(np.abs(right).max()) / 127, 1.0)
        if peer_onnx.missing() is None:
            wanted[INT8] = int8_layer(layer, x, step)
        for name, off in ((BITS, 0.0), (INT8, 0.501 * step)):
            if name in wanted and np.abs(np.asarray(wanted[name]()) - right).max() > off:
                raise RuntimeError(f"{what}: {name} and {FP32} give different numbers")
        times = timing.interleave(wanted, 0.0 if quick else BUDGET, least=3)
    return [timing.row(what, name, times, operations, batch=batch, width=width) for name in times]


def int8_layer(layer: BinaryLinear | BinaryConv2d, x: Tensor, step: float) -> Callable[[], Any]:
    """The layer with its ±1 weights in int8, on float32 x, by ONNX Runtime, with as many threads as the kernels.

    `step`: what a convolution's sums are rounded to multiples of.
    """
    onnx, runtime = import_module("onnx"), import_module("onnxruntime")
    helper, kinds = onnx.helper, onnx.TensorProto
    weight = layer.weight.detach().numpy().astype(np.int8)
    constants = {"scale": np.float32(1), "zero": np.uint8(128), "none": np.int8(0), "weight": weight}
    inputs = ["h", "scale", "zero", "weight", "scale", "none"]
    nodes = [helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["h"])]
    if isinstance(layer, BinaryLinear):
        nodes.append(helper.make_node("QGemm", inputs, ["y"], transB=1, domain="com.microsoft"))
    else:
        constants["step"] = np.float32(step)
        nodes.append(helper.make_node("QLinearConv", [*inputs, "step", "zero"], ["sums"], pads=[1] * 4))
        nodes.append(helper.make_node("DequantizeLinear", ["sums", "step", "zero"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "int8 layer",
        [helper.make_tensor_value_info("x", kinds.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", kinds.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    domains = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=8)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = kernels.cpu.thread_count()
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = np.ascontiguousarray(x.numpy())
    return lambda: session.run(None, {"x": given})[0]


def pays_from(rows: list[dict[str, Any]]) -> list[str]:
    """For each number of rows, from which width on the 1-bit linear layer is faster than float32 and than int8."""
    lines = []
    mine = [row for row in rows if row["candidate"] == BITS and row["what"].startswith("linear")]
    for batch in dict.fromkeys(row["batch"] for row in mine):
        of_batch = [row for row in mine if row["batch"] == batch]
        for other in (FP32, INT8):
            start = None
            for row in reversed(of_batch):
                if row["times_faster_than"].get(other, {"ratio": 0.0})["ratio"] <= 1:
                    break
                start = row["width"]
            if any(other in row["times_faster_than"] for row in of_batch):
                where = "at none of these widths" if start is None else f"from width {start} on"
                lines.append(f"{batch} row(s): faster than {other} {where}")
    return lines


def show(found: dict[str, Any]) -> None:
    """The record as a table, with how many times faster than float32 and int8; then where 1 bit pays."""
    out = console(130)
    table = Table("", "candidate", "µs", "Gop/s", f"× {FP32}", f"× {INT8}")
    last = None
    for row in found["rows"]:
        ratios = [row["times_faster_than"].get(other) for other in (FP32, INT8)]
        table.add_row(
            row["what"] if row["what"] != last else "",
            row["candidate"],
            f"{1e6 * row['seconds']:,.1f}",
            f"{row['operations_per_second'] / 1e9:,.1f}",
            *("" if ratio is None else f"{ratio['ratio']:.2f}" for ratio in ratios),
        )
        last = row["what"]
    out.print(table)
    for line in pays_from(found["rows"]):
        out.print(line)
    common.show_notes(out, found)
