"""`reproduce run --plan`: the time and memory that runs will take on this device, from a few steps of each cell.

The steps are made on random images of the right sizes: no data set is fetched or preprocessed.
"""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Column, Table

from reproduce import spec
from reproduce.campaign import checkpoints, gpu_trial, parallel
from reproduce.campaign.probe import Probe, waited
from reproduce.campaign.wanted import Wanted
from reproduce.datasets import data, fetch
from reproduce.identity import Device
from reproduce.records import machine, runs, stem_of
from reproduce.terminal import console, duration

Say = Callable[[str], None]


@dataclass(frozen=True)
class Estimate:
    """One cell's cost on this device: seconds and bytes. `left`: epochs of the wanted runs not yet trained."""

    name: str
    epochs: int
    step: float
    epoch: float
    wanted: int
    finished: int
    left: int
    memory: int | None
    """Peak of the process (CPU) or of torch on the GPU, data set included; None where the system does not say."""
    jobs: int = 1
    at_once: float | None = None
    """Seconds a step while `jobs` processes train at once; None for one process, or if that many do not run."""

    @property
    def gain(self) -> float:
        """Steps a second of `jobs` processes together, relative to one process alone."""
        return 1.0 if self.at_once is None else self.jobs * self.step / self.at_once

    @property
    def whole(self) -> float:
        return self.epoch * self.epochs * self.wanted / self.gain

    @property
    def remaining(self) -> float:
        return self.epoch * self.left / self.gain


def estimates(
    plan: Sequence[Wanted],
    store: runs.Store,
    data_folder: Path | None,
    device: torch.device,
    say: Say,
    number: int = 1,
    threads: int | None = None,
) -> list[Estimate]:
    """One estimate for each cell of the plan, in order; `number` processes at once with `threads` threads each."""
    cells: dict[str, list[Wanted]] = {}
    for item in plan:
        cells.setdefault(item.cell.name, []).append(item)
    datasets: dict[str, data.Dataset | None] = {}
    found = []
    for name, items in cells.items():
        settings = items[0].settings
        say(f"{name}: a few steps")
        with items[0].environment():
            step, epoch, memory = measured(settings, device)
            at_once = _at_once(settings, device, number, threads, say) if number > 1 else None
            made = [_epochs_made(item, store, data_folder, datasets, device.type) for item in items]
        epochs = settings.train.epochs
        finished = sum(one == epochs for one in made)
        left = sum(epochs - one for one in made)
        found.append(Estimate(name, epochs, step, epoch, len(items), finished, left, memory, number, at_once))
    return found


def _at_once(
    settings: spec.Settings, device: torch.device, number: int, threads: int | None, say: Say
) -> float | None:
    """Seconds a step while number - 1 other processes make the same steps; None if they do not run."""
    try:
        with parallel.beside(number - 1, parallel.load, settings, device.type, threads) as pipes:
            for pipe in pipes:
                pipe.recv()
            with parallel.with_threads(threads):
                taken = Probe(settings, device).step()
            for pipe in pipes:
                pipe.close()
            return taken
    except (EOFError, RuntimeError) as error:  # a process has ended, or memory is too small for one more
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        say(f"{number} processes at once do not run here: {reason}")
        return None


def measured(settings: spec.Settings, device: torch.device) -> tuple[float, float, int | None]:
    """Seconds a step, seconds an epoch with its evaluation of both splits, and peak memory in bytes."""
    parts = settings.data
    batch = settings.train.batch
    gc.collect()
    _reset_peak(device)
    steps = parts.train // batch if parts.drop_incomplete else math.ceil(parts.train / batch)
    probe = Probe(settings, device)
    module = probe.module
    step = probe.step()
    module.evaluate("valid")
    start = time.perf_counter()
    module.evaluate("valid")
    an_image = waited(device, start) / module.scored("valid")
    peak = _peak(device)
    if peak is not None:
        few = probe.data
        floats = few.rows.element_size()
        images = parts.train + parts.valid + parts.test
        kept = sum(t.numel() * t.element_size() for t in module.net.state_dict().values())  # the best epoch's
        peak += images * (few.rows.shape[1] * floats + 8) + kept
    return step, steps * step + (parts.valid + parts.test) * an_image, peak


