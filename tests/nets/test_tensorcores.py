"""The GPU's products, with their arithmetic on the CPU: exactness, stated precision, and kept signs."""

import emulator
import numpy as np
import pytest
import test_step
import torch
from sample import sample
from test_step import CASES, STATES, Trajectory

from reproduce.nets import products, tensorcores, ways
from reproduce.nets.binarize import sign
from reproduce.training import optim


def signs(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng([seed, *shape]).integers(0, 2, shape) * 2.0 - 1).float()


@pytest.fixture
def here(monkeypatch):
    """Makes products on this CPU use the GPU's code."""
    monkeypatch.setenv("REPRODUCE_PRODUCTS", "float32")
    monkeypatch.delenv("REPRODUCE_WITHOUT", raising=False)
    monkeypatch.setattr(products, "by_kernels", lambda x: False)
    monkeypatch.setattr(tensorcores, "serves", lambda x: True)
    return monkeypatch


# --- linear layers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize(("batch", "inputs", "units"), [(1, 1, 1), (7, 37, 5), (33, 4099, 65)])
def test_products_of_signs_are_exact(here, batch, inputs, units, scale):
    x = signs(batch, inputs) * scale * torch.from_numpy(np.random.default_rng(1).integers(0, 2, (batch, inputs)))
    w = torch.randn(units, inputs)
    found = products.binary_linear(x, w, torch.zeros(units), True)
    assert torch.equal(found.double(), x.double() @ sign(w).double().T)


def test_real_inputs_keep_all_their_bits(here):
    torch.manual_seed(0)
    x, w, b = torch.randn(9, 784), torch.randn(33, 784), torch.randn(33)
    assert torch.equal(tensorcores.parts(x, 3).view(3, 9, 784).double().sum(0), x.double())
    found = products.binary_linear(x, w, b, False).double()
    exact = x.double() @ sign(w).double().T + b.double()
    assert ((found - exact).abs() <= 2.0**-21 * x.double().abs().sum(1, keepdim=True)).all()


def test_a_gradient_in_two_parts_has_16_bits():
    torch.manual_seed(1)
    g = torch.randn(1000, 50) * torch.randn(1000, 50).mul(8).exp()
    two = tensorcores.parts(g, 2).view(2, 1000, 50).double().sum(0)
    assert ((two - g.double()).abs() <= 2.0**-17 * g.double().abs()).all()
    one = tensorcores.parts(g, 1).double()
    assert ((one - g.double()).abs() > 2.0**-10 * g.double().abs()).any()


@pytest.mark.parametrize("signs_in", [True, False])
def test_gradients_keep_the_stated_precision(here, signs_in):
    torch.manual_seed(2)
    x = (signs(100, 301) * 2 if signs_in else torch.randn(100, 301)).requires_grad_()
    w, b = torch.randn(65, 301).requires_grad_(), torch.zeros(65).requires_grad_()
    g = torch.randn(100, 65)
    products.binary_linear(x, w, b, signs_in).backward(g)
    exact_x, exact_w = g.double() @ sign(w).double(), g.double().T @ x.detach().double()
    most = 2.0**-17 + 2.0**-20  # of an operand, and of float32's sums
    assert ((x.grad - exact_x).abs() <= most * g.double().abs().sum(1, keepdim=True)).all()
    assert ((w.grad - exact_w).abs() <= most * (g.double().abs().T @ x.detach().double().abs())).all()
    torch.testing.assert_close(b.grad, g.sum(0))


# --- convolutions ---------------------------------------------------------------------------------------------

PAPER = (128, 256, 512)
"""Channels of the paper's ConvNet: the numbers of inputs of all layers but the first."""


def test_the_bound_of_fp16_covers_every_possible_result():
    """A sum of n terms ±1 is one of -n, -n + 2, …, n: each is looked up in fp16."""
    for channels in (*range(1, 700), 1000):
        results = [np.arange(-t * channels, t * channels + 1, 2) for t in range(1, 10)]
        held = all((each.astype(np.float16) == each).all() for each in results)
        assert tensorcores.exact_in_fp16(channels) == held, channels


def test_fp16_is_exact_for_the_papers_layers_except_the_last_convolution():
    assert [tensorcores.exact_in_fp16(c) for c in PAPER] == [True, True, False]


