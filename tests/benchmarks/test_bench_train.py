"""`reproduce bench --train` at tiny sizes. Its peer trains the same way; the ratio is void if it is too slow."""

import itertools
import json
import time

import numpy as np
import pytest
import torch
import twin
from made import convnet_settings, made_images, settings
from torch import nn
from typer.testing import CliRunner

from kernels.cpu.step import norm as norms_kernel
from kernels.cpu.step import ternary
from reproduce.benchmarks import breakdown, cells
from reproduce.benchmarks import peer_torch as peer
from reproduce.benchmarks import training_steps as bench_train
from reproduce.cli import app as cli
from reproduce.nets import layers, products
from reproduce.training import engine, fused, optim, preprocess, step, train

CASES = {
    "mlp": settings(net={"hidden": [48, 32], "dropout_in": 0.2, "dropout_hidden": 0.5}),
    "convnet": convnet_settings(net={"channels": [4, 8], "dense": [24, 16]}, train={"batch": 25}),
}


def doubles(tensor):
    return tensor.detach().double().numpy().copy()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("case", CASES)
def test_three_steps_of_the_peer_are_those_of_the_formulas_in_float64(case, layout):
    s = CASES[case]
    torch.manual_seed(3)
    loop = peer.Peer(s, 3e-3, layout)
    loop.net.double().train()
    norms = [m for m in loop.net if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    kinds = [type(m).__name__ for m in loop.net]
    pooled = [kinds[i + 1] == "MaxPool2d" for i, kind in enumerate(kinds) if kind in ("Linear", "Conv2d")]
    x = torch.rand(100, 784).double()
    if case == "convnet":
        x = torch.rand(25, 3, 32, 32, dtype=torch.float64) * 2 - 1
    labels = torch.arange(len(x)) % 10
    targets = np.where(np.eye(10)[labels] > 0, 1.0, -1.0)
    states = {}
    for t in (1, 2, 3):
        layers, before = [], []
        for layer, norm, pool in zip(loop.layers, norms, pooled, strict=True):
            own = [doubles(p) for p in (layer.weight, layer.bias, norm.weight, norm.bias)]
            layers.append(twin.Layer(*own, norm=s.net.norm, pool=pool, mean=None, spread=None))
            before.append(own)
            layer.register_forward_hook(
                lambda _, given, out, one=layers[-1]: vars(one).update(
                    given=doubles(given[0]), product=doubles(out)
                )
            )
            norm.register_forward_hook(lambda _, __, out, one=layers[-1]: vars(one).update(normed=doubles(out)))
        loss = loop.step(x, labels)
        keep = [0.8, 0.5, 0.5] if case == "mlp" else [1.0] * len(layers)
        found = twin.step(layers, doubles(x), targets, keep, activation="sign")
        assert loss.item() == pytest.approx(found.loss, rel=1e-12)
        assert any(pooled) or not found.choices  # equal values in a window may differ by a last bit
        for k, (layer, norm) in enumerate(zip(loop.layers, norms, strict=True)):
            own = (layer.weight, layer.bias, norm.weight, norm.bias)
            factors = twin.multipliers(layers[k], s.train)
            for what, (parameter, factor) in enumerate(zip(own, factors, strict=True)):
                grad, scale = found.grads[k][what], np.abs(found.scales[k][what]).max()
                np.testing.assert_allclose(doubles(parameter.grad), grad, rtol=1e-9, atol=1e-12 * scale)
                if what == 1:  # a bias before batch norm: gradient 0 except for rounding, which Adam enlarges
                    continue
                state = states.setdefault((k, what), (np.zeros_like(grad), np.zeros_like(grad)))
                update = twin.adam(s.train.optimizer, state, grad, t, 3e-3 * factor, eps_before_correction=False)
                after = before[k][what] + update
                after = np.clip(after, -1, 1) if what == 0 else after
                sure = np.abs(grad) > 1e-9 * scale
                np.testing.assert_allclose(doubles(parameter)[sure], after[sure], rtol=1e-7, atol=1e-9)
    assert max(layer.weight.abs().max() for layer in loop.layers) == 1  # clamped


def test_the_peer_refuses_unknown_settings():
    with pytest.raises(ValueError, match="the peer knows"):
        peer.Peer(settings(net={"activation": "relu"}), 1e-3, torch.contiguous_format)


@pytest.mark.timed
def test_a_run_gives_one_record_and_a_table(tmp_path):
    words = ["bench", "--train", "--quick", "--to", str(tmp_path / "train"), "--data", str(tmp_path)]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0, done.output
    (path,) = (tmp_path / "train").iterdir()
    record = json.loads(path.read_text())
    assert record["format"] == 1 and record["kind"] == "train-cpu" and record["quick"] is True
    assert path.name.startswith("train-cpu-quick-")
    assert record["machine"]["cpu"] and len(record["code"]["source"]) == 64
    assert record["libraries"]["torch"] == torch.__version__
    rows = {(row["what"], row["candidate"]): row for row in record["rows"]}
    fixed16 = products.mode() == "fixed16"
    candidates = (bench_train.OURS, *([bench_train.OURS_FLOAT32] if fixed16 else []), bench_train.PEER)
    assert set(rows) == set(itertools.product(cells.CELLS, candidates))
    for (what, candidate), row in rows.items():
        assert row["steps_per_second"] == pytest.approx(1 / row["seconds"])
        assert row["images_per_second"] == pytest.approx(row["batch"] / row["seconds"])
        assert row["batch"] == {"MNIST MLP": 100, "CIFAR-10 ConvNet": 50}[what]
        if candidate == bench_train.OURS:
            against = row["times_faster_than"][bench_train.PEER]
            assert against["low"] <= against["ratio"] <= against["high"]
        elif candidate == bench_train.PEER:
            assert row["layout"] in bench_train.LAYOUTS
    for name in cells.CELLS:
        limits = record["bounds"]["nets"][name]
        assert limits["matmul_steps_per_second"] > 0 and limits["products"]
        parts = record["parts"]["seconds"][name]
        expected = {breakdown.PRODUCTS, breakdown.BETWEEN_BACK, breakdown.GATHER, breakdown.REST}
        if fixed16:
            expected |= {breakdown.INPUTS_BACK, breakdown.UPDATES, breakdown.BETWEEN}
        else:
            expected |= {breakdown.PRODUCTS_BACK, breakdown.NORMS, breakdown.ACTIVATIONS, breakdown.OPTIMIZER}
            expected |= {breakdown.BINARIZATION, breakdown.LOSS}
        assert expected <= set(parts)
        lightning = record["lightning"]["nets"][name]
        assert 0 < lightning["seconds_a_block"] < 1 and 0 < lightning["share_of_step"]
        assert lightning["steps_an_epoch"] == {"MNIST MLP": 500, "CIFAR-10 ConvNet": 900}[name]
    assert sum("random images" in note for note in record["notes"]) == 2
    for words in ("plain PyTorch loop", "Lightning's own overhead", "steps/s by matmul", str(path)):
        assert words in done.output


@pytest.mark.parametrize(("peer", "is_void"), [(1.19, True), (1.2, False), (8.0, False)])
def test_the_ratio_is_void_if_the_peer_is_too_slow_for_its_products(peer, is_void):
    reason = bench_train.void(peer, 4.0)
    assert (reason is not None) == is_void
    if is_void:
        assert f"{peer:.2f} steps/s" in reason and "4.00" in reason


def test_a_void_ratio_is_marked_in_rows_and_table(capsys):
    times = {bench_train.OURS: np.full(5, 0.5), bench_train.PEER: np.full(5, 1.0)}
    limits = {"operations": 1e9, "matmul_steps_per_second": 40.0, "peak_steps_per_second": None}
    name = "MNIST MLP"
    rows = bench_train._rows(name, CASES["mlp"], times, "contiguous", limits)
    assert all("1.00 steps/s" in row["void"] for row in rows)
    empty = {"parts": {"seconds": {}}, "lightning": {"nets": {}}, "notes": [], "warnings": []}
    bench_train.show(empty | {"rows": rows, "bounds": {"nets": {name: limits}}})
    out = capsys.readouterr().out
    assert "2.00 (2.00 to 2.00) VOID" in out and f"VOID: {name}" in out


def test_products_of_a_net_are_its_multiply_adds():
    for name in cells.CELLS:
        settings_ = cells.cell_settings(name, quick=False)
        shapes = bench_train.products(settings_)
        assert sum(m * k * n for m, k, n in shapes) == settings_.train.batch * settings_.macs


@pytest.mark.timed
def test_the_time_of_a_slow_part_is_reported_under_that_part(monkeypatch):
    """The time of a part that is slowed down is reported under its name, and the parts add up to the step."""
    monkeypatch.setenv("REPRODUCE_PRODUCTS", "float32")
    slow = (
        (breakdown.OPTIMIZER, optim.Adam, "step", 0.05),
        (breakdown.LOSS, step.Step, "cost", 0.05),
        (breakdown.GATHER, preprocess.DeviceData, "images", 0.05),
        (breakdown.NORMS, layers.BatchNorm, "forward", 0.008),  # seven of them
    )
    slow_parts_show(slow, monkeypatch)
    assert step.Step.cost.__name__ == "cost"  # everything is put back


@pytest.mark.timed
@pytest.mark.skipif(not ternary.available(), reason="no compiled kernels here")
def test_the_time_of_a_slow_part_without_autograd_is_reported_under_that_part(monkeypatch):
    monkeypatch.setenv("REPRODUCE_PRODUCTS", "fixed16")
    slow = (
        (breakdown.GATHER, engine.Engine, "_input", 0.05),
        (breakdown.PRODUCTS, fused.Convolution, "forward", 0.015),  # four of them
        (breakdown.INPUTS_BACK, fused.Convolution, "to_input", 0.02),  # three
        (breakdown.UPDATES, fused.Linear, "update", 0.03),  # two
        (breakdown.BETWEEN, norms_kernel.Norm, "forward", 0.01),  # six
        (breakdown.BETWEEN_BACK, norms_kernel, "unpool", 0.03),  # two
    )
    slow_parts_show(slow, monkeypatch)


def slow_parts_show(slow, monkeypatch):
    s = CASES["convnet"]
    data = bench_train.device_data(s, made_images(200, (32, 32, 3))[0])
    for part, owner, name, seconds in slow:
        before = getattr(owner, name)

        def slowly(*args, before=before, seconds=seconds):
            time.sleep(seconds)
            return before(*args)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, slowly)
            module = bench_train.ours(s, data)
            order = bench_train.batches(s, data)
            blocks = [list(itertools.islice(order, 2)) for _ in range(3)]
            start = time.perf_counter()
            parts = breakdown.of_step(module, blocks)
            assert sum(parts.values()) * 6 == pytest.approx(time.perf_counter() - start, rel=0.3)
        assert parts[part] >= 0.05, (part, parts)
        assert max(parts, key=parts.get) == part
        assert "step" not in vars(module.rule)


