"""One training step. What it reads and writes keeps its memory address, so that a CUDA graph can record it.

On a CPU `engine.Engine` makes the step, if the mode is fixed16 (`products.mode`) and the engine supports the net.
On a GPU the first steps of a run are eager: one operation after another. Then a step is recorded as a CUDA graph,
and all others replay it: the host makes one launch for a step and does not wait. All other steps are eager.
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

EAGER_STEPS = 3  # before the recording: they allocate the moments, and libraries choose their algorithms


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
    """Why a run's steps on a CPU must go through autograd, in a few words; None if the engine can make them."""
    with torch.device("meta"):  # nothing is allocated, and no random number drawn
        net = nets.build(settings)
        return unknown(net, optim.optimizer(net, settings.train), settings.train.loss)


class Step:
    """Forward, loss, backward and update with clipping, on a batch of `data`.

    targets (classes, classes) holds a row of ±1 for each class. Each step adds its cost to the scalar loss_sum.
    `loss` names one of `spec.LOSSES`, which takes scores and ±1 targets (N, classes).
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
        """Call before an epoch's first step. `seed`: of the engine's random numbers."""
        self._seed, self._number = seed, 0
        self.refresh()

    def refresh(self) -> None:
        """Call after other code has changed the net or the optimizer."""
        if self.engine is not None:
            self.engine.refresh()

    def __call__(self, index: Tensor) -> None:
        """A step on the images at `index` (B,). A batch of another size than `batch` is an eager step."""
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
        """An eager step: one operation after another."""
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
        """An eager step on a separate stream, which CUDA graphs require before a recording."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self.eager(self.index)
        torch.cuda.current_stream().wait_stream(side)

    def _record(self) -> None:
        """Record a step as a CUDA graph without computing it."""
        self.rule.zero_grad()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.eager(self.index)
        self.graph = graph
