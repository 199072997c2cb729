"""One training step against float64 (`twin.py`), from many states of a trajectory; planted errors are detected."""

import math
from contextlib import ExitStack

import numpy as np
import pytest
import torch
import twin
from made import by_sgd, convnet_settings, made_splits, settings
from sample import sample

from kernels.cpu.step import fixed
from reproduce import spec, yamlfile
from reproduce.training import optim, preprocess, train

CPU = torch.device("cpu")
STATES = 20
GRADIENT = {"torch": 5e-5, "tables": 5e-5, "fixed16": 2e-3}
"""Error of a gradient by the norm of a tensor, relative to that of the terms it is summed from, which cancel in a
bias before batch norm. In 16 bits a product is off by 5e-4 and less, and products follow one another."""
UPDATE = 1e-5
"""Error of a parameter's update from the step's own gradient, relative to the rate."""
WHOLE = {"torch": 5e-3, "tables": 5e-3, "fixed16": 0.1}
"""Error of the weights' update against float64 throughout; Adam's steps are as large for tiny gradients."""

ROUNDED = 4e-3
"""Error of a normalized value where the products of real activations are in 16 bits: 5e-4 by root mean square in
each of three layers; the largest of some thousands is several times that."""

SHIFT = {
    "net": {"activation": "stochastic_sign", "norm": {"kind": "shift", "eps": 1e-5, "alpha": 0.125}},
    "train": {"optimizer": {"kind": "shift_adamax", "beta1": 0.9, "beta2": 0.999, "eps": 2.0**-27}},
}
TORCH7 = {
    "net": SHIFT["net"] | {"dropout_in": 0.0, "dropout_hidden": 0.0, "bias_init": "uniform"},
    "train": SHIFT["train"] | {"bias_rate": "as_weight", "norm_rate": "glorot_gamma"},
}
BINARYCONNECT = {
    "net": {
        "activation": "relu",
        "norm": {"kind": "std", "eps": 1e-2, "alpha": 0.15},
        "output_norm": {"kind": "std", "eps": 1e-2, "alpha": 0.15},
    },
}
ARTICLE = {
    "net": {"activation": "relu", "init": "uniform_2", "dropout_in": 0.0, "dropout_hidden": 0.0},
    "train": {"weight_rate": "glorot_squared", "rate": {"kind": "exponential", "start": 3.0, "end": 0.1}},
}
CASES = {
    "mlp": settings(net={"hidden": [96, 64, 48], "dropout_in": 0.0, "dropout_hidden": 0.0}),
    "mlp with dropout": settings(net={"hidden": [96, 64, 48], "dropout_in": 0.2, "dropout_hidden": 0.5}),
    "mlp, torch7": settings(**TORCH7 | {"net": TORCH7["net"] | {"hidden": [96, 64, 48]}}),
    "convnet": convnet_settings(net={"channels": [4, 8], "dense": [24, 16]}, train={"batch": 25}),
    "convnet, torch7": convnet_settings(
        net=SHIFT["net"] | {"channels": [4, 8], "dense": [24, 16]},
        train=SHIFT["train"]
        | {"batch": 25, "weight_rate": "glorot_power_of_2", "bias_rate": "as_weight", "clip": "all"},
    ),
    "mlp, binaryconnect": settings(
        net=BINARYCONNECT["net"] | {"hidden": [96, 64, 48], "dropout_in": 0.0, "dropout_hidden": 0.0}
    ),
    "convnet, binaryconnect": convnet_settings(
        net=BINARYCONNECT["net"] | {"channels": [4, 8], "dense": [24, 16]}, train={"batch": 25}
    ),
    "mlp, binaryconnect's article": by_sgd(
        settings(**ARTICLE | {"net": ARTICLE["net"] | {"hidden": [96, 64, 48]}})
    ),
}


def ready(s):
    """A classifier and its data. Pixels are rounded so that sums over them are exact: AP2 jumps otherwise."""
    flat = s.net.kind == "mlp"
    splits = made_splits((28, 28) if flat else (32, 32, 3))
    data = preprocess.prepare(splits, s.data, flat, CPU)
    if s.net.norm.kind == "shift":
        rows = data["train"].rows.float().div(16).round().div(16)
        part = data["train"]
        data["train"] = preprocess.DeviceData(rows, part.labels, part.shape, 1.0, torch.zeros(()))
    module = train.Classifier(s, data, 0)
    module.on_train_epoch_start()
    return module


def doubles(tensor):
    return tensor.detach().double().numpy().copy()


def layers_of(module, net):
    """The blocks of a module with the spec `net` in the twin's form, with the current parameters."""
    found = []
    for block in module.net.blocks:
        own = (block.layer.weight, block.layer.bias, block.norm.weight, block.norm.bias)
        last = block is module.net.blocks[-1]
        norm = net.output_norm if last else net.norm
        rest = (block.norm.mean, spread_of(block.norm))
        found.append(twin.Layer(*(doubles(t) for t in (*own, *rest)), norm, block.pool))
    return found


