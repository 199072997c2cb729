"""Layers against plain NumPy written from the paper's algorithms."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from made import convnet_settings, settings
from twin import ap2

from reproduce import nets
from reproduce.nets import products, tensorcores
from reproduce.nets.layers import (
    BatchNorm,
    BinaryConv2d,
    BinaryLinear,
    ShiftBatchNorm,
    StdBatchNorm,
    lr_multiplier,
)


def columns(x):
    """(N, C) or (N, C, H, W) -> (N·H·W, C)."""
    return np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])


def np_shift_norm(x, gamma, beta, eps, g):
    """Forward and backward of shift-based BN on columns (M, C), from the algorithm and the Torch7 code's rules."""
    m = len(x)
    c = x - x.sum(0) / m
    c2 = ap2(c)
    inv = 1 / np.sqrt((c * c2).sum(0) / m + eps)
    inv2, gamma2 = ap2(inv), ap2(gamma)
    xhat = c * inv2
    y = gamma2 * xhat + beta
    gx = (g - g.sum(0) / m - c2 * inv2**2 * ((c2 * g).sum(0) / m)) * inv2 * gamma2
    return y, gx, (ap2(xhat) * g).sum(0), g.sum(0), inv


@pytest.mark.parametrize("shape", [(50, 7), (6, 5, 4, 3)])
def test_shift_batch_norm_forward_and_backward(shape):
    torch.manual_seed(1)
    x = (3 * torch.randn(shape, dtype=torch.float64) + 1).requires_grad_()
    norm = ShiftBatchNorm(shape[1]).double()
    with torch.no_grad():
        norm.weight.uniform_(-3, 3)
        norm.bias.uniform_(-1, 1)
    g = torch.randn(shape, dtype=torch.float64)
    y = norm(x)
    y.backward(g)
    expected = np_shift_norm(
        columns(x.detach().numpy()),
        norm.weight.detach().numpy(),
        norm.bias.detach().numpy(),
        1e-5,
        columns(g.numpy()),
    )
    np.testing.assert_allclose(columns(y.detach().numpy()), expected[0], rtol=1e-12)
    np.testing.assert_allclose(columns(x.grad.numpy()), expected[1], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(norm.weight.grad.numpy(), expected[2], rtol=1e-10)
    np.testing.assert_allclose(norm.bias.grad.numpy(), expected[3], rtol=1e-10)
    np.testing.assert_allclose(norm.inv_std.numpy(), 0.125 * expected[4], rtol=1e-12)


def test_shift_batch_norm_in_evaluation_uses_ap2_of_the_moving_inverse_std():
    torch.manual_seed(0)
    norm = ShiftBatchNorm(4)
    for _ in range(200):
        norm(torch.randn(64, 4) * torch.tensor([1.0, 3.0, 10.0, 0.2]) + 5)
    norm.eval()
    x = torch.randn(10, 4)
    expected = (x.numpy() - norm.mean.numpy()) * ap2(norm.inv_std.numpy())
    np.testing.assert_allclose(norm(x).detach().numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(norm.inv_std.numpy(), [1, 1 / 3, 0.1, 5], rtol=0.15)


@pytest.mark.parametrize("shape", [(40, 6), (5, 6, 4, 4)])
def test_vanilla_batch_norm_tracks_the_inverse_std_not_the_variance(shape):
    torch.manual_seed(2)
    norm = BatchNorm(6, eps=1e-4, alpha=0.1)
    mean, inverse = np.zeros(6), np.ones(6)
    for _ in range(3):
        x = torch.randn(shape) * 4 + 2
        y = norm(x)
        flat = columns(x.double().numpy())
        inv = 1 / np.sqrt(flat.var(0) + 1e-4)
        np.testing.assert_allclose(columns(y.detach().numpy()), (flat - flat.mean(0)) * inv, atol=2e-5)
        mean += 0.1 * (flat.mean(0) - mean)
        inverse += 0.1 * (inv - inverse)
    np.testing.assert_allclose(norm.mean.numpy(), mean, rtol=1e-5)
    np.testing.assert_allclose(norm.inv_std.numpy(), inverse, rtol=1e-5)
    norm.eval()
    x = torch.randn(shape)
    expected = (columns(x.numpy()) - mean) * inverse
    np.testing.assert_allclose(columns(norm(x).detach().numpy()), expected, atol=1e-5)


def test_vanilla_batch_norm_gradient():
    torch.manual_seed(3)
    norm = BatchNorm(3).double()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
    x = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: norm(t), (x,))


@pytest.mark.parametrize("shape", [(41, 7), (5, 7, 3, 4)])
def test_batch_norm_with_eps_on_the_std_averages_the_std(shape):
    torch.manual_seed(5)
    norm = StdBatchNorm(7, eps=0.25, alpha=0.15).double()  # large, so that a wrong place of it would be noticed
    with torch.no_grad():
        norm.weight.uniform_(-2, 2)
        norm.bias.uniform_(-1, 1)
    gamma, beta = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    mean, std = np.zeros(7), np.ones(7)
    for _ in range(3):
        x = torch.randn(shape, dtype=torch.float64) * torch.linspace(0.1, 3, 7).view(-1, *[1] * (len(shape) - 2))
        y = norm(x)
        flat = columns(x.numpy())
        now = flat.std(0)
        expected = (flat - flat.mean(0)) / (now + 0.25) * gamma + beta
        np.testing.assert_allclose(columns(y.detach().numpy()), expected, rtol=1e-12, atol=1e-12)
        mean += 0.15 * (flat.mean(0) - mean)
        std += 0.15 * (now - std)
    np.testing.assert_allclose(norm.mean.numpy(), mean, rtol=1e-12)
    np.testing.assert_allclose(norm.std.numpy(), std, rtol=1e-12)
    norm.eval()
    x = torch.randn(shape, dtype=torch.float64)
    expected = (columns(x.numpy()) - mean) / (std + 0.25) * gamma + beta
    np.testing.assert_allclose(columns(norm(x).detach().numpy()), expected, rtol=1e-12, atol=1e-12)


def test_gradient_of_batch_norm_with_eps_on_the_std():
    torch.manual_seed(6)
    norm = StdBatchNorm(3, eps=0.25).double()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
    x = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t, *_: norm(t), (x, norm.weight, norm.bias))


