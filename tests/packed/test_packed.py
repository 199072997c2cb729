"""Packed nets against an independent float64 evaluation in NumPy, from the paper's formulas."""

import os
import struct

import numpy as np
import pytest
import torch
from made import convnet_settings, made_splits, raising, settings
from twin import ap2

import kernels
from kernels import cpu, pixels
from reproduce import nets
from reproduce.packed import PackedError, PackedNet, file, freeze, freeze_net
from reproduce.packed import blocks as layers
from reproduce.packed import net as net_module
from reproduce.training import preprocess
from reproduce.training.train import Classifier

SHIFT = {"kind": "shift", "eps": 1e-5, "alpha": 0.125}
STD = {"kind": "std", "eps": 0.5, "alpha": 0.1}
VANILLA = {"kind": "vanilla", "eps": 1e-4, "alpha": 0.1}
BACKENDS = ("reference", "cpu")


def of_kind(kind, norm=VANILLA, **net):
    if norm is STD:
        net = {"output_norm": STD} | net
    if kind == "mlp":
        return settings(net={"hidden": [70, 33, 64], "norm": norm, **net})
    return convnet_settings(net={"channels": [5, 66], "dense": [40, 16], "norm": norm, **net})


def random_state(wanted, seed=0, wild=True):
    """Weights and BN parameters of every kind: negative, zero and tiny gamma, exact ties, unreachable means."""
    rng = np.random.default_rng(seed)
    state = nets.build(wanted).state_dict()
    for name, value in state.items():
        if name.endswith("layer.weight"):
            made = rng.uniform(-1, 1, value.shape)
            made.reshape(-1)[:2] = [0.0, -0.0]
            state[name] = torch.tensor(made, dtype=torch.float32)
    count = len(layers.shapes(wanted))
    for i in range(count):
        units = len(state[f"blocks.{i}.norm.mean"])
        reach = state[f"blocks.{i}.layer.weight"][0].numel()
        mean = rng.normal(0, reach**0.5 / 2, units)
        bias, beta = rng.uniform(-1, 1, units), rng.normal(0, 0.3, units)
        gamma, inv_std = rng.normal(0, 1, units), rng.uniform(0.5, 2, units) / reach**0.5
        if wild and i < count - 1:
            kind = rng.integers(0, 10, units)
            mean[kind == 0] = np.rint(mean[kind == 0])  # BN is exactly 0 at an integer
            bias[kind == 0] = beta[kind == 0] = 0
            gamma[kind == 1], gamma[kind == 2], gamma[kind == 3] = 0, 1e-30, -1e-30
            beta[kind == 2] = 0
            mean[kind == 4] = 1e9
            beta[kind == 5] *= 1e6
            inv_std[kind == 6] = 0
            beta[(kind == 1) & (rng.random(units) < 0.5)] = -0.0
            kind7 = kind == 7  # ties off the mean: (s - 1) * 2^-3 + 2 is 0 at s = -15
            mean[kind7], bias[kind7], inv_std[kind7] = 1.5, 0.5, 0.125
            gamma[kind7], beta[kind7] = np.where(rng.random(kind7.sum()) < 0.5, 1, -1), 2
        for name, made in (("layer.bias", bias), ("norm.mean", mean), ("norm.weight", gamma)):
            state[f"blocks.{i}.{name}"] = torch.tensor(made, dtype=torch.float32)
        state[f"blocks.{i}.norm.bias"] = torch.tensor(beta, dtype=torch.float32)
        spread = f"blocks.{i}.norm.inv_std"
        if spread not in state:  # batch norm of kind "std"
            spread = f"blocks.{i}.norm.std"
            inv_std = np.divide(1, inv_std, out=np.full(units, STD["eps"]), where=inv_std > 0) - STD["eps"]
        state[spread] = torch.tensor(inv_std, dtype=torch.float32)
    return state