def spread_of(norm):
    """The moving average of 1/std, or of the std."""
    return norm.std if hasattr(norm, "std") else norm.inv_std


def watched(module, layers, index):
    """One step of `module`, recorded in `layers`; returns its loss."""
    before = module.loss_sum.item()
    if module.step.engine is not None:
        module.training_step([index], 0)
        seen_by_engine(module, layers, len(index))
        return module.loss_sum.item() - before
    with ExitStack() as stack:
        for block, layer in zip(module.net.blocks, layers, strict=True):

            def products(_, given, out, layer=layer):
                layer.given, layer.product = doubles(given[0]), doubles(out)

            def norms(_, __, out, layer=layer):
                layer.normed = doubles(out)

            stack.callback(block.layer.register_forward_hook(products).remove)
            stack.callback(block.norm.register_forward_hook(norms).remove)
        module.training_step([index], 0)
    return module.loss_sum.item() - before


def seen_by_engine(module, layers, count):
    """Records what a step of the engine left in its arrays."""
    for one, layer in zip(module.step.engine._of(count), layers, strict=True):
        way = one._norms[True]
        whole = one._rooms["y"] if one.stage.block.pool else one.y
        bias = one.stage.product.of_shift(one.x) + layer.bias
        layer.given = channels_first(one.x.array * one.x.scale)
        layer.product = channels_first(whole.astype(np.float64) * one.scale + bias)
        layer.normed = channels_first((one.y * np.float32(one.scale) - way.mean) * way.factor + layer.beta)


def channels_first(x):
    x = x.astype(np.float64)
    return x.transpose(0, 3, 1, 2) if x.ndim == 4 else x


def norm(x):
    return float(np.sqrt((x**2).sum()))


class Trajectory:
    """Training step by step; each step is compared with the float64 step from the same state."""

    def __init__(self, way, s, expected=None):
        self.way, self.settings = way, expected or s
        self.module = ready(s)
        self.order = torch.Generator().manual_seed(1)
        self.t = self.choices = 0
        self.worst = {"gradient": 0.0, "update": 0.0, "whole": 0.0}

    def step(self):
        """AssertionError if the step differs from the float64 one."""
        s, module = self.settings, self.module
        self.t += 1
        index = torch.randperm(600, generator=self.order)[: s.train.batch]
        layers = layers_of(module, s.net)
        moments = {p: [doubles(m) for m in module.rule.moments(p)] for p in module.net.parameters()}
        x = doubles(module.data["train"].images(index))
        targets = doubles(module.targets[module.data["train"].labels[index]])
        loss = watched(module, layers, index)
        dropout = (s.net.dropout_in, s.net.dropout_hidden) if s.net.kind == "mlp" else (0.0, 0.0)
        keep = [1 - dropout[0]] + [1 - dropout[1]] * (len(layers) - 1)
        rounded = self.way == "fixed16" and s.net.activation == "relu"
        edge = ROUNDED if rounded else twin.EDGE
        found = twin.step(layers, x, targets, keep, s.net.activation, edge)
        self.choices += found.choices
        assert loss == pytest.approx(found.loss, rel=3e-4 if rounded else 1e-5)
        for k, (block, layer) in enumerate(zip(module.net.blocks, layers, strict=True)):
            mean, spread = found.statistics[k]
            std = spread if layer.norm.kind == "std" else 1 / spread
            for moving, before, now, size in (
                (block.norm.mean, layer.mean, mean, std),
                (spread_of(block.norm), layer.spread, spread, spread),
            ):
                expected = before + layer.norm.alpha * (now - before)
                assert (np.abs(doubles(moving) - expected) <= edge * size).all()
            own = (block.layer.weight, block.layer.bias, block.norm.weight, block.norm.bias)
            old = (layer.weight, layer.bias, layer.gamma, layer.beta)
            for what, factor in enumerate(twin.multipliers(layer, s.train)):
                self._compare(k, what, own[what], old[what], moments[own[what]], found, factor)

    def _compare(self, k, what, parameter, before, state, found, factor):
        """Gradient and update of one parameter: weight, bias, gamma or beta (`what` 0 to 3) of layer k."""
        train = self.settings.train
        exact = found.grads[k][what]
        if parameter.grad is None:  # the engine keeps none
            if train.optimizer.kind == "sgd":  # without clipping the update itself gives the gradient
                way = doubles(parameter)
                went = (before - way) / (optim.rate(train.rate, train.epochs, 0) * factor)
                mine = np.where(np.abs(way) < 1, went, exact) if what == 0 else went
            else:
                beta1 = train.optimizer.beta1
                mine = (doubles(self.module.rule.state[parameter]["m"]) - beta1 * state[0]) / (1 - beta1)
        else:
            mine = doubles(parameter.grad)
        error = norm(mine - exact) / norm(found.scales[k][what])
        assert error <= GRADIENT[self.way], (k, what, error)
        other = tuple(x.copy() for x in state)
        rate = optim.rate(train.rate, train.epochs, 0)
        limited = what == 0 or train.clip == "all"
        clipped = (lambda x: np.clip(x, -1, 1)) if limited else (lambda x: x)

        def updated(state, grad):
            if train.optimizer.kind == "sgd":
                return clipped(before + twin.sgd(grad, rate * factor))
            if train.optimizer.kind == "adam":
                return clipped(before + twin.adam(train.optimizer, state, grad, self.t, rate * factor))
            return clipped(before + twin.shift_adamax(train.optimizer, state, grad, self.t, rate, factor))

        whole, own, now = updated(other, exact), updated(state, mine), doubles(parameter)
        off = np.abs(now - own) - 2.0**-23 * np.abs(own)
        update = float(off.max()) / (rate * factor)
        assert update <= UPDATE, (k, what, update)
        if what == 0:
            whole_error = norm(now - whole) / norm(whole - before)
            assert whole_error <= WHOLE[self.way], (k, whole_error)
            self.worst["whole"] = max(self.worst["whole"], whole_error)
        self.worst["gradient"] = max(self.worst["gradient"], error)
        self.worst["update"] = max(self.worst["update"], update)