@pytest.mark.parametrize("channels", [64, 256])
def test_forward_convolutions_are_exact(here, channels):
    """The largest possible sums, and random ones; in the nets' layout."""
    x, w = (signs(2, channels, 5, 6), signs(9, channels, 3, 3, seed=1))
    x[0], w[0], w[1] = 1, 1, -1
    x, w = (t.contiguous(memory_format=torch.channels_last) for t in (x, w))
    want = torch.nn.functional.conv2d(x.double(), w.double(), padding=1) + 0.5
    for without in ("", "fp16", "fp16 tf32"):
        here.setenv("REPRODUCE_WITHOUT", without)
        found = products.binary_conv2d(x, w, torch.full((9,), 0.5), True)
        assert torch.equal(found.double(), want), without
        assert found.is_contiguous(memory_format=torch.channels_last)


# --- whole steps against float64 ------------------------------------------------------------------------------


@pytest.mark.parametrize("case", sample(["mlp with dropout", "convnet", "mlp", "mlp, torch7"], 2))
def test_a_step_agrees_with_float64(here, case):
    """Has the float32 step's tolerances, except for AP2, which jumps for more of the gradients near its edge."""
    if case == "mlp, torch7":
        here.setattr(test_step, "WHOLE", {"torch": 0.03})
    trajectory = Trajectory("torch", CASES[case])
    for _ in range(STATES):
        trajectory.step()
    print(case, trajectory.worst)  # shown with -s
    assert trajectory.choices < 5 * STATES  # one value near 0 counts once for each pixel of its window


def test_a_gradient_in_one_bf16_part_is_detected(here):
    real = tensorcores.parts
    here.setattr(tensorcores, "parts", lambda x, count: real(x, 1).repeat(count, 1) / count)
    trajectory = Trajectory("torch", CASES["mlp"])
    with pytest.raises(AssertionError):
        for _ in range(STATES):
            trajectory.step()


# --- kept signs -----------------------------------------------------------------------------------------------


def test_signs_are_recomputed_unless_an_update_keeps_them_current():
    w = torch.nn.Parameter(torch.randn(5, 7))
    assert tensorcores.follow(w) is None  # none are kept yet
    first = tensorcores.signs_of(w, torch.bfloat16)
    assert torch.equal(first.float(), sign(w))
    w.detach().numpy()[...] *= -1  # without an update kernel the kept signs are not trusted
    assert torch.equal(tensorcores.signs_of(w, torch.bfloat16).float(), sign(w))
    followed = tensorcores.follow(w)
    assert followed.data_ptr() == first.data_ptr()
    followed[0, 0] = 3
    assert tensorcores.signs_of(w, torch.bfloat16)[0, 0] == 3  # trusted without a check
    with torch.no_grad():
        w.mul_(-1)  # a change that torch's version counter records
    assert tensorcores.follow(w) is None
    assert torch.equal(tensorcores.signs_of(w, torch.bfloat16).float(), sign(w))
    assert torch.equal(tensorcores.signs_of(w, torch.float16).float(), sign(w))
    moved = w.data.clone().neg_()
    tensorcores.follow(w)
    w.data = moved
    assert torch.equal(tensorcores.signs_of(w, torch.float16).float(), sign(w))


def test_the_update_kernel_keeps_the_signs_current(here, emulated):
    """Steps with the CUDA update kernel on the host: after each, the signs are right and are not recomputed."""
    with emulator.installed(emulated, here):
        here.setattr(optim, "on_gpu", lambda p: True)
        trajectory, taken = Trajectory("torch", CASES["mlp"]), []
        trajectory.step()
        here.setattr(tensorcores, "sign", lambda x: taken.append(x) or sign(x))
        for _ in range(4):
            trajectory.step()
            for block in trajectory.module.net.blocks:
                kept = tensorcores._kept[block.layer.weight]
                assert kept.followed and torch.equal(kept.signs.float(), sign(block.layer.weight))
        trajectory.module.evaluate("valid")
        assert not taken


@pytest.mark.parametrize("word", ["bf17", "BF16"])
def test_an_unknown_part_is_refused(monkeypatch, word):
    monkeypatch.setenv("REPRODUCE_WITHOUT", f"graph {word}")
    with pytest.raises(ValueError, match=f"REPRODUCE_WITHOUT takes .*, not '{word}'"):
        ways.left_out()
