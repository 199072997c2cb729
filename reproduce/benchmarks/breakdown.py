"""How the time of a training step is divided among its parts, by timers around them.

The step that is measured is `train.Classifier.training_step` itself, not a copy: its parts are timed by hooks on
the net's modules and on the gradients between them. CPU only: timers on the host do not measure a GPU's work.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from kernels import reals
from kernels.cpu.step import fixed, norm
from reproduce import spec
from reproduce.nets import layers, products
from reproduce.nets.layers import BinaryConv2d, BinaryLinear
from reproduce.training import engine, fused, preprocess, step, train

GATHER, LOSS, REST = "data gather", "loss", "rest"
PRODUCTS, PRODUCTS_BACK = "linear and conv, forward", "linear and conv, backward"
BINARIZATION = "signs of weights and inputs"
NORMS, ACTIVATIONS = "batch norm, forward", "activation, dropout, pooling, forward"
BETWEEN_BACK = "batch norm, activation, dropout, pooling, backward"
OPTIMIZER = "update and clipping"
# of a step without autograd
BETWEEN = "batch norm, activation, dropout, pooling, forward"
INPUTS_BACK = "gradients of inputs"
UPDATES = "gradients of weights, update, clipping, signs"


class Stopwatch:
    """Seconds by part. Parts may be nested; time counts for the innermost one only."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    def _charge(self) -> None:
        now = time.perf_counter()
        if self._open:
            part = self._open[-1]
            self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now

    def enter(self, part: str) -> None:
        self._charge()
        self._open.append(part)

    def leave(self, part: str) -> None:
        """End `part` if it is the innermost one; RuntimeError if it is not."""
        self._charge()
        if not self._open or self._open.pop() != part:
            raise RuntimeError(f"parts of a step overlap at {part!r}")

    def inside(self, part: str) -> bool:
        return bool(self._open) and self._open[-1] == part

    def around(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **named: Any) -> Any:
            self.enter(part)
            try:
                return call(*args, **named)
            finally:
                # a first layer has no gradient of its input, whose hook would end the part
                if part == BETWEEN_BACK and self.inside(PRODUCTS_BACK):
                    self.leave(PRODUCTS_BACK)
                self.leave(part)

        return timed


def of_step(module: train.Classifier, blocks: list[list[Tensor]]) -> dict[str, float]:
    """Seconds a step of each part: the median over `blocks` (lists of batches' indices) without the first."""
    found: list[dict[str, float]] = []
    with _watched(module) as watch:
        for number, block in enumerate(blocks):
            watch.seconds = {}
            watch.enter(REST)
            module.training_step(block, number)
            watch.leave(REST)
            found.append({part: seconds / len(block) for part, seconds in watch.seconds.items()})
    expected = (
        {PRODUCTS, PRODUCTS_BACK, OPTIMIZER} if module.step.engine is None else {PRODUCTS, INPUTS_BACK, UPDATES}
    )
    if not expected <= found[-1].keys():
        raise RuntimeError("the step does not go through the layers and the optimizer any more")
    parts = [*(p for p in found[-1] if p != REST), REST]
    return {part: statistics.median(one.get(part, 0.0) for one in found[1:]) for part in parts}