@pytest.mark.parametrize("case", sample(CASES, 4))
def test_a_step_agrees_with_float64_from_each_of_20_states(way, case):
    trajectory = Trajectory(way, CASES[case])
    for _ in range(STATES):
        trajectory.step()
    print(case, trajectory.worst, trajectory.choices, "choices of 20 steps")  # shown by -s
    rounded = way == "fixed16" and CASES[case].net.activation == "relu"  # kinks are crossed more often
    assert trajectory.choices < (3 if rounded else 1) * STATES
    weights = np.concatenate([doubles(b.layer.weight).ravel() for b in trajectory.module.net.blocks])
    assert (np.abs(weights) == 1).any() and np.abs(weights).max() == 1  # some weights were clipped


def unclipped(monkeypatch):
    update = optim.Rule._update
    monkeypatch.setattr(optim.Rule, "_update", lambda self, p, rate, _: update(self, p, rate, math.inf))
    rule = fixed.Rule
    monkeypatch.setattr(fixed, "Rule", lambda *given: rule(*given[:-1], math.inf))


def eps_after_correction(monkeypatch):
    """Adam with eps where torch adds it."""
    count = optim.Adam._count

    def patched(self):
        clock, rate = count(self)
        self.eps = 1e-8 * math.sqrt(1 - self.beta2 ** float(clock))
        return clock, rate

    monkeypatch.setattr(optim.Adam, "_count", patched)


PLANTED = {
    "no mask": ({"net": {"ste_mask": False}}, None),
    "no multiplier": ({"train": {"weight_rate": "plain"}}, None),
    "clipping set off": ({"train": {"clip": "none"}}, None),
    "clipping without effect": ({}, unclipped),
    "eps after the bias correction": ({}, eps_after_correction),
    "another eps in batch norm": ({"net": {"norm": {"kind": "vanilla", "eps": 1e-1, "alpha": 0.1}}}, None),
    "another average in batch norm": ({"net": {"norm": {"kind": "vanilla", "eps": 1e-4, "alpha": 0.125}}}, None),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_error_is_detected(way, planted, monkeypatch):
    over, patch = PLANTED[planted]
    right = settings(net={"hidden": [48, 32], "dropout_in": 0.0, "dropout_hidden": 0.0})
    wrong = spec.Settings.model_validate(yamlfile.merged(right.model_dump(mode="json"), over))
    if patch:
        patch(monkeypatch)
    trajectory = Trajectory(way, wrong, expected=right)
    with pytest.raises(AssertionError):
        for _ in range(STATES):
            trajectory.step()


@pytest.mark.parametrize("case, over", [
    ("mlp, binaryconnect", {"net": {"norm": {"kind": "vanilla"}}}),
    ("mlp, binaryconnect", {"net": {"output_norm": {"kind": "vanilla"}}}),
    ("mlp, torch7", {"train": {"norm_rate": "plain"}}),
    ("mlp, binaryconnect's article", {"train": {"weight_rate": "glorot"}}),
])  # fmt: skip
def test_one_wrong_setting_is_detected(way, case, over):
    right = CASES[case]
    wrong = spec.Settings.model_validate(yamlfile.merged(right.model_dump(mode="json"), over))
    trajectory = Trajectory(way, wrong, expected=right)
    with pytest.raises(AssertionError):
        for _ in range(STATES):
            trajectory.step()


def test_signs_that_differ_far_from_zero_are_an_error():
    layer = twin.Layer(*np.zeros((6, 1)), norm=None)
    layer.given = np.array([[1.0, 1.0]])
    found = twin.Found()
    twin._activate([layer, layer], 0, np.array([[0.5, -1e-6]]), [1, 1], "sign", found)
    assert found.choices == 1
    with pytest.raises(AssertionError):
        twin._activate([layer, layer], 0, np.array([[0.5, -1e-3]]), [1, 1], "sign", found)
