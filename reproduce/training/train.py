"""One run: Algorithm 1 on one cell with one seed, from data on the device to the result.

A Lightning batch is a block of steps, so that Lightning's own cost is spread over them and nothing waits for
the host within a block. All randomness of an epoch comes from (seed, epoch): a run that resumes at an epoch's
end continues exactly as if it had never stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback, Checkpoint
from torch import Tensor

from reproduce import nets, outcomes, spec
from reproduce.nets import tensorcores
from reproduce.training import checkpoint as checkpoints
from reproduce.training import optim
from reproduce.training.preprocess import DeviceData
from reproduce.training.step import Step

STEPS_PER_BLOCK = 50
EVAL_BATCH = 500
CHECKPOINT_SECONDS = 60.0
SPARE = 1.1  # the next epoch is expected to take at most this many times the longest of the last three
MEANT_SO = "|".join(  # Lightning's warnings about settings that are intended here
    (
        ".*does not have many workers.*",
        ".*`training_step` returned `None`.*",
        ".*is smaller than the logging.*",
        ".*GPU available but not used.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*`srun` command is available.*",
    )
)


def eval_batch(device: torch.device) -> int:
    """Images that are evaluated at once; more on a GPU, to reduce the number of launches."""
    return EVAL_BATCH if device.type == "cpu" else 4 * EVAL_BATCH


class Diverged(Exception):
    """A loss, parameter or moving average is not finite; carries the epoch (from 1) and the curve before it."""

    def __init__(self, epoch: int, what: str, curve: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__(f"{what} is not finite after epoch {epoch}")
        self.epoch, self.curve = epoch, list(curve)
        self.calls: list[dict[str, Any]] = []


class OutOfTime(Exception):
    """The next epoch would not have ended before the deadline; the run is saved after `epoch` (from 1)."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"out of time after epoch {epoch}")
        self.epoch = epoch


