"""The settings that only ablations use: each against its own formula, and trained for a few steps."""

import numpy as np
import pytest
import torch
from made import convnet_settings, made_splits, settings
from test_train import fit, ready
from twin import ap2

from reproduce import nets, spec
from reproduce.nets.layers import BinaryConv2d
from reproduce.packed import PackedError, freeze_net
from reproduce.training import optim, preprocess, step, train


def test_a_border_of_ones():
    torch.manual_seed(5)
    conv = BinaryConv2d(3, 4, border=1)
    x = torch.where(torch.rand(2, 3, 5, 7) < 0.5, -1.0, 1.0).requires_grad_()
    got = conv(x)
    signs = np.where(conv.weight.detach().numpy() >= 0, 1, -1)
    padded = np.pad(x.detach().numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=1)
    expected = np.zeros((2, 4, 5, 7))
    for i, j in np.ndindex(5, 7):
        expected[:, :, i, j] = np.einsum("ncyx,ocyx->no", padded[:, :, i : i + 3, j : j + 3], signs)
    expected += conv.bias.detach().numpy()[None, :, None, None]
    np.testing.assert_allclose(got.detach().numpy(), expected, atol=1e-5)
    sums = np.round(expected - conv.bias.detach().numpy()[None, :, None, None]).astype(int)
    assert set(np.unique(sums % 2)) == {1}  # sums of 27 terms ±1 are odd; zeros would make some even
    grad = torch.randn(got.shape)
    got.backward(grad)
    by_tap = np.zeros((4, 3, 3, 3))
    for i, j in np.ndindex(5, 7):
        by_tap += np.einsum("no,ncyx->ocyx", grad[:, :, i, j].numpy(), padded[:, :, i : i + 3, j : j + 3])
    np.testing.assert_allclose(conv.weight.grad.numpy(), by_tap, atol=1e-4)


def test_only_convolutions_of_activations_get_the_border():
    net = nets.build(convnet_settings(net={"border": 1}))
    borders = [block.layer.border for block in net.blocks if isinstance(block.layer, BinaryConv2d)]
    assert borders == [0, 1, 1, 1]


@pytest.mark.parametrize("of", [settings, convnet_settings])
def test_a_float_first_layer_is_neither_binarized_nor_clipped(of):
    s = of(net={"first_weights": "float"})
    net = nets.build(s)
    first, *others = [block.layer for block in net.blocks]
    assert not first.binary and all(layer.binary for layer in others)
    x = torch.randn(2, *first.weight.shape[1:]) if isinstance(first, torch.nn.Linear) else torch.randn(2, 3, 8, 8)
    plain = torch.nn.functional.linear if isinstance(first, torch.nn.Linear) else torch.conv2d
    wanted = plain(x, first.weight, first.bias) if x.dim() == 2 else plain(x, first.weight, first.bias, padding=1)
    torch.testing.assert_close(first(x), wanted)
    rule = optim.optimizer(net, s.train)
    clipped = {id(p) for group in rule.param_groups if group["clip"] for p in group["params"]}
    assert clipped == {id(layer.weight) for layer in others}
    assert {id(p) for p in rule.binary} == clipped


def test_a_float_net_is_clipped_if_asked():
    net = nets.build(settings(net={"weights": "float"}))
    rule = optim.optimizer(net, settings().train)
    clipped = {id(p) for group in rule.param_groups if group["clip"] for p in group["params"]}
    assert clipped == {id(block.layer.weight) for block in net.blocks}


def test_sign_with_zero():
    act = nets.SignWithZero(4, masked=True)
    x = torch.tensor([[-2.0, -0.5, 0.0, 0.25], [-0.0, 1.0, 1.5, -1.0]], requires_grad=True)
    y = act(x)
    assert y.tolist() == [[-1, -1, 0, 1], [0, 1, 1, -1]]
    y.backward(torch.full((2, 4), 3.0))
    assert x.grad.tolist() == [[0, 3, 3, 3], [3, 3, 0, 3]]


def test_shift_adamax_as_printed_decays():
    rng = np.random.default_rng(7)
    w = rng.uniform(-1, 1, (4, 7))
    grads = rng.normal(size=(15, 4, 7))
    grads[1:, 0, 0] = 0
    rule = spec.ShiftAdaMaxRule(kind="shift_adamax", beta1=0.9, beta2=0.5, eps=2.0**-27, decays=True)
    p = torch.tensor(w, requires_grad=True)
    adamax = spec.OPTIMIZERS["shift_adamax"](rule, [{"params": [p], "multiplier": 3.0}])
    adamax.set_rate(2.0**-6)
    m = v = np.zeros_like(w)
    for t, g in enumerate(grads, 1):
        p.grad = torch.tensor(g)
        adamax.step()
        m = 0.9 * m + 0.1 * g
        v = np.maximum(0.5 * v, np.abs(g))
        w = w - float(ap2(2.0**-6 / (1 - 0.9**t))) * 3 * m / (ap2(v) + 2.0**-27)
    np.testing.assert_allclose(p.detach().numpy(), w, rtol=1e-9)
    assert v[0, 0] < abs(grads[0, 0, 0]) / 1000  # where gradients end, v falls


