"""A cell's training step on random images of the right sizes, to time or try it without its data."""

from __future__ import annotations

import math
import statistics
import time

import torch

from reproduce import spec
from reproduce.training import train
from reproduce.training.preprocess import DeviceData

SECONDS = 2.0
"""Least time that `Probe.step` measures."""
STEPS = 2
"""Steps of one timed turn."""


class Probe:
    """A cell's net on random images, with its training step."""

    def __init__(self, settings: spec.Settings, device: torch.device) -> None:
        self.batch, self.device = settings.train.batch, device
        self.data = _random_data(settings, max(self.batch, train.eval_batch(device)), device)
        parts = {"train": self.data, "valid": self.data, "test": self.data}
        self.module = train.Classifier(settings, parts, 0).to(device)
        self.module.on_train_epoch_start()

    def turn(self, count: int) -> float:
        """Seconds a step, measured over `count` steps."""
        blocks = [torch.randint(len(self.data), (self.batch,), device=self.device) for _ in range(count)]
        start = time.perf_counter()
        self.module.training_step(blocks, 0)
        return waited(self.device, start) / count

    def step(self) -> float:
        """Seconds a step: the median of turns of STEPS steps, after one step to warm up."""
        self.turn(1)
        taken: list[float] = []
        end = time.perf_counter() + SECONDS
        while len(taken) < 3 or time.perf_counter() < end:
            taken.append(self.turn(STEPS))
        return statistics.median(taken)


def _random_data(settings: spec.Settings, count: int, device: torch.device) -> DeviceData:
    """Random images: bytes if the cell's preprocessing keeps bytes (it is affine), else floats."""
    parts, image = settings.data, settings.dataset.planes
    rows = torch.randint(0, 256, (count, math.prod(image)), dtype=torch.uint8, device=device)
    affine = all(step.keeps_bytes for step in parts.preprocess)
    shape = () if settings.net.flat else image
    labels = torch.randint(settings.dataset.classes, (count,), device=device)
    shift = torch.full((), -1.0, device=device)
    return DeviceData(rows if affine else rows / 127.5 - 1, labels, shape, 1 / 127.5, shift)


def waited(device: torch.device, start: float) -> float:
    """Seconds since `start`, with all work of the device done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