def seed_for(seed: int, purpose: str, epoch: int = 0) -> int:
    """A 63-bit seed that depends on all three."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Blocks:
    """Indices (n,) as blocks of up to STEPS_PER_BLOCK batches, the last incomplete batch dropped if asked."""

    def __init__(self, order: Tensor, batch: int, drop_incomplete: bool) -> None:
        self.steps = list(order.split(batch))
        if drop_incomplete and len(self.steps[-1]) < batch:
            self.steps.pop()

    def __len__(self) -> int:
        return math.ceil(len(self.steps) / STEPS_PER_BLOCK)

    def __iter__(self) -> Iterator[list[Tensor]]:
        for i in range(0, len(self.steps), STEPS_PER_BLOCK):
            yield self.steps[i : i + STEPS_PER_BLOCK]


class Classifier(L.LightningModule):
    """Trains `net` as `settings` say; the per-epoch curve and the best epoch are kept."""

    targets: Tensor
    loss_sum: Tensor

    def __init__(
        self,
        settings: spec.Settings,
        data: dict[str, DeviceData],
        seed: int,
        run: dict[str, str] | None = None,
        call: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.settings, self.data, self.seed = settings, data, seed
        torch.manual_seed(seed_for(seed, "init"))
        self.net = nets.build(settings)
        self.rule = optim.optimizer(self.net, settings.train)
        self.loss = spec.LOSSES[settings.train.loss]
        self.register_buffer("targets", 2 * torch.eye(settings.dataset.classes) - 1, persistent=False)
        self.register_buffer("loss_sum", torch.zeros((), dtype=torch.float64), persistent=False)
        self.run, self.call = run, call or {}
        self.calls = [self.call]
        self.curve: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.missed = ""
        self.seconds = 0.0
        self._since = time.perf_counter()
        self._step: Step | None = None
        self._signs: list[Tensor] = []
        self._started = False

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.net(x)
        return scores

    def configure_optimizers(self) -> Any:
        return self.rule

    # --- training: one epoch ---

    def train_dataloader(self) -> Blocks:
        shuffle = torch.Generator().manual_seed(seed_for(self.seed, "order", self.current_epoch))
        order = torch.randperm(len(self.data["train"]), generator=shuffle)
        order = order.to(self.data["train"].labels.device)
        return Blocks(order, self.settings.train.batch, self.settings.data.drop_incomplete)

    def on_train_epoch_start(self) -> None:
        train = self.settings.train
        self.rule.set_rate(optim.rate(train.rate, train.epochs, self.current_epoch))
        torch.manual_seed(seed_for(self.seed, "noise", self.current_epoch))
        self._started = False
        self.loss_sum.zero_()
        self._signs = [w.detach() >= 0 for w in self.rule.binary]

    @property
    def step(self) -> Step:
        """The training step, made at its first use: Lightning has then moved the net to its device."""
        if self._step is None:
            buffers = (self.targets, self.loss_sum)
            train = self.settings.train
            self._step = Step(self.net, self.rule, self.data["train"], *buffers, train.batch, train.loss)
        return self._step

    def training_step(self, block: list[Tensor], block_index: int) -> None:
        if not self._started:
            self.step.start(seed_for(self.seed, "noise", self.current_epoch))
            self._started = True
        for index in block:
            self.step(index)

    # --- evaluation ---

    def val_dataloader(self) -> list[int]:
        return [0]  # one call of validation_step, which processes the whole split

    def validation_step(self, _: Any, __: int) -> None:
        train, epoch = self.settings.train, self.current_epoch + 1
        steps = len(self.data["train"]) / train.batch
        steps = math.floor(steps) if self.settings.data.drop_incomplete else math.ceil(steps)
        row: dict[str, Any] = {
            "epoch": epoch,
            "rate": optim.rate(train.rate, train.epochs, self.current_epoch),
            "train_loss": float(self.loss_sum) / steps,
        }
        if not math.isfinite(row["train_loss"]):  # a step's NaN stays in the sum, which stays on the device
            raise Diverged(epoch, "the training loss", self.curve)
        for name, tensor in self.net.state_dict().items():
            if not bool(tensor.isfinite().all()):
                raise Diverged(epoch, name, self.curve)
        if weights := sum(signs.numel() for signs in self._signs):
            pairs = zip(self.rule.binary, self._signs, strict=True)
            row["flipped"] = sum(int(((w >= 0) != signs).sum()) for w, signs in pairs) / weights
        wrong, row["valid_loss"] = self.evaluate("valid")
        row["valid_wrong"] = int(wrong.sum())
        improved = not self.best or row["valid_wrong"] <= self.best["valid_wrong"]
        if improved or epoch == train.epochs:
            wrong, row["test_loss"] = self.evaluate("test")
            row["test_wrong"] = int(wrong.sum())
            self.missed = outcomes.pack(wrong.cpu().numpy())
        for name in ("valid_loss", "test_loss"):
            if not math.isfinite(row.get(name, 0.0)):
                raise Diverged(epoch, name, self.curve)
        if improved:  # ties go to the later epoch
            self.best = row | {
                "missed": self.missed,
                "net": {k: v.clone() for k, v in self.net.state_dict().items()},
            }
        now = time.perf_counter()
        row["seconds"] = now - self._since
        self.seconds += row["seconds"]
        self._since = now
        self.curve.append(row)
        self.log("valid error %", 100 * row["valid_wrong"] / self.scored("valid"), prog_bar=True, batch_size=1)

    def scored(self, split: str) -> int:
        """Number of images of a split that are scored: all, or those of the complete batches."""
        n, batch = len(self.data[split]), self.settings.train.batch
        return n - n % batch if self.settings.data.drop_incomplete else n

    @torch.no_grad()
    def evaluate(self, split: str) -> tuple[Tensor, float]:
        """Which images of a split are wrong (bool (n,), on its device) and its mean cost.

        Batch norm uses its moving averages.
        """
        data, n = self.data[split], self.scored(split)
        if self._step is not None:
            self._step.refresh()
        was_training = self.net.training
        self.net.eval()
        wrong = torch.zeros(n, dtype=torch.bool, device=data.labels.device)
        loss = torch.zeros((), dtype=torch.float64, device=data.labels.device)
        for index in torch.arange(n, device=data.labels.device).split(eval_batch(data.labels.device)):
            scores, labels = self._scores(data, index), data.labels[index]
            wrong[index] = scores.argmax(1) != labels
            loss += self.loss(scores, self.targets[labels]) * len(index)
        self.net.train(was_training)
        return wrong, float(loss) / n

    def _scores(self, data: DeviceData, index: Tensor) -> Tensor:
        """Scores (B, classes) of the images at `index`, by the engine if the training steps use it."""
        if self._step is not None and self._step.engine is not None:
            return torch.from_numpy(self._step.engine.scores(data, index))
        scores: Tensor = self.net(data.images(index))
        return scores

    # --- what a checkpoint holds in addition to Lightning's own content ---

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["run"] = {
            "curve": self.curve,
            "best": self.best,
            "seconds": self.seconds,
            "calls": self.calls,
            "of": self.identity(),
        }

    def identity(self) -> dict[str, str]:
        """What distinguishes this run from others (`records.PARTS`): a checkpoint with the same is resumed."""
        return self.run or {"settings": self.settings.digest(), "seed": str(self.seed)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        run = checkpoint["run"]
        self.curve, self.best, self.seconds = list(run["curve"]), run["best"], run["seconds"]
        self.calls = list(run["calls"])
        if self.calls[-1] != self.call:
            self.calls.append(self.call)


class EpochCheckpoint(Checkpoint):
    """Saves a checkpoint at the end of an epoch if the last one is at least `seconds` old.

    It is written to a temporary file, which is then renamed. With a `deadline` (of time.monotonic) it saves and
    stops the training if the next epoch would end later. The first epoch of a call is always made, so that calls
    with any time limit finish the run in the end.
    """

    def __init__(self, path: Path, seconds: float, deadline: float | None = None) -> None:
        self.path, self.seconds, self.deadline = path, seconds, deadline
        self.out_of_time = False
        self._epochs = 0
        self._saving = 0.0
        self._saved = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._epochs += 1
        if trainer.current_epoch + 1 == trainer.max_epochs:
            return
        now = time.monotonic()
        if self.deadline is not None and isinstance(module, Classifier):
            here = module.curve[-min(3, self._epochs) :]  # epochs of earlier calls may be another machine's
            longest = max(row["seconds"] for row in here)
            self.out_of_time = now + SPARE * longest + 2 * self._saving > self.deadline
        if now - self._saved < self.seconds and not self.out_of_time:
            return
        scratch = self.path.with_suffix(f".{os.getpid()}.tmp")
        try:
            trainer.save_checkpoint(scratch)
            with open(scratch, "rb") as file:
                os.fsync(file.fileno())
            os.replace(scratch, self.path)
        finally:
            scratch.unlink(missing_ok=True)  # a disk that is full is not filled further
        self._saved = time.monotonic()
        self._saving = self._saved - now
        trainer.should_stop = self.out_of_time


@dataclass(frozen=True)
class Outcome:
    """The result of a finished run: per-epoch rows, the best epoch's row, scored images, seconds, parameters."""

    curve: list[dict[str, Any]]
    best: dict[str, Any]
    missed: str
    """Test images that are wrong at the last epoch, as `outcomes.pack` writes them; `best` holds its own."""
    scored: dict[str, int]
    seconds: float
    weights: int
    parameters: int
    net: dict[str, Tensor]
    """state_dict of the best validation epoch."""
    calls: list[dict[str, Any]]
    """The argument `call` of each `fit` that trained the run, in order; equal ones in a row count once."""