def evaluate(wanted, state, x):
    """Hidden ±1 of every block and the scores, in float64; x (N, 784) or (N, H, W, C) as preprocessed."""
    hidden, h = [], x.astype(np.float64)
    blocks = len({name.split(".")[1] for name in state})
    convolutions = 2 * len(wanted.net.channels) if wanted.net.kind == "convnet" else 0
    for i in range(blocks):
        p = {k.removeprefix(f"blocks.{i}."): v.double().numpy() for k, v in state.items() if f"s.{i}." in k}
        w = np.where(p["layer.weight"] >= 0, 1.0, -1.0)
        if i < convolutions:
            border = np.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
            height, width = h.shape[1:3]
            s = 0.0
            for dy in range(3):
                for dx in range(3):
                    s = s + border[:, dy : dy + height, dx : dx + width] @ w[:, :, dy, dx].T
            s = s + p["layer.bias"]
            if i % 2:
                s = s.reshape(len(s), height // 2, 2, width // 2, 2, -1).max(axis=(2, 4))
        else:
            if h.ndim == 4:
                h = h.transpose(0, 3, 1, 2).reshape(len(h), -1)
            s = h @ w.T + p["layer.bias"]
        norm = wanted.net.output_norm if i == blocks - 1 else wanted.net.norm
        if norm.kind == "shift":
            y = (s - p["norm.mean"]) * ap2(p["norm.inv_std"]) * ap2(p["norm.weight"])
        elif norm.kind == "std":
            y = (s - p["norm.mean"]) * (p["norm.weight"] / (p["norm.std"] + norm.eps))
        else:
            y = (s - p["norm.mean"]) * (p["norm.inv_std"] * p["norm.weight"])
        y = y + p["norm.bias"]
        if i == blocks - 1:
            return hidden, y
        h = np.where(y >= 0, 1.0, -1.0)
        hidden.append(h)
    raise AssertionError


def images_for(wanted, n=6, seed=5):
    shape = (28, 28) if wanted.net.kind == "mlp" else (32, 32, 3)
    images = np.random.default_rng(seed).integers(0, 256, (n, *shape)).astype(np.uint8)
    images[0], images[1, ::2] = 255, 0
    return images


def preprocessed(wanted, images, scale, shift):
    flat = images.reshape(len(images), -1) * np.float64(scale) + np.asarray(shift, np.float64)
    return flat if wanted.net.kind == "mlp" else flat.reshape(images.shape)


def shift_of(kind, wanted):
    if kind == "per pixel":
        size = 784 if wanted.net.kind == "mlp" else 3072
        return (np.random.default_rng(8).integers(-128, 128, size) / 128).astype(np.float32)
    return np.float32(-1.0).reshape(())


# --- every hidden bit -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", ["scalar", "per pixel"])
@pytest.mark.parametrize("norm", [VANILLA, SHIFT, STD], ids=["vanilla", "shift", "std"])
@pytest.mark.parametrize("kind", ["mlp", "convnet"])
def test_every_hidden_bit_is_that_of_a_float64_evaluation(kind, norm, shift):
    """Scale and shift are dyadic here, so that the first layer's planted ties are exact ties."""
    wanted = of_kind(kind, norm)
    scale, moved = 1 / 128, shift_of(shift, wanted)
    images = images_for(wanted)
    ties = 0
    for seed in range(3):
        state = random_state(wanted, seed)
        hidden, scores = evaluate(wanted, state, preprocessed(wanted, images, scale, moved))
        net = freeze_net(wanted, state, (scale, moved))
        for backend in BACKENDS:
            found = list(net.hidden_bits(images, backend))
            assert len(found) == len(hidden)
            for i, (bits, right) in enumerate(zip(found, hidden, strict=True)):
                assert bits.shape == right.shape and bits.dtype == np.int8
                assert np.array_equal(bits, right), f"block {i}, {backend}"
            assert np.allclose(net.scores(images, backend), scores, rtol=1e-12, atol=1e-9)
        ties += sum(int((layer.rule.below).sum()) for layer in net.hidden)
    assert ties  # units with negative gamma occurred


def test_a_tie_is_plus_one_whether_the_unit_rises_or_falls():
    wanted = settings(net={"hidden": [40, 4]})
    state = random_state(wanted, wild=False)
    h, _ = evaluate(wanted, state, preprocessed(wanted, images := images_for(wanted), 1 / 128, -1.0))
    w = np.where(state["blocks.1.layer.weight"].numpy() >= 0, 1, -1)
    dot = h[0] @ w.T
    state["blocks.1.layer.bias"].zero_()
    state["blocks.1.norm.bias"] = torch.tensor([0.0, 0.0, -0.0, -0.0])
    state["blocks.1.norm.weight"] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    state["blocks.1.norm.mean"] = torch.tensor(dot[2], dtype=torch.float32)
    net = freeze_net(wanted, state, (1 / 128, np.float32(-1.0).reshape(())))
    bits = list(net.hidden_bits(images))[1]
    assert (bits[2] == 1).all()
    assert list(net.hidden[0].rule.level) == list(dot[2].astype(int))
    falling = np.array([False, True, False, True])
    assert np.array_equal(bits == 1, np.where(falling, dot <= dot[2], dot >= dot[2]))


def test_thresholds_are_the_exact_integers():
    """Compares with every reachable integer, one after another, for difficult parameters."""
    rng = np.random.default_rng(0)
    n, reach = 4000, 60
    exponent = rng.integers(-40, 20, (4, n)).astype(np.float64)
    bias, mean, factor, beta = (
        (rng.choice([-1, 0, 1], (4, n)) * rng.uniform(1, 2, (4, n)) * 2.0**exponent)
        .astype(np.float32)
        .astype(np.float64)
    )
    mean[::3] = np.rint(mean[::3])
    beta[::4] = 0
    norm = layers.Norm(bias, mean, factor, beta)
    level, below = layers.thresholds(norm, reach)
    s = np.arange(-reach, reach + 1)[:, None]
    right = (((s + bias) - mean) * factor + beta) >= 0
    assert np.array_equal(np.where(below, s <= level, s >= level), right)
    assert level.dtype == np.int64 and not right.all(0).all() and right.all(0).any() and (~right).all(0).any()


def test_parameters_that_are_not_finite_are_refused():
    wanted = of_kind("mlp")
    for name, bad in (("norm.mean", np.nan), ("norm.weight", np.inf), ("layer.weight", np.nan)):
        state = random_state(wanted)
        state[f"blocks.1.{name}"].view(-1)[0] = bad
        with pytest.raises(PackedError, match="not finite"):
            freeze_net(wanted, state, None)


def test_a_first_layer_that_no_kernel_runs_is_refused():
    weights = kernels.pack(np.ones((2, 1, 1, 32769)))
    with pytest.raises(PackedError, match="at most 32768 pixels, not 32769"):
        layers.pixel_layer(layers.Shape(weights.shape), weights, None, 1.0, np.zeros(()))


def test_taps_outside_the_image_count_0_in_the_first_convolution():
    """With a shift, a tap outside the image counts 0, while a black pixel counts as the shift."""
    wanted = of_kind("convnet")
    state = random_state(wanted, wild=False)
    state["blocks.0.layer.weight"].fill_(1.0)
    state["blocks.0.layer.bias"].zero_()
    state["blocks.0.norm.weight"].fill_(1.0)
    state["blocks.0.norm.inv_std"].fill_(1.0)
    state["blocks.0.norm.bias"].zero_()
    state["blocks.0.norm.mean"] = torch.tensor([-27.0, -18.0, -12.0, -26.9, -11.9])
    images = np.zeros((1, 32, 32, 3), np.uint8)  # black is -1: 27, 18, 12 taps inside
    for backend in BACKENDS:
        net = freeze_net(wanted, state, (2 / 255, np.float32(-1.0).reshape(())))
        bits = next(net.hidden_bits(images, backend))[0]
        corner, edge, inside = bits[0, 31], bits[0, 7], bits[9, 9]
        assert corner.tolist() == [1, 1, 1, 1, -1]
        assert edge.tolist() == [1, 1, -1, 1, -1]
        assert inside.tolist() == [1, -1, -1, -1, -1]


@pytest.mark.parametrize("kind", ["mlp", "convnet"])
def test_real_inputs_are_done_in_float64(kind):
    wanted = of_kind(kind)
    state = random_state(wanted)
    net = freeze_net(wanted, state, None)
    assert not net.pixels
    x = np.random.default_rng(1).normal(size=(5, *net.image)).astype(np.float32)
    hidden, scores = evaluate(wanted, state, x.reshape(5, -1) if kind == "mlp" else x)
    for backend in BACKENDS:
        for bits, right in zip(net.hidden_bits(x, backend), hidden, strict=True):
            assert np.array_equal(bits, right)
        assert np.allclose(net.scores(x, backend), scores)
    flipped = np.ascontiguousarray(x[::-1])
    for other in (flipped[::-1], x.astype(">f4"), x.astype(np.longdouble)):
        assert np.array_equal(net.scores(other), net.scores(x))
    with pytest.raises(ValueError, match="real numbers"):
        net.predict((x * 255).astype(np.uint8))
    x[0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        net.predict(x)


@pytest.mark.parametrize("kind", ["mlp", "convnet"])
def test_the_first_layer_gives_the_same_with_every_instruction_set(kind, monkeypatch):
    wanted = of_kind(kind)
    net = freeze_net(wanted, random_state(wanted), (2 / 255, np.float32(-1.0).reshape(())))
    images = images_for(wanted, 3)
    x = images.reshape(3, net.first.shape.size, net.first.shape.size, -1)
    padding = net.first.shape.padding
    right = pixels.pixel_conv2d(x, net.first.weights, padding, "reference")
    bits = net.first.rule.apply(right)
    for isa in cpu.isas():
        monkeypatch.setenv("KERNELS_ISA", isa)
        assert np.array_equal(pixels.pixel_conv2d(x, net.first.weights, padding), right)
        fused = pixels.pixel_conv2d_threshold(x, net.first.weights, net.first.rule, padding)
        assert np.array_equal(kernels.unpack(fused) > 0, bits)


# --- the float32 net ------------------------------------------------------------------------------------------


def float_net(wanted, state):
    net = nets.build(wanted)
    net.load_state_dict(state)
    return net.eval()


@pytest.mark.parametrize("norm", [VANILLA, SHIFT, STD], ids=["vanilla", "shift", "std"])
@pytest.mark.parametrize("kind", ["mlp", "convnet"])
def test_predictions_are_the_float32_nets(kind, norm):
    """If float32 rounds a tie differently, the float64 evaluation must agree with the packed net."""
    wanted = of_kind(kind, norm)
    state = random_state(wanted, 3, wild=False)
    scale, shift = 2 / 255, np.float32(-1.0).reshape(())
    images = images_for(wanted, 400 if kind == "mlp" else 60)
    x = torch.from_numpy(images.reshape(len(images), -1)).float().mul_(scale).add_(-1.0)
    if kind == "convnet":
        x = x.view(-1, 32, 32, 3).permute(0, 3, 1, 2)
    with torch.no_grad():
        plain = float_net(wanted, state)(x).argmax(1).numpy()
    found = freeze_net(wanted, state, (scale, shift)).predict(images)
    assert len(set(plain)) > 2
    _, scores = evaluate(wanted, state, preprocessed(wanted, images, scale, shift))
    assert np.array_equal(found, scores.argmax(1))
    split = np.flatnonzero(plain != found)
    margins = np.diff(np.sort(scores[split])[:, -2:]).ravel()
    print("ties split by float32 rounding:", dict(zip(split.tolist(), margins.tolist(), strict=True)))
    assert len(split) <= len(images) // 50


@pytest.mark.parametrize(
    "preprocess_steps, is_affine",
    [
        ([{"step": "range", "low": -1, "high": 1}], True),
        ([{"step": "range", "low": 0, "high": 1}, {"step": "center"}], True),
        ([{"step": "range", "low": 0, "high": 1}, {"step": "standardize"}], True),
        ([{"step": "range", "low": 0, "high": 1}, {"step": "zca", "bias": 0.1}], False),
    ],
)
@pytest.mark.parametrize("activation", ["sign", "stochastic_sign"])
def test_freezing_a_trained_module(preprocess_steps, is_affine, activation):
    wanted = settings(data={"preprocess": preprocess_steps}, net={"activation": activation, "hidden": [48, 40]})
    splits = made_splits()
    data = preprocess.prepare(splits, wanted.data, True, torch.device("cpu"))
    module = Classifier(wanted, data, 0)
    module.rule.set_rate(3e-3)
    for block in [*module.train_dataloader()] * 10:
        module.training_step(block, 0)
    module.eval()
    net = freeze(module)
    assert net.pixels == is_affine
    images = splits["test"][0] if is_affine else data["test"].rows.numpy().reshape(-1, 28, 28)
    with torch.no_grad():
        right = module(data["test"].images(torch.arange(200))).argmax(1).numpy()
    assert np.mean(net.predict(images) == right) >= 0.99
    assert np.mean(right == splits["test"][1]) > 0.5


def test_float_nets_are_refused():
    wanted = of_kind("mlp", weights="float")
    with pytest.raises(PackedError, match=r"blocks\.0\.layer: float weights: only ±1"):
        freeze_net(wanted, nets.build(wanted).state_dict(), None)
    wanted = of_kind("mlp", activation="relu")
    with pytest.raises(PackedError, match=r"blocks\.0\.act: relu activations: only ±1"):
        freeze_net(wanted, nets.build(wanted).state_dict(), None)
    other = nets.build(of_kind("mlp", hidden=[32, 32])).state_dict()
    with pytest.raises(PackedError, match=r"weights of another net: blocks\.0\.layer\.weight should be 54880"):
        freeze_net(of_kind("mlp"), other, None)


def test_images_of_another_kind_are_refused():
    wanted = of_kind("mlp")
    net = freeze_net(wanted, random_state(wanted), (1 / 255, np.float32(0).reshape(())))
    for bad in (np.zeros((2, 784), np.uint8), np.zeros((2, 28, 28)), np.zeros((28, 28), np.uint8)):
        with pytest.raises(ValueError, match=r"the net takes 8-bit images \(N, 28, 28\), not"):
            net.predict(bad)
    assert net.predict(np.zeros((0, 28, 28), np.uint8)).shape == (0,)


def test_more_images_than_one_batch(monkeypatch):
    wanted = of_kind("mlp")
    net = freeze_net(wanted, random_state(wanted, 3, wild=False), (1 / 255, np.float32(0).reshape(())))
    images = images_for(wanted, 25)
    whole = net.scores(images)
    monkeypatch.setitem(net_module.CHUNK, "mlp", 7)
    assert np.array_equal(net.scores(images), whole)


# --- the file -------------------------------------------------------------------------------------------------


def small_net(shift=None):
    wanted = settings(net={"hidden": [3, 2]})
    shift = np.float32(-1.0).reshape(()) if shift is None else shift
    return freeze_net(wanted, random_state(wanted), (2 / 255, shift), {"cell": "made"})


@pytest.mark.parametrize("kind", ["mlp", "convnet", "real", "per pixel"])
def test_a_loaded_net_equals_the_saved_one(tmp_path, kind):
    wanted = of_kind("mlp" if kind in ("mlp", "per pixel") else "convnet", SHIFT)
    shift = shift_of(kind, wanted)
    net = freeze_net(wanted, random_state(wanted), None if kind == "real" else (2 / 255, shift), {"seed": 3})
    path = tmp_path / "net.bnn"
    net.save(path)
    back = PackedNet.load(path)
    assert back.settings == wanted and back.about == {"seed": 3} and back.pixels == net.pixels
    images = images_for(wanted) if net.pixels else images_for(wanted) / 99.0
    assert np.array_equal(back.scores(images), net.scores(images))
    for mine, theirs in zip(net.hidden_bits(images), back.hidden_bits(images), strict=True):
        assert np.array_equal(mine, theirs)
    again = tmp_path / "again.bnn"
    back.save(again)
    assert again.read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.bnn", "net.bnn"]


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "net.bnn"
    small_net().save(path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", raising(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        small_net(np.float32(0.5).reshape(())).save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def saved(net, tmp_path):
    net.save(tmp_path / "net.bnn")
    return (tmp_path / "net.bnn").read_bytes()


def test_every_changed_byte_is_refused(tmp_path):
    content = saved(small_net(), tmp_path)
    assert len(content) < 4000
    file.parse(content)
    for at in range(len(content)):
        for flip in (1 << at % 8, 0xFF):
            changed = content[:at] + bytes([content[at] ^ flip]) + content[at + 1 :]
            with pytest.raises(PackedError) as refused:
                file.parse(changed)
            assert "\n" not in str(refused.value)


def test_foreign_and_later_files_are_named_as_such(tmp_path):
    path = tmp_path / "file.bnn"
    torch.save({"a": torch.zeros(3)}, path)
    for content in (path.read_bytes(), b"", b"\x89PNG\r\n\x1a\n" + bytes(99), b"{}", bytes(4096)):
        path.write_bytes(content)
        with pytest.raises(PackedError, match=r"^file\.bnn: not a packed net$"):
            PackedNet.load(path)
    content = saved(small_net(), tmp_path)
    path.write_bytes(content[:8] + struct.pack("<I", 2) + content[12:])
    with pytest.raises(PackedError, match=r"^file\.bnn: a packed net of version 2; this program reads 1$"):
        PackedNet.load(path)
    path.write_bytes(content[:1000])
    with pytest.raises(PackedError, match=r"^file\.bnn: damaged: its checksum does not fit$"):
        PackedNet.load(path)
    with pytest.raises(PackedError, match=r"^none\.bnn: No such file or directory$"):
        PackedNet.load(tmp_path / "none.bnn")


def test_levels_beyond_32_bits_are_kept_in_effect(tmp_path):
    wanted = settings(net={"hidden": [3, 4]})
    net = freeze_net(wanted, random_state(wanted), (1 / 128, np.float32(-1.0).reshape(())))
    rule = kernels.Thresholds([2**40, -(2**40), 2**40, -(2**40)], [False, False, True, True])
    layer = layers.BitLayer(net.hidden[0].shape, net.hidden[0].weights, rule)
    PackedNet(wanted, net.first, (layer,), net.output).save(tmp_path / "net.bnn")
    bits = list(PackedNet.load(tmp_path / "net.bnn").hidden_bits(images_for(wanted)))[1]
    assert (bits == [-1, 1, 1, -1]).all()


def test_a_paper_size_net_takes_at_most_a_thirtieth_of_its_float_weights(tmp_path):
    mlp = settings(net={"hidden": [4096] * 3})
    convnet = convnet_settings(net={"channels": [128, 256, 512], "dense": [1024, 1024]})
    one = np.zeros((), np.float32)
    for wanted, affine in ((mlp, (1, np.zeros(784, np.float32))), (convnet, (1, one)), (convnet, None)):
        state = nets.build(wanted).state_dict()
        path = tmp_path / "net.bnn"
        net = freeze_net(wanted, state, affine)
        net.save(path)
        assert net.weights == nets.weight_count(nets.build(wanted))
        assert path.stat().st_size * 30 <= 4 * net.weights
