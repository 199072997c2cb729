"""Update rules against NumPy in float64, from the paper's algorithms and the details of the authors' code."""

import math

import emulator
import numpy as np
import pytest
import torch
from made import by_sgd, convnet_settings, settings
from twin import ap2

from kernels import cpu
from kernels.cuda import updates as cuda_updates
from reproduce import nets, spec
from reproduce.training import optim
from reproduce.training.step import squared_hinge


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
        v = ap2(np.maximum(b2 * v, np.abs(g))) + eps
        w = w - float(ap2(lr / (1 - b1**t))) * factor * m / v
    return w


@pytest.mark.parametrize("size", [1.0, 1e-7])  # gradients near eps show where it is added
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
    if size < 1e-3:  # torch adds eps elsewhere, which would give another result
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


def test_sgd_has_neither_momentum_nor_any_other_state():
    rng = np.random.default_rng(4)
    w = rng.uniform(-1, 1, (5, 3))
    p = torch.tensor(w, requires_grad=True)
    rule = optim.SGD([{"params": [p], "multiplier": 7.0}])
    for rate in (0.5, 0.25):
        rule.set_rate(rate)
        g = rng.normal(size=(5, 3))
        p.grad = torch.tensor(g)
        rule.step()
        w = w - rate * 7.0 * g
    np.testing.assert_allclose(p.detach().numpy(), w, rtol=1e-12)
    assert set(rule.state[p]) == {"t"}


