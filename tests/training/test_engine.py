"""Steps without autograd: against autograd's, their noise, their bits by threads and instruction sets, scores."""

import hashlib

import numpy as np
import pytest
import torch
from made import by_sgd, convnet_settings, made_splits, settings

from kernels import cpu
from kernels.cpu.step import norm, ternary
from reproduce.training import preprocess, step, train

pytestmark = pytest.mark.skipif(not ternary.available(), reason="no compiled kernels here")

CPU = torch.device("cpu")
PLAIN = {"dropout_in": 0.0, "dropout_hidden": 0.0}
RELU = {"activation": "relu"}
MOVED = [{"step": "range", "low": 0, "high": 1}]
STD = {"kind": "std", "eps": 0.5, "alpha": 0.3}  # so large that it matters
SHIFT = {"kind": "shift", "eps": 1e-4, "alpha": 0.125}
CASES = {
    "odd sizes": settings(net=PLAIN | {"hidden": [97, 61]}, train={"batch": 37}),
    "pixels moved": settings(net=PLAIN | {"hidden": [64]}, data={"preprocess": [*MOVED, {"step": "standardize"}]}),
    "pixels centred": settings(net=PLAIN | {"hidden": [64]}, data={"preprocess": [*MOVED, {"step": "center"}]}),
    "relu": settings(net=PLAIN | RELU | {"hidden": [96, 64]}),
    "float": settings(net=PLAIN | RELU | {"hidden": [96, 64], "weights": "float"}),
    "eps on the std": settings(net=PLAIN | RELU | {"hidden": [96, 64], "norm": STD, "output_norm": STD}),
    "float, signs": settings(net=PLAIN | {"hidden": [96, 64], "weights": "float"}),
    "convnet, float, signs": convnet_settings(net={"channels": [4, 8], "weights": "float"}, train={"batch": 25}),
    "shift": settings(net=PLAIN | {"hidden": [96, 64], "norm": SHIFT, "output_norm": SHIFT}),
    "no mask": settings(net=PLAIN | {"hidden": [64, 32], "ste_mask": False}),
    "convnet": convnet_settings(net={"channels": [8, 16], "dense": [24, 16]}, train={"batch": 25}),
    "convnet, relu": convnet_settings(net=RELU | {"channels": [8, 16], "dense": [24]}, train={"batch": 25}),
    "convnet, float": convnet_settings(
        net=RELU | {"channels": [4, 8], "dense": [24], "weights": "float"}, train={"batch": 25}
    ),
}
RATES = {"dropout_in": 0.2, "dropout_hidden": 0.5}
NOISY = settings(net=RATES | {"hidden": [100, 70], "activation": "stochastic_sign"})


def module_of(s, mode, monkeypatch, seed=0):
    flat = s.net.kind == "mlp"
    data = preprocess.prepare(made_splits((28, 28) if flat else (32, 32, 3)), s.data, flat, CPU)
    monkeypatch.setenv("REPRODUCE_PRODUCTS", mode)
    module = train.Classifier(s, data, seed)
    module.on_train_epoch_start()
    assert (module.step.engine is None) == (mode == "float32")
    return module


def moments(module):
    return {name: module.rule.state[p]["m"].double().numpy() for name, p in module.net.named_parameters()}


@pytest.mark.parametrize("case", CASES)
def test_a_step_equals_autograds_except_for_rounding(case, monkeypatch):
    s = CASES[case]
    plain, mine = (module_of(s, mode, monkeypatch) for mode in ("float32", "fixed16"))
    for module in (plain, mine):
        module.training_step([torch.arange(s.train.batch)], 0)
    assert mine.loss_sum.item() == pytest.approx(plain.loss_sum.item(), rel=1e-3)
    wanted, found = moments(plain), moments(mine)
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        if np.linalg.norm(value) > 1e-6:  # a bias before batch norm has a gradient of 0 but for rounding
            error = np.linalg.norm(found[name] - value) / np.linalg.norm(value)
            assert error < 0.06, (name, error)  # one gradient that passes a mask, a pool or a relu or not is 3 %
    for (name, moving), other in zip(plain.net.named_buffers(), mine.net.buffers(), strict=True):
        torch.testing.assert_close(other, moving, rtol=1e-3, atol=1e-3, msg=name)


@pytest.mark.parametrize("case", ["odd sizes", "relu", "convnet"])
def test_sgd_updates_equal_autograds_except_for_rounding(case, monkeypatch):
    s = by_sgd(CASES[case])
    moved = []
    for mode in ("float32", "fixed16"):
        module = module_of(s, mode, monkeypatch)
        before = {name: p.detach().clone() for name, p in module.net.named_parameters()}
        module.training_step([torch.arange(s.train.batch)], 0)
        moved.append({name: (p - before[name]).detach().double() for name, p in module.net.named_parameters()})
    for name, wanted in moved[0].items():
        if wanted.norm() > 1e-4:  # a bias before batch norm has a gradient of 0 but for rounding
            assert (moved[1][name] - wanted).norm() < 0.06 * wanted.norm(), name