def _epochs_made(
    item: Wanted,
    store: runs.Store,
    folder: Path | None,
    datasets: dict[str, data.Dataset | None],
    device: str,
) -> int:
    """How many of a run's epochs are in the store. Without its data in the folder a run counts as new."""
    begun = stem_of(item.cell.name, item.scale, item.seed, "", item.variant)
    if not any(file.name.startswith(begun) for kind in ("runs", "work") for file in (store.root / kind).glob("*")):
        return 0
    name = item.settings.data.name
    if name not in datasets:
        datasets[name] = None
        if (fetch.folder(folder) / f"{name}.npz").exists():
            with contextlib.suppress(data.DataError):  # the training itself says what is wrong with it
                datasets[name] = fetch.load(name, folder)
    dataset = datasets[name]
    if dataset is None:
        return 0
    kind: Device = "cuda" if device == "cuda" else "cpu"
    if kind == "cuda":  # as `worker.carry_out` does: what is left out is in the run's key
        gpu_trial.leave_out_inexact([item.settings], torch.device(device), lambda _: None)
    run = runs.Run(item.cell, item.scale, item.seed, item.settings, dataset, item.variant, kind)
    if store.finished(run):
        return item.settings.train.epochs
    saved = checkpoints.begun(store.checkpoint(run))
    return saved.epochs if saved is not None and saved.of == run.parts else 0


def unfinished(plan: Sequence[Wanted], store: runs.Store, folder: Path | None, device: str) -> list[Wanted]:
    """The runs of a plan that are not in the store."""
    datasets: dict[str, data.Dataset | None] = {}
    left = []
    for item in plan:
        with item.environment():
            made = _epochs_made(item, store, folder, datasets, device)
        left += [item] * (made < item.settings.train.epochs)
    return left


# --- memory ---------------------------------------------------------------------------------------------------


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak
    except OSError:
        return


def _peak(device: torch.device) -> int | None:
    """Bytes: the most that torch held on the GPU, or that the process had resident; since the reset."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)


# --- the terminal ---------------------------------------------------------------------------------------------


def show(found: Sequence[Estimate], device: torch.device) -> None:
    """Print the plan as a table, with its sum."""
    number = max((one.jobs for one in found), default=1)
    cell = Column("cell", overflow="fold")  # arms of an ablation differ only at the end of their names
    heads = ["epochs", "ms a step", "an epoch", "a run", "runs", "finished", "remaining", "peak memory"]
    if number > 1:
        heads[2:2] = [f"{number} at once"]
    table = Table(cell, *heads)
    for one in found:
        at_once = "do not run"
        if one.at_once is not None:
            at_once = f"{1000 * one.at_once:.1f} ms each ({one.gain:.2f}× the steps)"
        table.add_row(
            one.name,
            str(one.epochs),
            f"{1000 * one.step:.1f}",
            *([at_once] if number > 1 else []),
            duration(one.epoch) if one.epoch >= 10 else f"{one.epoch:.2g} s",
            duration(one.epoch * one.epochs),
            str(one.wanted),
            str(one.finished or ""),
            duration(one.remaining),
            "not known" if one.memory is None else f"{one.memory / 1e9:.1f} GB",
        )
    out = console(140)
    out.print(table)
    beside = f", {number} at once" if number > 1 else ""
    whole, remaining = (sum(getattr(one, part) for one in found) for part in ("whole", "remaining"))
    out.print(
        f"{sum(one.wanted for one in found)} run(s) on {machine.machine(device.type)['name']}{beside}: "
        f"{duration(whole)} in all, {duration(remaining)} remaining. "
        "Counted: steps, and both evaluations after every epoch; not: fetching and preprocessing the data."
    )