@pytest.mark.parametrize("isa", ["", "numpy"])
def test_the_denominator_of_shift_adamax_never_falls(isa, monkeypatch):
    """AP2(0.999 · 2^k) is 2^k: after one large gradient v stays, however many small ones follow."""
    monkeypatch.setenv("KERNELS_ISA", isa)
    p = torch.zeros(33, requires_grad=True)
    rule = optim.ShiftAdaMax([{"params": [p]}], 0.9, 0.999, 2.0**-27)
    rule.set_rate(2.0**-6)
    for g in [3.0] + [1e-3] * 2000:
        p.grad = torch.full((33,), g)
        rule.step()
    assert 3.0 * 0.999**2000 < 0.5  # v by the printed rule, which does not round
    np.testing.assert_array_equal(rule.state[p]["v"].numpy(), np.float32(4.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [optim.Adam, optim.ShiftAdaMax, lambda groups, *_: optim.SGD(groups)])
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


def rates_of(cell):
    train = spec.cells([f"table1/{cell}"])[0].scales["paper"].train
    return [optim.rate(train.rate, train.epochs, e) for e in range(train.epochs)]


@pytest.mark.parametrize(
    ("cell", "epochs", "start", "factor", "end"),
    [
        ("bnn-theano-mnist", 1000, 3e-3, 0.990832, 3e-7),
        ("bnn-theano-cifar10", 500, 1e-3, 0.983907, 3e-7),
        ("bnn-theano-svhn", 200, 1e-3, 0.966051, 1e-6),
    ],
)
def test_learning_rate_of_a_cell_after_each_epoch(cell, epochs, start, factor, end):
    rates = rates_of(cell)
    assert len(rates) == epochs and rates[0] == start
    assert rates[1] / rates[0] == pytest.approx(factor, abs=5e-7)
    assert rates[-1] * factor == pytest.approx(end, rel=1e-3)


def test_the_learning_rate_of_torch7_is_halved():
    rates = rates_of("bnn-torch7-cifar10")
    assert [rates[e] for e in (0, 49, 50, 99, 100, 499)] == [2.0**-6, 2.0**-6, 2.0**-7, 2.0**-7, 2.0**-8, 2.0**-15]


def multipliers(net, rule):
    by_id = {id(p): g["multiplier"] for g in rule.param_groups for p in g["params"]}
    return {name: by_id[id(p)] for name, p in net.named_parameters()}


def clipped(rule):
    return {id(p) for group in rule.param_groups if group["clip"] for p in group["params"]}


def test_theano_multipliers_reach_the_weights_only_and_only_weights_are_clipped():
    s = settings()
    net = nets.build(s)
    rule = optim.optimizer(net, s.train)
    found = multipliers(net, rule)
    for block, fans in zip(("0", "1", "2"), (784 + 32, 64, 42), strict=True):
        assert found[f"blocks.{block}.layer.weight"] == pytest.approx(math.sqrt(fans / 1.5))
        assert found[f"blocks.{block}.layer.bias"] == found[f"blocks.{block}.norm.weight"] == 1.0
    assert clipped(rule) == {id(b.layer.weight) for b in net.blocks}
    assert len(found) == sum(1 for _ in net.parameters())


def test_articles_multipliers_are_squared():
    s = by_sgd(settings(train={"weight_rate": "glorot_squared"}))
    net = nets.build(s)
    rule = optim.optimizer(net, s.train)
    found = multipliers(net, rule)
    assert isinstance(rule, optim.SGD)
    assert found["blocks.0.layer.weight"] == pytest.approx((784 + 32) / 1.5)
    assert found["blocks.0.layer.bias"] == found["blocks.0.norm.weight"] == 1.0


def test_torch7_multipliers_are_powers_of_two_and_everything_is_clipped():
    rule = {"kind": "shift_adamax", "beta1": 0.9, "beta2": 0.999, "eps": 2.0**-27}
    s = convnet_settings(
        net={"norm": {"kind": "shift", "eps": 1e-5, "alpha": 0.125}},
        train={"optimizer": rule, "weight_rate": "glorot_power_of_2", "bias_rate": "as_weight", "clip": "all"},
    )
    net = nets.build(s)
    made = optim.optimizer(net, s.train)
    found = multipliers(net, made)
    exact = math.sqrt(9 * (3 + 4) / 1.5)
    assert found["blocks.0.layer.weight"] == found["blocks.0.layer.bias"] == 2.0 ** round(math.log2(exact)) == 8.0
    assert found["blocks.0.norm.weight"] == 1.0
    assert len(clipped(made)) == len(found)


def test_torch7_mnist_every_gamma_has_its_own_multiplier_the_outputs_too():
    s = settings(
        net={"norm": {"kind": "shift", "eps": 1e-5, "alpha": 0.125}},
        train={"norm_rate": "glorot_gamma", "bias_rate": "as_weight"},
    )
    net = nets.build(s)
    found = multipliers(net, optim.optimizer(net, s.train))
    assert found["blocks.0.norm.weight"] == pytest.approx(math.sqrt(32 / 1.5))
    assert found["blocks.2.norm.weight"] == pytest.approx(2.5820, abs=5e-5)  # sqrt(10 / 1.5)
    assert found["blocks.0.norm.bias"] == found["blocks.2.norm.bias"] == 1.0


def test_torch7_mnist_cannot_learn_much_after_its_400_epochs():
    """A step moves a weight by rate · multiplier · |m| / v, and |m| <= the largest |g| so far <= sqrt(2) · v."""
    (cell,) = spec.cells(["table1/bnn-torch7-mnist"])
    s = cell.scales["paper"]
    steps = s.data.train // s.train.batch
    largest = max(optim.lr_multiplier(block.layer) for block in nets.build(s).blocks)

    def reach(epochs):
        """The farthest that a weight can move in these epochs, if every gradient were as large and of one sign."""
        return sum(steps * optim.rate(s.train.rate, 1000, epoch) * largest * math.sqrt(2) for epoch in epochs)

    assert s.train.epochs == 400 and optim.rate(s.train.rate, 1000, 400) == 2.0**-26
    assert reach(range(400, 1000)) == pytest.approx(0.022, abs=5e-4)  # weights start uniform on ±1
    assert reach(range(300, 400)) > 0.5  # an earlier end would cut off learning


# --- the script behind BinaryConnect's MNIST figure -----------------------------------------------------------


def article_step(layers, x, t, rate):
    """One step of BinaryConnect's mnist_mlp.py at df2d7d9 in float64: W within ±W0, weights of ±W0, cost summed
    over classes, plain SGD. `layers`: W (in, out), gamma, beta and W0 of each, changed in place."""
    saved, h, n = [], x, len(x)
    for k, layer in enumerate(layers):
        wb = np.where(layer["W"] >= 0, layer["W0"], -layer["W0"])
        z = h @ wb
        std = np.sqrt(z.var(0))
        hat = (z - z.mean(0)) / std
        y = layer["gamma"] * hat + layer["beta"]
        saved.append((h, wb, std, hat, y))
        h = y if k == len(layers) - 1 else np.maximum(y, 0)
    grad = -2 * t * np.maximum(1 - t * h, 0) / n
    for k in range(len(layers) - 1, -1, -1):
        layer, (below, wb, std, hat, y) = layers[k], saved[k]
        if k < len(layers) - 1:
            grad = grad * (y > 0)
        gamma_grad, beta_grad = (grad * hat).sum(0), grad.sum(0)
        back = layer["gamma"] / std * (grad - beta_grad / n - hat * gamma_grad / n)
        layer["W"] = np.clip(layer["W"] - rate * below.T @ back, -layer["W0"], layer["W0"])
        layer["gamma"] = layer["gamma"] - rate * gamma_grad
        layer["beta"] = layer["beta"] - rate * beta_grad
        grad = back @ wb.T


def test_binaryconnect_mnist_trains_as_the_articles_script():
    """Our net equals the script's in units of W0: multiplier squared, ten times the rate, start uniform on ±2."""
    (cell,) = spec.cells(["table1/binaryconnect-mnist"])
    s = cell.scales["paper"]
    torch.manual_seed(0)
    net = nets.build(s.model_copy(update={"net": s.net.model_copy(update={"hidden": [40, 30, 20]})})).double()
    for block in net.blocks:
        block.norm.eps = 0.0  # the script's eps is in other units; both are small compared with the variances
    rule = optim.optimizer(net, s.train)
    rng = np.random.default_rng(1)
    layers = []
    for block in net.blocks:
        w = block.layer.weight.detach().numpy().T
        high = math.sqrt(6 / sum(w.shape))  # Glorot's, from which the script draws its weights
        layers.append(
            {"W": w * high / 2, "gamma": np.ones(w.shape[1]), "beta": np.zeros(w.shape[1]), "W0": high / 2}
        )
        assert np.abs(layers[-1]["W"]).max() == pytest.approx(high, rel=0.02)
    targets = np.eye(10) * 2 - 1
    rate = 0.3  # the script's
    rule.set_rate(optim.rate(s.train.rate, s.train.epochs, 0))
    for _ in range(6):
        x, t = rng.normal(size=(50, 784)), targets[rng.integers(0, 10, 50)]
        loss = squared_hinge(net(torch.tensor(x)), torch.tensor(t))
        rule.zero_grad()
        loss.backward()
        rule.step()
        article_step(layers, x, t, rate)
        for block, layer in zip(net.blocks, layers, strict=True):
            np.testing.assert_allclose(block.layer.weight.detach().numpy().T * layer["W0"], layer["W"], atol=1e-9)
            np.testing.assert_allclose(block.norm.weight.detach().numpy(), layer["gamma"], atol=1e-9)
            np.testing.assert_allclose(block.norm.bias.detach().numpy(), layer["beta"], atol=1e-9)
    assert (np.abs(layers[1]["W"]) == layers[1]["W0"]).mean() > 0.05  # clipped ones
    assert optim.rate(s.train.rate, s.train.epochs, s.train.epochs) == pytest.approx(10 * 0.01)


@pytest.mark.parametrize(
    ("kind", "rates"),
    [(optim.Adam, (3e-3, 1e-3)), (optim.ShiftAdaMax, (2.0**-6, 2.0**-7))],
    ids=["adam", "adamax"],
)
def test_one_launch_for_all_parameters_equals_the_float32_step(emulated, monkeypatch, kind, rates):
    """Steps at two rates, with a checkpoint between them. A parameter with other strides is updated separately."""
    monkeypatch.setenv("KERNELS_ISA", "numpy")
    launches = []

    def trained(by_kernel):
        generator = torch.Generator().manual_seed(0)
        params = [torch.randn(*shape, generator=generator).requires_grad_() for shape in ((70, 65), (70,), (9, 8))]
        monkeypatch.setattr(optim, "on_gpu", lambda p: by_kernel)

        def rule():
            weights, others = params[::2], params[1:2]
            groups = [{"params": weights, "multiplier": 5.0, "clip": True}, {"params": others, "multiplier": 3.0}]
            return kind(groups, 0.9, 0.999, 2.0**-27)

        made = rule()
        for number in range(6):
            made.set_rate(rates[number // 3])
            for p in params:
                p.grad = torch.randn(*p.shape, generator=generator) * 1e-2
            params[2].grad = params[2].grad.T.contiguous().T
            made.step()
            if number == 2:
                state = made.state_dict()
                made = rule()
                made.load_state_dict(state)
        return params

    wanted = trained(False)
    with emulator.installed(emulated, monkeypatch):
        real = cuda_updates.update
        monkeypatch.setattr(
            cuda_updates, "update", lambda e, parts, **k: launches.append(parts) or real(e, parts, **k)
        )
        found = trained(True)
    assert [len(parts) for parts in launches] == [2] * 6
    for p, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(p, right, rtol=1e-5, atol=1e-6)
    assert found[0].abs().max() <= 1 < found[1].abs().max()