def test_thresholded_pixels():
    split = made_splits((32, 32, 3), train=20, valid=10, test=10)
    steps = [{"step": "range", "low": 0, "high": 1}, {"step": "threshold", "at": 0.5}]
    data = convnet_settings(data={"preprocess": steps}).data
    found = preprocess.prepare(split, data, True, torch.device("cpu"))
    for part, (x, _) in split.items():
        expected = np.where(x.reshape(len(x), -1) >= 128, 1, -1)  # 127 / 255 is below a half
        assert np.array_equal(found[part].images(torch.arange(len(x))).numpy(), expected)


UNUSUAL = {
    "float first layer": settings(net={"first_weights": "float"}),
    "sign with zero": settings(net={"activation": "sign_with_zero"}),
    "thresholded pixels": settings(
        data={"preprocess": [{"step": "range", "low": 0, "high": 1}, {"step": "threshold", "at": 0.3}]}
    ),
    "decaying AdaMax": settings(
        train={
            "optimizer": {"kind": "shift_adamax", "beta1": 0.9, "beta2": 0.999, "eps": 2.0**-27, "decays": True},
            "rate": {"start": 2.0**-6, "end": 2.0**-10},
        }
    ),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_nets_with_these_settings_learn_made_images(name, tmp_path):
    s = UNUSUAL[name]
    s = s.model_copy(update={"train": s.train.model_copy(update={"epochs": 6})})
    outcome = fit(s, tmp_path, ready(s))
    assert outcome.best["valid_wrong"] / outcome.scored["valid"] < 0.3
    assert outcome.best["valid_wrong"] < outcome.curve[0]["valid_wrong"]


def test_a_convnet_with_a_border_of_ones_learns_made_images(tmp_path):
    s = convnet_settings(net={"border": 1}, train={"epochs": 3})
    outcome = fit(s, tmp_path, ready(s, (32, 32, 3)))
    assert outcome.best["valid_wrong"] < outcome.curve[0]["valid_wrong"]


@pytest.mark.parametrize(
    ("s", "why"),
    [
        (UNUSUAL["sign with zero"], "an activation of the kind sign_with_zero"),
        (UNUSUAL["decaying AdaMax"], "an optimizer of the kind DecayingShiftAdaMax"),
        (convnet_settings(net={"border": 1}), "a border of ones"),
        (UNUSUAL["float first layer"], None),
        (UNUSUAL["thresholded pixels"], None),
    ],
)
def test_settings_that_the_engine_does_not_support_go_through_autograd(s, why):
    assert step.why_autograd(s) == why


@pytest.mark.parametrize(
    ("s", "where"),
    [
        (UNUSUAL["float first layer"], "blocks.0.layer: float weights"),
        (UNUSUAL["sign with zero"], "blocks.0.act: sign_with_zero"),
        (convnet_settings(net={"border": 1}), "blocks.1.layer: a border of ones"),
    ],
)
def test_layers_that_cannot_be_packed_are_named(s, where):
    with pytest.raises(PackedError, match=where):
        freeze_net(s, nets.build(s).state_dict(), None)


def test_flipped_weights_are_counted(tmp_path):
    s = settings(train={"epochs": 2})
    outcome = fit(s, tmp_path)
    torch.manual_seed(train.seed_for(0, "init"))
    net = nets.build(s)
    start = [block.layer.weight.detach() >= 0 for block in net.blocks]
    one = fit(s.model_copy(update={"train": s.train.model_copy(update={"epochs": 1})}), tmp_path / "one")
    end = [one.net[f"blocks.{k}.layer.weight"] >= 0 for k in range(len(start))]
    flips = sum(int((a != b).sum()) for a, b in zip(start, end, strict=True))
    assert one.curve[0]["flipped"] == flips / sum(a.numel() for a in start) > 0
    assert 0 < outcome.curve[1]["flipped"] < 1
    float_net = settings(net={"weights": "float"}, train={"epochs": 1})
    assert "flipped" not in fit(float_net, tmp_path / "float").curve[0]