@pytest.mark.timed
def test_a_slow_backward_is_reported_under_its_layer(monkeypatch):
    monkeypatch.setenv("REPRODUCE_PRODUCTS", "float32")
    s = CASES["mlp"]
    data = bench_train.device_data(s, made_images(200)[0])

    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            time.sleep(0.02)
            return grad

    module = bench_train.ours(s, data)
    for block in module.net.blocks:
        own = block.layer.forward
        monkeypatch.setattr(block.layer, "forward", lambda x, own=own: Slow.apply(own(x)))
    blocks = [list(itertools.islice(bench_train.batches(s, data), 2)) for _ in range(3)]
    parts = breakdown.of_step(module, blocks)
    assert parts[breakdown.PRODUCTS_BACK] >= 0.06  # no upper bound: a busy machine wakes sleepers late
    assert parts[breakdown.BETWEEN_BACK] < 0.3 * parts[breakdown.PRODUCTS_BACK]


@pytest.mark.timed
def test_lightnings_overhead_is_the_time_between_the_blocks(monkeypatch):
    s = CASES["mlp"]
    data = bench_train.device_data(s, made_images(600)[0])
    plain = breakdown.of_lightning(s, data, 1e-2, blocks=4, epochs=3)
    batch_end = train.EpochCheckpoint.on_train_batch_end

    def slow(*args):
        time.sleep(0.03)
        return batch_end(*args)

    monkeypatch.setattr(train.EpochCheckpoint, "on_train_batch_end", slow)
    found = breakdown.of_lightning(s, data, 1e-2, blocks=4, epochs=3)
    assert found["seconds_a_block"] == pytest.approx(0.03 + plain["seconds_a_block"], abs=0.02)
    assert found["share_of_step"] > plain["share_of_step"]
    assert train.STEPS_PER_BLOCK == found["steps_a_block"]
