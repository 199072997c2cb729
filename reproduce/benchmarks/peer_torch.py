"""The benchmark's peer: a plain PyTorch training loop, written the way public ports of the paper are.

An autograd function binarizes with the straight-through mask, the layers are torch's with their weights
binarized in `forward`, torch's BatchNorm and Adam with default settings do the rest, and a Python loop clamps
layer by layer. It shares no code with the nets, layers and update rules that it is timed against. Its step is the
same mathematics, but for Adam's eps (1e-8), which torch adds after the bias correction and Lasagne before; and
torch's BatchNorm keeps a moving variance for evaluation, where ours keeps one of 1/std.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reproduce import spec


class Sign(torch.autograd.Function):
    """sign with sign(0) = +1; backward the straight-through estimator, masked or not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, masked: bool) -> Tensor:
        ctx.masked = masked
        if masked:
            ctx.save_for_backward(x)
        return x.sign().add_(0.1).sign_()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        if ctx.masked:
            (x,) = ctx.saved_tensors
            grad = grad * (x.abs() <= 1)
        return grad, None


class Activation(nn.Module):
    """±1 activations."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = Sign.apply(x, True)
        return y


class Linear(nn.Linear):
    """torch's Linear on sign(weight)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, Sign.apply(self.weight, False), self.bias)


class Conv2d(nn.Conv2d):
    """torch's Conv2d on sign(weight)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, Sign.apply(self.weight, False), self.bias, padding=self.padding)


def plain_net(settings: spec.Settings) -> nn.Sequential:
    """x (N, pixels) or (N, C, H, W) -> scores (N, classes): a net of these settings, of the modules above."""
    net = settings.net
    assert isinstance(net, spec.MLPNet | spec.ConvNet)
    eps, alpha = net.norm.eps, net.norm.alpha
    parts: list[nn.Module] = [nn.Dropout(net.dropout_in)] if isinstance(net, spec.MLPNet) else []
    *hidden, last = settings.layers()
    for layer in hidden:
        if layer.kernel > 1:
            parts.append(Conv2d(layer.inputs, layer.outputs, layer.kernel, padding=layer.kernel // 2))
            parts += [nn.MaxPool2d(2)] if layer.pool else []
            parts.append(nn.BatchNorm2d(layer.outputs, eps, alpha))
        else:
            parts += [nn.Flatten(), Linear(layer.inputs, layer.outputs), nn.BatchNorm1d(layer.outputs, eps, alpha)]
        parts.append(Activation())
        parts += [nn.Dropout(net.dropout_hidden)] if isinstance(net, spec.MLPNet) else []
    parts += [Linear(last.inputs, last.outputs), nn.BatchNorm1d(last.outputs, eps, alpha)]
    return nn.Sequential(*parts)


class Peer:
    """The net of a BNN cell with deterministic signs, vanilla BN and Adam; `step` trains it on one batch."""

    def __init__(self, settings: spec.Settings, rate: float, memory_format: torch.memory_format) -> None:
        net, rule = settings.net, settings.train.optimizer
        assert isinstance(net, spec.MLPNet | spec.ConvNet)
        known = (net.weights, net.activation, net.norm.kind) == ("binary", "sign", "vanilla")
        if not known or not isinstance(rule, spec.AdamRule):
            raise ValueError("the peer knows BNN cells with deterministic signs, vanilla BN and Adam")
        self.memory_format = memory_format
        self.net = plain_net(settings).to(memory_format=memory_format)
        self.layers = [m for m in self.net if isinstance(m, Linear | Conv2d)]
        groups: list[dict[str, Any]] = []
        for layer in self.layers:
            fans = layer.weight[0].numel() + len(layer.weight) * layer.weight[0, 0].numel()
            groups.append({"params": [layer.weight], "lr": rate * math.sqrt(fans / 1.5)})
            nn.init.uniform_(layer.weight, -1, 1)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        weights = {id(layer.weight) for layer in self.layers}
        groups.append({"params": [p for p in self.net.parameters() if id(p) not in weights]})
        self.optimizer = torch.optim.Adam(groups, lr=rate, betas=(rule.beta1, rule.beta2))

    def step(self, x: Tensor, labels: Tensor) -> Tensor:
        """One step on images x (N, …) and labels (N,); the loss."""
        x = x.contiguous(memory_format=self.memory_format) if x.dim() == 4 else x
        targets = 2 * F.one_hot(labels, 10).to(x.dtype) - 1
        loss = F.relu(1 - targets * self.net(x)).pow(2).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        for layer in self.layers:
            layer.weight.data.clamp_(-1, 1)
        return loss