@pytest.mark.parametrize("case", CASES)
def test_scores_are_those_of_the_net(case, monkeypatch):
    module = module_of(CASES[case], "fixed16", monkeypatch)
    with torch.no_grad():
        for block in module.net.blocks:
            block.norm.weight.uniform_(0.6, 2.4)  # of shift-based batch norm the nearest power of 2 counts
    module.step.refresh()
    for start in range(0, 600, 100):
        module.training_step([torch.arange(start, start + module.settings.train.batch)], 0)
    index = torch.arange(130)
    data = module.data["valid"]
    module.step.refresh()
    found = torch.from_numpy(module.step.engine.scores(data, index))
    module.net.eval()
    with torch.no_grad():
        wanted = module.net(data.images(index))
    agree = (found.argmax(1) == wanted.argmax(1)).double().mean()
    assert agree > 0.95
    close = ((found - wanted).abs() <= 2e-2 * wanted.abs().max()).double().mean()
    assert close > 0.95  # one changed sign changes all scores of an image


def test_changes_to_the_net_by_other_code_count_after_a_refresh(monkeypatch):
    module = module_of(NOISY, "fixed16", monkeypatch)
    module.training_step([torch.arange(100)], 0)
    before = module.step.engine.scores(module.data["valid"], torch.arange(50))
    with torch.no_grad():
        for block in module.net.blocks:
            block.layer.weight.neg_()
    module.step.refresh()
    after = module.step.engine.scores(module.data["valid"], torch.arange(50))
    assert (before != after).any()
    with torch.no_grad():
        module.net.eval()
        wanted = module.net(module.data["valid"].images(torch.arange(50))).numpy()
    np.testing.assert_allclose(after, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())


def test_noise_depends_only_on_seed_step_layer_and_position(monkeypatch):
    module = module_of(NOISY, "fixed16", monkeypatch, seed=3)
    index = torch.arange(100)
    module.training_step([index, index], 0)  # the second step's noise is compared
    seed = train.seed_for(3, "noise", 0)

    def numbers(position, purpose, shape):
        text = f"{seed}/1/{position}/{purpose}"
        key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        return norm.numbers(key, 0, shape[0] * shape[1]).reshape(shape)

    first, second, third = module.step.engine._of(100)
    pixels = 2 * module.data["train"].rows[:100].numpy().astype(int) - 255
    kept = numbers(-1, "dropout", pixels.shape) >= round(0.2 * 2**32)
    np.testing.assert_array_equal(first.x.array, pixels * kept)
    assert first.x.scale == pytest.approx(1 / 255 / 0.8)
    for position, one in enumerate((second, third)):
        kept = numbers(position, "dropout", one.x.array.shape) >= 2**31
        np.testing.assert_array_equal(one.x.array != 0, kept)
    hidden = second.x.array
    assert second.x.scale == 2
    noise = (numbers(0, "noise", hidden.shape) >> np.uint32(8)) * 2.0**-23 - 1
    way = first._norms[True]
    # beta has changed since, by a thousandth
    a = (first.y * np.float32(first.scale) - way.mean) * way.factor + first.stage.beta
    sure = np.abs(a - noise) > 0.01
    assert sure.mean() > 0.9
    np.testing.assert_array_equal((hidden > 0)[sure & (hidden != 0)], (a >= noise)[sure & (hidden != 0)])


@pytest.mark.parametrize("kind", ["mlp", "convnet"])
def test_bits_do_not_depend_on_threads_or_instruction_set(kind, monkeypatch):
    s = NOISY if kind == "mlp" else CASES["convnet"]
    found = []
    for isa in [isa for isa in cpu.isas() if isa != "numpy"]:
        for threads in ("1", "3"):
            monkeypatch.setenv("KERNELS_ISA", isa)
            monkeypatch.setenv("KERNELS_THREADS", threads)
            module = module_of(s, "fixed16", monkeypatch)
            module.training_step(list(torch.arange(4 * s.train.batch).split(s.train.batch)), 0)
            found.append({**module.net.state_dict(), "loss": module.loss_sum, **moments(module)})
    for other in found[1:]:
        for name, value in found[0].items():
            np.testing.assert_array_equal(np.asarray(value), np.asarray(other[name]), err_msg=name)


def test_batches_of_another_size_give_finite_parameters(monkeypatch):
    module = module_of(NOISY, "fixed16", monkeypatch)
    module.training_step([torch.arange(100), torch.arange(41), torch.arange(100)], 0)
    assert all(p.isfinite().all() for p in module.net.parameters())


def test_a_net_that_the_engine_does_not_support_goes_through_autograd_and_says_why(monkeypatch):
    monkeypatch.setenv("REPRODUCE_PRODUCTS", "fixed16")
    s = settings()
    module = train.Classifier(s, preprocess.prepare(made_splits(), s.data, True, CPU), 0).double()
    assert module.step.engine is None
    assert step.unknown(module.net, module.rule, "squared_hinge") == "weights that are not float32"
