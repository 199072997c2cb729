"""Binarization and its gradients against their definitions."""

import math

import numpy as np
import pytest
import torch

from reproduce.nets.binarize import ap2, binarize_weight, sign, sign_ste, stochastic_sign_ste

EDGES = [0.0, -0.0, 1.0, -1.0, 1.0000001, -1.0000001, 0.9999999, 1e-30, -1e-30, 3.0, -3.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sign_is_plus_one_at_both_zeros(dtype):
    x = torch.tensor(EDGES, dtype=dtype)
    expected = [1.0 if v >= 0 else -1.0 for v in x.tolist()]
    assert sign(x).tolist() == expected
    assert sign(x).dtype == dtype
    assert set(sign(torch.randn(1000, dtype=dtype)).unique().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_straight_through_gradient_is_masked_at_one_inclusive(dtype):
    x = torch.cat([torch.tensor(EDGES, dtype=dtype), 2 * torch.randn(500, dtype=dtype)]).requires_grad_()
    g = torch.randn_like(x)
    sign_ste(x).backward(g)
    mask = np.abs(x.detach().numpy()) <= 1
    assert mask[2] and mask[3] and not mask[4] and not mask[5]
    np.testing.assert_array_equal(x.grad.numpy(), g.numpy() * mask)


def test_gradient_without_mask_and_for_weights_passes_straight():
    for function in (lambda x: sign_ste(x, masked=False), binarize_weight):
        x = (3 * torch.randn(200)).requires_grad_()
        g = torch.randn(200)
        function(x).backward(g)
        assert torch.equal(x.grad, g)


def test_stochastic_binarization_has_the_papers_probability():
    torch.manual_seed(0)
    n = 40000
    for value in (-2.0, -1.0, -0.5, 0.0, 0.3, 0.9, 1.0, 1.7):
        x = torch.full((n,), value)
        drawn = stochastic_sign_ste(x)
        assert set(drawn.unique().tolist()) <= {-1.0, 1.0}
        p = min(max((value + 1) / 2, 0), 1)
        share = (drawn > 0).double().mean().item()
        assert abs(share - p) <= 5 * math.sqrt(p * (1 - p) / n)


def test_stochastic_gradient_has_the_same_mask():
    x = torch.tensor([-1.5, -1.0, 0.0, 1.0, 1.5], requires_grad=True)
    stochastic_sign_ste(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ap2_is_the_nearest_power_of_two_in_the_logarithm(dtype):
    x = torch.randn(20000, dtype=torch.float64).mul(8).exp() * torch.randn(20000, dtype=torch.float64).sign()
    x = x.to(dtype)
    wide = x.double().numpy()
    expected = np.sign(wide) * 2.0 ** np.rint(np.log2(np.abs(wide)))
    np.testing.assert_array_equal(ap2(x).double().numpy(), expected)


def test_ap2_at_zero_and_around_the_square_root_of_two():
    below, above = np.float32(1.4142135), np.nextafter(np.float32(1.4142135), np.float32(2))
    assert float(below) ** 2 < 2 < float(above) ** 2
    got = ap2(torch.tensor([0.0, -0.0, float(below), float(above), 0.75, 3.0]))
    assert got.tolist() == [0.0, -0.0, 1.0, 2.0, 1.0, 4.0]
    with pytest.raises(TypeError, match="float16"):
        ap2(torch.ones(1, dtype=torch.float16))