def test_a_unit_that_never_changes_has_a_finite_gradient():
    norm = StdBatchNorm(2, eps=1e-4)
    x = torch.tensor([[3.0, 1.0], [3.0, 2.0], [3.0, 5.0]], requires_grad=True)
    g = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, -1.0]])
    norm(x).backward(g)
    np.testing.assert_allclose(x.grad[:, 0].numpy(), (g[:, 0].numpy() - 1 / 3) / 1e-4, rtol=1e-5)
    assert norm.weight.grad[0] == 0 and bool(x.grad.isfinite().all())


def test_convolution_pads_with_zeros_so_borders_are_ternary():
    torch.manual_seed(4)
    conv = BinaryConv2d(3, 2)
    x = torch.where(torch.rand(2, 3, 5, 6) < 0.5, -1.0, 1.0)
    got = conv(x).detach().numpy()
    w = np.where(conv.weight.detach().numpy() >= 0, 1, -1)
    expected = np.zeros((2, 2, 5, 6))
    for n, o, i, j in np.ndindex(expected.shape):
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                if 0 <= i + di < 5 and 0 <= j + dj < 6:
                    expected[n, o, i, j] += (x[n, :, i + di, j + dj].numpy() * w[o, :, di + 1, dj + 1]).sum()
    expected += conv.bias.detach().numpy()[None, :, None, None]
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert conv(torch.ones(1, 3, 4, 4)).unique().numel() > 1


def test_binary_linear_uses_signs_forward_and_passes_the_gradient_to_the_latent_weight():
    layer = BinaryLinear(5, 4)
    with torch.no_grad():
        layer.weight[0, 0] = 0.0
    x = torch.randn(7, 5, requires_grad=True)
    y = layer(x)
    wb = np.where(layer.weight.detach().numpy() >= 0, 1.0, -1.0)
    np.testing.assert_allclose(
        y.detach().numpy(), x.detach().numpy() @ wb.T + layer.bias.detach().numpy(), atol=1e-5
    )
    g = torch.randn(7, 4)
    y.backward(g)
    np.testing.assert_allclose(layer.weight.grad.numpy(), g.numpy().T @ x.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(x.grad.numpy(), g.numpy() @ wb, atol=1e-5)


def test_multipliers_of_the_papers_nets():
    mnist = [784, 4096, 4096, 4096, 10]
    got = [lr_multiplier(BinaryLinear(a, b)) for a, b in pairwise(mnist)]
    assert [round(m, 2) for m in got] == [57.04, 73.90, 73.90, 52.32]
    channels = [3, 128, 128, 256, 256, 512, 512]
    got = [lr_multiplier(BinaryConv2d(a, b)) for a, b in pairwise(channels)]
    got += [lr_multiplier(BinaryLinear(a, b)) for a, b in ((8192, 1024), (1024, 1024), (1024, 10))]
    assert [round(m, 1) for m in got] == [28.0, 39.2, 48.0, 55.4, 67.9, 78.4, 78.4, 37.0, 26.3]
    assert math.isclose(got[7], 36.95, abs_tol=0.005)


@pytest.mark.parametrize("signs_in", [True, False])
@pytest.mark.parametrize("case", ["linear", "conv"])
def test_tensor_core_products_have_the_gradients_of_torchs_own(case, signs_in):
    """The function for a GPU, run on the CPU, where both of its precisions are float32."""
    torch.manual_seed(2)
    shapes = {"linear": ((9, 33), (17, 33)), "conv": ((4, 5, 7, 6), (3, 5, 3, 3))}
    x, w = (torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes[case])
    b = torch.randn(len(w), dtype=torch.float64).requires_grad_()
    plain = products.binary_linear if case == "linear" else products.binary_conv2d
    wanted = plain(x, w, b, signs_in)
    found = tensorcores._TensorCores.apply(x, w, b, signs_in)
    torch.testing.assert_close(found, wanted)
    g = torch.randn_like(wanted)
    for one, other in zip(
        torch.autograd.grad(found, (x, w, b), g), torch.autograd.grad(wanted, (x, w, b), g), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_precision_is_restored_also_after_an_error():
    before = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
    with pytest.raises(RuntimeError), tensorcores.precision(True):
        assert torch.backends.cuda.matmul.fp32_precision == torch.backends.cudnn.conv.fp32_precision == "tf32"
        raise RuntimeError
    assert (torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision) == before


def test_inputs_that_tensor_cores_multiply_exactly():
    def marks(s):
        return [block.layer.signs_in for block in nets.build(s).blocks]

    assert marks(settings(net={"dropout_hidden": 0.5})) == [False, True, True]
    assert marks(settings(net={"dropout_hidden": 0.3})) == [False, False, False]  # 1 / 0.7 is rounded
    assert marks(settings(net={"dropout_hidden": 0.0, "activation": "relu"})) == [False, False, False]
    assert not any(marks(convnet_settings())[:1]) and all(marks(convnet_settings())[1:])