def fit(
    settings: spec.Settings,
    data: dict[str, DeviceData],
    seed: int,
    checkpoint: Path,
    device: torch.device,
    callbacks: list[Callback] | None = None,
    bar: bool = False,
    say: Callable[[str], None] = lambda _: None,
    checkpoint_seconds: float | None = None,
    deadline: float | None = None,
    run: dict[str, str] | None = None,
    call: dict[str, Any] | None = None,
) -> Outcome:
    """Train a run to its end. Resumes from `checkpoint` if it is there, undamaged and of this run.

    `run` distinguishes this run from others (`records.PARTS`; by default settings and seed): a checkpoint of
    another run is set aside. `call` describes the code and the machine of this call (`machine.call`).
    `checkpoint_seconds`: how often a checkpoint is saved, by default CHECKPOINT_SECONDS.
    Raises Diverged; OutOfTime if the next epoch would not end before `deadline` (of time.monotonic);
    KeyboardInterrupt if Ctrl-C, SIGTERM or a callback stopped it early.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    if device.type == "cuda":
        tensorcores.full_precision()
    module = Classifier(settings, data, seed, run, call)
    sound = checkpoint.exists() and checkpoints.sound(checkpoint, module.identity(), say)
    resume = checkpoint if sound else None
    every = CHECKPOINT_SECONDS if checkpoint_seconds is None else checkpoint_seconds
    saver = EpochCheckpoint(checkpoint, every, deadline)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=MEANT_SO)
        trainer = L.Trainer(
            max_epochs=settings.train.epochs,
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            plugins=[LightningEnvironment()],  # one process, in a SLURM job too: requeueing is not Lightning's
            logger=False,
            enable_progress_bar=bar,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=1,
            default_root_dir=checkpoint.parent,
            callbacks=[*(callbacks or []), saver],
        )
        try:
            with contextlib.suppress(SystemExit), _own_ctrl_c():  # SystemExit: how Lightning ends on a signal
                trainer.fit(module, ckpt_path=resume, weights_only=True)
        except Diverged as failure:
            failure.calls = module.calls
            raise
    if len(module.curve) != settings.train.epochs:
        raise OutOfTime(len(module.curve)) if saver.out_of_time else KeyboardInterrupt
    return Outcome(
        curve=module.curve,
        best={k: v for k, v in module.best.items() if k != "net"},
        missed=module.missed,
        scored={part: module.scored(part) for part in ("valid", "test")},
        seconds=module.seconds,
        weights=nets.weight_count(module.net),
        parameters=sum(p.numel() for p in module.net.parameters()),
        net={k: v.cpu() for k, v in module.best["net"].items()},
        calls=module.calls,
    )


@contextlib.contextmanager
def _own_ctrl_c() -> Iterator[None]:
    """Put back the handler of Ctrl-C, which Lightning leaves switched off after an interrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