@contextlib.contextmanager
def _watched(module: train.Classifier) -> Iterator[Stopwatch]:
    """A stopwatch connected to the parts of `module`'s step. At the end all hooks are removed."""
    watch = Stopwatch()
    if module.step.engine is not None:
        with contextlib.ExitStack() as stack:
            for owner, name, part in (
                (engine.Engine, "_input", GATHER),
                *((kind, "forward", PRODUCTS) for kind in (fused.Linear, fused.Convolution)),
                *((kind, "to_input", INPUTS_BACK) for kind in (fused.Linear, fused.Convolution)),
                *((kind, "update", UPDATES) for kind in (fused.Linear, fused.Convolution)),
                (fixed, "update_from", UPDATES),
                (norm.Norm, "statistics", BETWEEN),
                (norm.Norm, "forward", BETWEEN),
                (norm, "pool", BETWEEN),
                (norm.Norm, "backward", BETWEEN_BACK),
                (norm, "unpool", BETWEEN_BACK),
            ):
                stack.enter_context(patch.object(owner, name, watch.around(part, getattr(owner, name))))
            yield watch
        return
    with contextlib.ExitStack() as stack:
        for place, name, part in (
            (preprocess.DeviceData, "images", GATHER),
            (step.Step, "cost", LOSS),
            (products, "binarize_weight", BINARIZATION),
            (reals, "signs", BINARIZATION),
            (reals, "ternary", BINARIZATION),
            (torch.Tensor, "backward", BETWEEN_BACK),
            (module.rule, "step", OPTIMIZER),
            (module.rule, "zero_grad", OPTIMIZER),
        ):
            stack.enter_context(patch.object(place, name, watch.around(part, getattr(place, name))))
        for part, found in (
            (ACTIVATIONS, [module.net]),
            (PRODUCTS, [m for m in module.net.modules() if isinstance(m, BinaryLinear | BinaryConv2d)]),
            (NORMS, [m for m in module.net.modules() if isinstance(m, layers.Norm)]),
        ):
            for one in found:
                stack.enter_context(_timed(watch, one, part))
        yield watch


@contextlib.contextmanager
def _timed(watch: Stopwatch, module: nn.Module, part: str) -> Iterator[None]:
    """Time `module`'s forward as `part`. A layer's backward is timed from its output's gradient to its input's."""
    products = part == PRODUCTS

    def before(_: nn.Module, given: tuple[Tensor]) -> None:
        if products and given[0].requires_grad:
            given[0].register_hook(lambda _: watch.leave(PRODUCTS_BACK))
        watch.enter(part)

    def after(_: nn.Module, __: tuple[Tensor], out: Tensor) -> None:
        watch.leave(part)
        if products:
            out.register_hook(lambda _: watch.enter(PRODUCTS_BACK))

    handles = [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def of_lightning(
    settings: spec.Settings, data: preprocess.DeviceData, step_seconds: float, blocks: int, epochs: int
) -> dict[str, Any]:
    """Lightning's own time in `train.fit`, and its share of an epoch of the cell.

    It is the time between two blocks of an epoch, and between the last block of an epoch and the first of the
    next, without the evaluation. Neither depends on the steps of a block, so here a block has one step.
    """
    batch = settings.train.batch
    few = preprocess.DeviceData(
        data.rows[: batch * blocks], data.labels[: batch * blocks], data.shape, data.scale, data.shift
    )
    if len(few) < batch * blocks:
        raise ValueError(f"{blocks} batches of {batch} need more than {len(data)} images")
    short = settings.model_copy(update={"train": settings.train.model_copy(update={"epochs": epochs})})
    spans: list[tuple[str, float, float]] = []

    def noted(kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> None:
            start = time.perf_counter()
            call(*args)
            spans.append((kind, start, time.perf_counter()))

        return timed

    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        stack.enter_context(patch.object(train, "STEPS_PER_BLOCK", 1))
        for name in ("training_step", "validation_step"):
            call = noted(name, getattr(train.Classifier, name))
            stack.enter_context(patch.object(train.Classifier, name, call))
        parts = {"train": few, "valid": few, "test": few}
        train.fit(short, parts, 0, Path(folder) / "none.ckpt", torch.device("cpu"), checkpoint_seconds=1e9)
    steps = [end - start for kind, start, end in spans if kind == "training_step"]
    a_block: list[float] = []
    an_epoch: list[float] = []
    evaluation, last = 0.0, None
    for kind, start, end in spans:
        if kind == "validation_step":
            evaluation += end - start
            continue
        if last is not None:
            (an_epoch if evaluation else a_block).append(start - last - evaluation)
        last, evaluation = end, 0.0
    per_epoch = settings.data.train // batch
    per_block = statistics.median(a_block)
    between = statistics.median(an_epoch)
    own = -(-per_epoch // train.STEPS_PER_BLOCK) * per_block + between
    return {
        "seconds_a_block": per_block,
        "seconds_an_epoch": between,
        "steps_a_block": train.STEPS_PER_BLOCK,
        "steps_an_epoch": per_epoch,
        "step_in_fit_seconds": statistics.median(steps),
        "share_of_step": own / (per_epoch * step_seconds),
    }
