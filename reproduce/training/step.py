"""One training step, ready to be recorded: everything it reads and writes stays where it is, on the data's device.

On a CPU `engine.Engine` makes the step where the products' mode is fixed16 and it knows the net. On a GPU the
first steps of a run are made one operation after another, then one more is recorded as a CUDA graph, and all
others replay it: a step costs the host one launch and never waits for it. Any other step goes one operation after
another.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reproduce import nets, spec
from reproduce.nets import products, ways
from reproduce.training import engine, optim
from reproduce.training.cuda import without_autograd
from reproduce.training.optim import SGD, Adam, Rule, ShiftAdaMax
from reproduce.training.preprocess import DeviceData

EAGER_STEPS = 3  # before the recording: moments are made, libraries choose their ways


@spec.LOSSES.add("squared_hinge")
def squared_hinge(scores: Tensor, targets: Tensor) -> Tensor:
    """L2-SVM cost: mean over batch and classes of max(0, 1 - t·y)²; scores and ±1 targets (N, classes)."""
    return (1 - targets * scores).clamp(min=0).square().mean()


def unknown(net: nn.Module, rule: Rule, loss: str) -> str | None:
    """Why the engine cannot make the steps of such a run, in a few words; None if it can."""
    if rule.kernel is None or type(rule) not in (Adam, ShiftAdaMax, SGD):
        return f"an optimizer of the kind {type(rule).__name__}"
    if loss != "squared_hinge":
        return f"a loss of the kind {loss}"
    return engine.unknown(net)


def why_autograd(settings: spec.Settings) -> str | None:
    """Why a run's steps on a CPU must go through autograd, in a few words; None if the engine knows its net."""
    with torch.device("meta"):  # nothing is allocated, and no random number drawn
        net = nets.build(settings)
        return unknown(net, optim.optimizer(net, settings.train), settings.train.loss)


class Step:
    """Forward, loss, backward, update with clipping, and the cost's sum, on a batch of `data`.

    targets (classes, classes) holds a row of ±1 for each class; loss_sum is a scalar that each step's cost is
    added to; `loss` names one of `spec.LOSSES`, whose code takes scores and ±1 targets (N, classes).
    """

    def __init__(
        self,
        net: nn.Module,
        rule: Rule,
        data: DeviceData,
        targets: Tensor,
        loss_sum: Tensor,
        batch: int,
        loss: str = "squared_hinge",
    ) -> None:
        self.net, self.rule, self.data, self.targets = net, rule, data, targets
        self.loss_sum = loss_sum
        self._loss = spec.LOSSES[loss]
        self.index = torch.zeros(batch, dtype=torch.int64, device=data.labels.device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self._made = 0
        self.fused: without_autograd.NetStep | None = None
        if self.index.is_cuda and without_autograd.unknown(net, data, batch, loss) is None:
            self.fused = without_autograd.NetStep(net, data, loss_sum)  # type: ignore[arg-type]
        self.engine: engine.Engine | None = None
        self._seed = self._number = 0
        if not self.index.is_cuda and products.mode() == "fixed16":
            if unknown(net, rule, loss) is None:
                self.engine = engine.Engine(net, rule, batch)  # type: ignore[arg-type]

    def start(self, seed: int) -> None:
        """Before an epoch's first step; the seed is that of the engine's noise."""
        self._seed, self._number = seed, 0
        self.refresh()

    def refresh(self) -> None:
        """Takes net and optimizer as they now are, in case that others changed them."""
        if self.engine is not None:
            self.engine.refresh()

    def __call__(self, index: Tensor) -> None:
        """A step on the images at `index` (B,); one of another size than the others is made eagerly."""
        if self.engine is not None:
            self.loss_sum += self.engine.step(self.data, index, self._seed, self._number)
            self._number += 1
            return
        if len(index) != len(self.index):
            self.eager(index)
            return
        self.index.copy_(index, non_blocking=True)
        if not self.index.is_cuda or not ways.uses("graph"):
            self.eager(self.index)
        elif self.graph is not None:
            self.graph.replay()
        elif self._made < EAGER_STEPS:
            self._made += 1
            self._aside()
        else:
            self._record()
            self.graph.replay()  # type: ignore[attr-defined]

    def cost(self, scores: Tensor, targets: Tensor) -> Tensor:
        """The loss (a scalar) of scores against rows of ±1 targets, both (N, classes)."""
        found: Tensor = self._loss(scores, targets)
        return found

    def eager(self, index: Tensor) -> None:
        """The step, operation by operation."""
        if self.fused is not None:
            self.fused(index)
            self.rule.step()
            return
        loss = self.cost(self.net(self.data.images(index)), self.targets[self.data.labels[index]])
        self.rule.zero_grad()
        loss.backward()
        self.rule.step()
        self.loss_sum += loss.detach()

    def _aside(self) -> None:
        """An eager step on a stream of its own, as a recording asks for beforehand."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self.eager(self.index)
        torch.cuda.current_stream().wait_stream(side)

    def _record(self) -> None:
        """Record a step; nothing is computed."""
        self.rule.zero_grad()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.eager(self.index)
        self.graph = graph
