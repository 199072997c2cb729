"""Update rules against plain NumPy in float64, written from the paper's algorithms and the code's details."""

import math

import numpy as np
import pytest
import torch
from made import convnet_settings, settings
from test_layers import np_ap2

from kernels import cpu
from reproduce import spec
from reproduce.training import nets, optim


def np_adam(w, grads, rate, b1=0.9, b2=0.999, eps=1e-8):
    m = v = np.zeros_like(w)
    for t, g in enumerate(grads, 1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        w = w - rate * math.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + eps)
    return w


def np_shift_adamax(w, grads, lr, factor, b1=0.9, b2=0.999, eps=2.0**-27):
    m = v = np.zeros_like(w)
    for t, g in enumerate(grads, 1):
        m = b1 * m + (1 - b1) * g
        v = np_ap2(np.maximum(b2 * v, np.abs(g))) + eps
        w = w - float(np_ap2(lr / (1 - b1**t))) * factor * m / v
    return w


@pytest.mark.parametrize("size", [1.0, 1e-7])  # with gradients near eps, its place shows
def test_adam_is_lasagnes(size):
    rng = np.random.default_rng(0)
    w = rng.uniform(-1, 1, (6, 5))
    grads = rng.normal(size=(12, 6, 5)) * size
    p = torch.tensor(w, requires_grad=True)
    adam = optim.Adam([{"params": [p], "multiplier": 57.04}], 0.9, 0.999, 1e-8)
    adam.set_rate(1e-3)
    for g in grads:
        p.grad = torch.tensor(g)
        adam.step()
    np.testing.assert_allclose(p.detach().numpy(), np_adam(w, grads, 57.04e-3), rtol=1e-9)
    if size < 1e-3:  # torch's own place for eps would give something else
        q = torch.tensor(w, requires_grad=True)
        plain = torch.optim.Adam([q], lr=57.04e-3, eps=1e-8)
        for g in grads:
            q.grad = torch.tensor(g)
            plain.step()
        assert not np.allclose(q.detach().numpy(), np_adam(w, grads, 57.04e-3), rtol=1e-3)


def test_shift_adamax():
    rng = np.random.default_rng(1)
    w = rng.uniform(-1, 1, (4, 7))
    grads = rng.normal(size=(15, 4, 7))
    grads[:, 0, 0] = 0
    p = torch.tensor(w, requires_grad=True)
    rule = optim.ShiftAdaMax([{"params": [p], "multiplier": 28.0}], 0.9, 0.999, 2.0**-27)
    rule.set_rate(2.0**-6)
    for g in grads:
        p.grad = torch.tensor(g)
        rule.step()
    np.testing.assert_allclose(p.detach().numpy(), np_shift_adamax(w, grads, 2.0**-6, 28.0), rtol=1e-10)
    assert p[0, 0].item() == w[0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [optim.Adam, optim.ShiftAdaMax])
def test_clipping_is_inclusive_in_place_and_only_where_asked(kind, dtype):
    before = [-1.5, -1.0, 0.25, 1.0, 7.0, math.nan]
    clipped, free = (torch.tensor(before, dtype=dtype, requires_grad=True) for _ in range(2))
    groups = [{"params": [p], "multiplier": 1.0, "clip": c} for p, c in ((clipped, True), (free, False))]
    rule = kind(groups, 0.9, 0.999, 1e-8)
    rule.set_rate(1e-30)
    clipped.grad, free.grad = torch.ones_like(clipped), torch.ones_like(free)
    rule.step()
    np.testing.assert_array_equal(clipped.detach(), [-1.0, -1.0, 0.25, 1.0, 1.0, math.nan])
    np.testing.assert_array_equal(free.detach(), before)


@pytest.mark.parametrize("kind, numpy_rule", [("adam", np_adam), ("shift_adamax", np_shift_adamax)])
@pytest.mark.parametrize("isa", ["avx512", "numpy"])
def test_float32_updates_are_the_float64_ones_to_rounding(kind, numpy_rule, isa, monkeypatch):
    if isa not in cpu.isas():
        pytest.skip(f"no {isa} here")
    monkeypatch.setenv("KERNELS_ISA", isa)
    rng = np.random.default_rng(2)
    w = rng.uniform(-1, 1, (3, 5, 7, 11)).astype(np.float32)
    grads = rng.normal(size=(8, 3, 5, 7, 11)).astype(np.float32)
    p = torch.tensor(w).contiguous(memory_format=torch.channels_last).requires_grad_()
    group = {"params": [p], "multiplier": 28.0}
    made = (
        optim.Adam([group], 0.9, 0.999, 1e-8)
        if kind == "adam"
        else optim.ShiftAdaMax([group], 0.9, 0.999, 2.0**-27)
    )
    made.set_rate(2.0**-10)
    for g in grads:
        p.grad = torch.tensor(g).contiguous(memory_format=torch.channels_last)
        made.step()
    rate = (28.0 * 2.0**-10,) if kind == "adam" else (2.0**-10, 28.0)
    np.testing.assert_allclose(
        p.detach().numpy(), numpy_rule(w.astype(float), grads.astype(float), *rate), atol=2e-6
    )


