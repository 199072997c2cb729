"""`reproduce bench --layers` at tiny sizes, and from which size on it says that 1 bit pays."""

import json

import numpy as np
import pytest
import torch
from test_bench import run

from kernels.torch import BinaryConv2d, BinaryLinear
from reproduce.benchmarks import peer_onnx
from reproduce.benchmarks import single_layers as layers

ORT = pytest.mark.skipif(peer_onnx.missing() is not None, reason=str(peer_onnx.missing()))


def test_a_run_gives_one_record_and_a_table(tmp_path):
    done = run("--layers", "--quick", "--to", tmp_path)
    assert done.exit_code == 0, done.output
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    assert record["kind"] == "layers" and record["quick"] is True and record["backend"].startswith("cpu (")
    candidates = {}
    for row in record["rows"]:
        candidates.setdefault(row["what"], set()).add(row["candidate"])
        assert 0 < row["fastest"] <= row["seconds"] <= row["slowest"]
    wanted = {layers.BITS, layers.ALONE, layers.FP32} | (set() if peer_onnx.missing() else {layers.INT8})
    assert len(candidates) == 3 and all(found == wanted for found in candidates.values())
    assert layers.BITS in done.output and "row(s): faster than torch float32" in done.output


def test_options_that_exclude_each_other_are_refused():
    for words in (("--layers", "--gpu"), ("--layers", "--train"), ("--gpu", "--train")):
        done = run(*words)
        assert done.exit_code == 2 and done.stderr.count("\n") == 1


@ORT
def test_the_int8_layers_compute_what_the_1_bit_ones_do():
    torch.manual_seed(0)
    for layer, shape in ((BinaryLinear(65, 33), (5, 65)), (BinaryConv2d(10, 7, 3, padding=1), (2, 10, 6, 5))):
        x = torch.where(torch.randn(*shape) >= 0, 1.0, -1.0)
        with torch.no_grad():
            layer.weight.copy_(torch.where(layer.weight >= 0, 1.0, -1.0))
            layer.bias.zero_()
        right = layer(x).detach().numpy()
        step = 0.0 if len(shape) == 2 else 2.0
        found = layers.int8_layer(layer, x, step)()
        assert np.abs(found - right).max() <= 0.501 * step and np.abs(right).max() > 10


def test_1_bit_pays_from_the_smallest_width_beyond_which_it_is_always_faster():
    def row(batch, width, ratio):
        faster = {layers.FP32: {"ratio": ratio}}
        what = f"linear, {batch} × {width}"
        found = {"what": what, "candidate": layers.BITS, "batch": batch, "width": width}
        return found | {"times_faster_than": faster}

    rows = [row(1, 256, 1.5), row(1, 512, 0.9), row(1, 1024, 1.2), row(1, 2048, 3.0), row(8, 256, 0.5)]
    assert layers.pays_from(rows) == [
        "1 row(s): faster than torch float32 from width 1024 on",
        "8 row(s): faster than torch float32 at none of these widths",
    ]
