"""Progress of a campaign, and an estimate of the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import lightning as L
from lightning.pytorch.callbacks import Callback

from reproduce import spec
from reproduce.terminal import duration
from reproduce.training import train

Say = Callable[[str], None]


def cost(settings: spec.Settings) -> float:
    """Multiply-adds of a whole run; a backward pass counts as two forward ones."""
    images = settings.train.epochs * (3 * settings.data.train + settings.data.valid)
    overhead = 2e6  # per image, in multiply-adds: small nets are slower than their multiply-adds say
    return images * (settings.macs + overhead)


class Progress(Callback):
    """Overall progress and time left, a line every EVERY seconds (on a terminal, next to Lightning's own bar)."""

    EVERY = 15.0

    def __init__(self, costs: Sequence[float], say: Say, jobs: int = 1) -> None:
        self.costs, self.say, self.jobs = list(costs), say, jobs
        self.started = time.monotonic()
        self.done = 0.0
        self.position = 0
        self.begun = 0.0
        """Share of the present run's epochs that earlier calls have trained."""
        self.title = ""
        """Cell, scale and seed of the present run."""
        self._told = self.started

    def skip(self, position: int) -> None:
        """Run number `position` needs no work."""
        self.costs[position] = 0.0

    def resume(self, share: float) -> None:
        """The present run begins when `share` of its epochs are done: only the others cost time in this call."""
        self.costs[self.position] *= 1 - share
        self.begun = share

    def left(self, share: float = 0.0) -> str:
        """About how long the rest will take, when `share` of the present run's epochs are done."""
        share = (share - self.begun) / (1 - self.begun) if share else 0.0
        done = self.done + share * self.costs[self.position]
        spent = time.monotonic() - self.started
        if done <= 0:
            return "time left not known yet"
        rate = spent / done
        all_left = f"{duration(rate * (sum(self.costs) - done) / self.jobs)} left of all"
        if not share:
            return f"about {all_left}"
        return f"about {duration(rate * (1 - share) * self.costs[self.position])} left of the run, {all_left}"

    def finish(self, share: float = 1.0) -> None:
        """The present run has ended when `share` of its epochs were done: less than 1 if it failed."""
        self.costs[self.position] *= (share - self.begun) / (1 - self.begun) if self.begun < 1 else 1.0
        self.done += self.costs[self.position]

    def seconds(self, cost: float) -> float:
        """Estimated seconds for work of this cost, from the finished runs; 0 before the first."""
        return (time.monotonic() - self.started) * cost / self.done if self.done else 0.0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if isinstance(module, train.Classifier):
            self.resume(len(module.curve) / module.settings.train.epochs)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if time.monotonic() - self._told < self.EVERY or not isinstance(module, train.Classifier):
            return
        self._told = time.monotonic()
        row, epochs = module.curve[-1], module.settings.train.epochs
        error = 100 * row["valid_wrong"] / module.scored("valid")
        self.say(
            f"    {self.title}, epoch {row['epoch']}/{epochs}: cost {row['train_loss']:.4f}, "
            f"validation error {error:.2f} %; {self.left(row['epoch'] / epochs)}"
        )