def test_learning_rate_after_each_epoch():
    mnist = spec.ExponentialRate(kind="exponential", start=3e-3, end=3e-7)
    rates = [optim.rate(mnist, 1000, e) for e in range(1000)]
    assert rates[0] == 3e-3
    assert rates[1] / rates[0] == pytest.approx(0.990832, abs=5e-7)
    assert rates[999] * 0.990832 == pytest.approx(3e-7, rel=1e-3)
    cifar = spec.ExponentialRate(kind="exponential", start=1e-3, end=3e-7)
    assert optim.rate(cifar, 500, 1) / 1e-3 == pytest.approx(0.983907, abs=5e-7)
    svhn = spec.ExponentialRate(kind="exponential", start=1e-3, end=1e-6)
    assert optim.rate(svhn, 200, 1) / 1e-3 == pytest.approx(0.966051, abs=5e-7)
    halving = spec.HalvingRate(kind="halving", start=2.0**-6, every=50)
    got = [optim.rate(halving, 500, e) for e in (0, 49, 50, 99, 100, 499)]
    assert got == [2.0**-6, 2.0**-6, 2.0**-7, 2.0**-7, 2.0**-8, 2.0**-15]


def multipliers(net, rule):
    by_id = {id(p): g["multiplier"] for g in rule.param_groups for p in g["params"]}
    return {name: by_id[id(p)] for name, p in net.named_parameters()}


def clipped(rule):
    return {id(p) for group in rule.param_groups if group["clip"] for p in group["params"]}


def test_theano_multipliers_reach_the_weights_only_and_only_weights_are_clipped():
    s = settings()
    net = nets.build(s.net)
    rule = optim.optimizer(net, s.train)
    found = multipliers(net, rule)
    for block, fans in zip(("0", "1", "2"), (784 + 32, 64, 42), strict=True):
        assert found[f"blocks.{block}.layer.weight"] == pytest.approx(math.sqrt(fans / 1.5))
        assert found[f"blocks.{block}.layer.bias"] == found[f"blocks.{block}.norm.weight"] == 1.0
    assert clipped(rule) == {id(b.layer.weight) for b in net.blocks}
    assert len(found) == sum(1 for _ in net.parameters())


def test_torch7_multipliers_are_powers_of_two_and_everything_is_clipped():
    rule = {"kind": "shift_adamax", "beta1": 0.9, "beta2": 0.999, "eps": 2.0**-27}
    s = convnet_settings(
        net={"norm": {"kind": "shift", "eps": 1e-5, "alpha": 0.125}},
        train={"optimizer": rule, "weight_rate": "glorot_power_of_2", "bias_rate": "as_weight", "clip": "all"},
    )
    net = nets.build(s.net)
    made = optim.optimizer(net, s.train)
    found = multipliers(net, made)
    exact = math.sqrt(9 * (3 + 4) / 1.5)
    assert found["blocks.0.layer.weight"] == found["blocks.0.layer.bias"] == 2.0 ** round(math.log2(exact)) == 8.0
    assert found["blocks.0.norm.weight"] == 1.0
    assert len(clipped(made)) == len(found)


def test_torch7_mnist_gamma_of_shift_norm_has_its_own_multiplier():
    s = settings(
        net={"norm": {"kind": "shift", "eps": 1e-5, "alpha": 0.125}},
        train={"norm_rate": "glorot_gamma", "bias_rate": "as_weight"},
    )
    net = nets.build(s.net)
    found = multipliers(net, optim.optimizer(net, s.train))
    assert found["blocks.0.norm.weight"] == pytest.approx(math.sqrt(32 / 1.5))
    assert found["blocks.0.norm.bias"] == found["blocks.2.norm.weight"] == 1.0
