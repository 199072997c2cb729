"""Sizes, order of operations and initialisation of the paper's nets."""

import math

import numpy as np
import pytest
import torch
from made import convnet_settings, settings

from reproduce import nets, spec

COUNTS = {
    "bnn-theano-mnist": (36_806_656, None),
    "bnn-torch7-mnist": (10_014_720, None),
    "bnn-theano-cifar10": (14_022_016, 14_033_566),
    "bnn-torch7-cifar10": (14_022_016, 14_033_566),
    "bnn-theano-svhn": (6_397_632, 6_406_494),
    "bnn-torch7-svhn": (6_397_632, 6_406_494),
    "float-cifar10": (14_022_016, 14_033_566),
    "binaryconnect-svhn": (6_397_632, 6_406_494),
}


@pytest.mark.parametrize("name", COUNTS)
def test_weights_and_parameters_are_the_papers(name):
    (cell,) = spec.cells([f"table1/{name}"])
    net = nets.build(cell.scales["paper"])
    weights, parameters = COUNTS[name]
    assert nets.weight_count(net) == weights
    if parameters:
        assert sum(p.numel() for p in net.parameters()) == parameters


def test_multiply_adds():
    (mnist,), (cifar,) = spec.cells(["table1/bnn-theano-mnist"]), spec.cells(["table1/bnn-theano-cifar10"])
    assert mnist.scales["paper"].macs == 36_806_656
    assert 616e6 < cifar.scales["paper"].macs < 618e6


def test_binary_activations_between_layers_and_none_at_the_output():
    torch.manual_seed(0)
    net = nets.build(settings(net={"dropout_in": 0.0, "dropout_hidden": 0.0}))
    seen = []
    for block in net.blocks:
        block.register_forward_hook(lambda _, __, out: seen.append(out.detach()))
    net(torch.rand(50, 784) * 2 - 1)
    assert [set(h.unique().tolist()) for h in seen[:-1]] == [{-1.0, 1.0}] * 2
    assert seen[-1].shape == (50, 10) and seen[-1].unique().numel() > 100


def test_dropout_is_inverted_so_kept_units_become_plus_or_minus_two():
    torch.manual_seed(0)
    net = nets.build(settings(net={"dropout_in": 0.0, "dropout_hidden": 0.5}))
    out = net.blocks[0](torch.rand(200, 784))
    assert set(out.unique().tolist()) == {-2.0, 0.0, 2.0}
    net.eval()
    assert set(net.blocks[0](torch.rand(200, 784)).unique().tolist()) == {-1.0, 1.0}


def test_stochastic_activation_is_deterministic_in_evaluation():
    torch.manual_seed(0)
    net = nets.build(settings(net={"activation": "stochastic_sign", "dropout_in": 0.0}))
    x = torch.rand(20, 784)
    assert not torch.equal(net.blocks[0](x), net.blocks[0](x))
    net.eval()
    assert torch.equal(net(x), net(x))


def test_convnet_pools_before_the_norm_and_in_every_second_convolution():
    net = nets.build(convnet_settings())
    assert [b.pool for b in net.blocks] == [False, True, False, True, False, False]
    block = net.blocks[1]
    torch.manual_seed(0)
    x = torch.where(torch.rand(3, 4, 8, 8) < 0.5, -1.0, 1.0)
    block.eval()
    with torch.no_grad():
        block.norm.weight[::2] = -1.0  # a norm with negative gamma does not commute with the maximum
    pre = block.layer(x).detach().numpy()
    pooled = pre.reshape(3, 4, 4, 2, 4, 2).max((3, 5))
    scale = (block.norm.inv_std * block.norm.weight).detach().numpy()[None, :, None, None]
    np.testing.assert_array_equal(block(x).detach().numpy(), np.where(pooled * scale >= 0, 1, -1))


@pytest.mark.parametrize("init", ["uniform", "uniform_2", "glorot"])
def test_initial_weights_and_biases(init):
    torch.manual_seed(0)
    net = nets.build(settings(net={"init": init, "bias_init": "uniform", "hidden": [64]}))
    layer = net.blocks[0].layer
    bound = {"uniform": 1.0, "uniform_2": 2.0, "glorot": math.sqrt(6 / (784 + 64))}[init]
    assert layer.weight.abs().max() >= 0.99 * bound
    assert layer.weight.abs().max() <= bound
    assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert layer.bias.abs().max() <= 1 / 28 and layer.bias.std() > 0
    zero = nets.build(settings())
    assert zero.blocks[0].layer.bias.abs().max() == 0
