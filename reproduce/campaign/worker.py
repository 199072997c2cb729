"""Carries out a plan: trains its runs one after another, each under a lock, and skips finished ones.

It ends at the time limit, and says what is missing.
"""

from __future__ import annotations

import gc
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from reproduce import spec
from reproduce.campaign import checkpoints, gpu_trial
from reproduce.campaign.progress import Progress, cost
from reproduce.campaign.wanted import Wanted, describe
from reproduce.datasets import data, fetch
from reproduce.identity import Device
from reproduce.nets import products
from reproduce.records import EpochRow, Filters, Record, Result, filter_counts, machine, runs, weights
from reproduce.terminal import duration
from reproduce.training import preprocess, train
from reproduce.training.checkpoint import out_of_memory

Say = Callable[[str], None]


@dataclass
class Summary:
    """The outcome of a plan."""

    records: list[Record] = field(default_factory=list)
    trained: int = 0
    failed: list[Record] = field(default_factory=list)
    """Runs that stopped because a number was not finite."""
    missing: dict[str, str] = field(default_factory=dict)
    """Cell -> why it could not be run and what to do."""
    not_made: dict[str, str] = field(default_factory=dict)
    """Run -> why this machine could not make it: not enough memory, or a data set's file cannot be read."""
    refused: dict[str, str] = field(default_factory=dict)
    """Cell -> why its settings are impossible with its data."""
    stopped: str | None = None
    """Where the time limit ended the plan; None if it did not."""


def pick_device(wanted: str = "auto") -> torch.device:
    """For "auto" cuda if there is a GPU, else cpu; ValueError for a device that this machine does not have."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("no CUDA device here")
    return torch.device(wanted)


def carry_out(
    plan: Sequence[Wanted],
    store: runs.Store,
    data_folder: Path | None,
    device: torch.device,
    say: Say,
    bar: bool | None = None,
    deadline: float | None = None,
    checkpoint_seconds: float | None = None,
    jobs: int = 1,
) -> Summary:
    """Train what is not yet in the store, one run after another; report what is missing or failed, and continue.

    Several processes may share a store: a run that another process is training is postponed to the end, then
    waited for. A run that has failed in another of them since this call began is not repeated.
    `checkpoint_seconds`: seconds of training between checkpoints; None: `train.fit`'s default.
    `jobs`: how many processes carry out the plan, for the estimate of the time left.
    `deadline` (of time.monotonic): from this call's second epoch on, none is started that would end after it;
    `stopped` says where.
    """
    store.prepare()
    if device.type == "cpu" and (reason := products.fallback()):
        say(
            f"note: {reason}; PyTorch computes the products instead, with other numbers: such runs get other names"
        )
    kind: Device = "cuda" if device.type == "cuda" else "cpu"
    machine.code(kind)  # computes the digest now: the code may change before the first record is written
    call = machine.call(kind)
    summary = Summary()
    progress = Progress([cost(item.settings) for item in plan], say, jobs)
    prepared = _Prepared(device)
    queue = deque(enumerate(plan))
    postponed: set[int] = set()  # positions
    before = {path.name: path.stat().st_mtime_ns for path in store.runs.glob("*.json")}
    for number, item in _one_by_one(queue):
        progress.position, progress.title = number, describe(item)
        title = f"[{number + 1}/{len(plan)}] {describe(item)}"
        try:
            dataset = prepared.dataset(item.settings.data.name, data_folder, say)
        except fetch.Unread as error:
            say(f"{title}: not run: {error}")
            summary.not_made[describe(item)] = str(error)
            progress.skip(number)
            continue
        except data.DataError as error:
            if str(error) not in summary.missing.values():
                name = item.settings.data.name
                cells = len({each.cell.name for each in plan if each.settings.data.name == name})
                say(f"not run for lack of data set {name}: {cells} cell{'s' * (cells != 1)}: {error}")
            summary.missing[item.cell.name] = str(error)
            progress.skip(number)
            continue
        if kind == "cuda":  # before the run's key, which names what is left out
            gpu_trial.leave_out_inexact([item.settings], device, say)
        run = runs.Run(item.cell, item.scale, item.seed, item.settings, dataset, item.variant, kind)
        try:
            lock = FileLock(store.lock(run))
        except spec.SpecError as error:  # the key depends on the net, which these settings do not allow
            say(f"{title}: not run: {error}")
            summary.refused[item.cell.name] = str(error)
            progress.skip(number)
            continue
        wait = 0.0 if number not in postponed else -1.0 if deadline is None else deadline - time.monotonic()
        try:
            lock.acquire(timeout=wait if wait == -1.0 else max(wait, 0.0))
        except Timeout:
            if number in postponed:
                summary.stopped = f"another process is still training {describe(item)}"
                return summary
            postponed.add(number)
            say(f"{title}: another process is training it, checked again at the end")
            queue.append((number, item))
            continue
        with lock:
            lock.release()  # `acquire` and `with` both count: `with` still holds it
            record = store.finished(run)
            store.tidy(run, record is not None)
            if record is not None:
                say(f"{title}: skipped, already finished, {_shown(record)}")
                progress.skip(number)
                summary.records.append(record)
                continue
            failed, path = store.failed(run), store.runs / f"{run.stem}.json"
            if failed is not None and path.stat().st_mtime_ns != before.get(path.name):
                say(f"{title}: {_shown(failed)}")
                progress.skip(number)
                summary.failed.append(failed)
                continue
            epoch = progress.seconds(progress.costs[number] / run.settings.train.epochs)
            saved = checkpoints.begun(store.checkpoint(run))
            if saved is not None and number in postponed:  # the other process may have found no time for an epoch
                epoch = 2 * saved.seconds / saved.epochs
            if deadline is not None and epoch and time.monotonic() + epoch > deadline:
                epochs = run.settings.train.epochs
                where = "not begun" if saved is None else f"stands at epoch {saved.epochs} of {epochs}"
                summary.stopped = f"{describe(item)} {where}"
                return summary
            say(f"{title}: {progress.left()}" if number else title)
            if run.mode != products.mode(kind):
                say(f"    steps go through autograd: {run.why_autograd}")
            checkpoints.set_others_aside(run, store, say)
            try:
                record = _train(
                    run, store, prepared, device, progress, say, bar, deadline, call, checkpoint_seconds
                )
            except spec.SpecError as error:
                if item.cell.name not in summary.refused:
                    say(f"    not run: {error}")
                summary.refused[item.cell.name] = str(error)
                progress.skip(number)
                continue
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
                say(f"    not run: not enough memory: {reason}")
                summary.not_made[describe(item)] = f"not enough memory: {reason}"
                progress.skip(number)
                prepared.forget()
                continue
            except train.OutOfTime as stop:
                epochs = run.settings.train.epochs
                summary.stopped = f"{describe(item)} stands at epoch {stop.epoch} of {epochs}"
                return summary
            progress.finish(len(record.curve) / run.settings.train.epochs)
            summary.trained += 1
            say(f"    {_shown(record)}, {duration(record.seconds)}")
            if record.status == "failed":
                summary.failed.append(record)
            else:
                summary.records.append(record)
    return summary


def _one_by_one(queue: deque[tuple[int, Wanted]]) -> Iterator[tuple[int, Wanted]]:
    """Takes the runs from the queue, to which more may be added; while one is out, its environment is set."""
    while queue:
        number, item = queue.popleft()
        with item.environment():
            yield number, item


def _shown(record: Record) -> str:
    if record.result is None:
        return f"failed: {record.failure}"
    return f"test error {record.result.test_error:.2f} %"


class _Prepared:
    """Each data set, checked once, and the last run's preprocessed form of it, which the next may share."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._datasets: dict[str, data.Dataset | data.DataError] = {}
        self._last: tuple[Any, dict[str, preprocess.DeviceData]] | None = None

    def dataset(self, name: str, folder: Path | None, say: Say) -> data.Dataset:
        if name not in self._datasets:
            try:
                self._datasets[name] = fetch.load(name, folder, say)
            except data.DataError as error:  # kept as a new one: its traceback would keep half-read arrays
                self._datasets[name] = type(error)(str(error))
        found = self._datasets[name]
        if isinstance(found, data.DataError):
            raise found
        return found

    def forget(self) -> None:
        """Free the preprocessed data and what torch has cached."""
        self._last = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def __call__(self, run: runs.Run) -> dict[str, preprocess.DeviceData]:
        flat = run.settings.net.flat
        key = (run.settings.data, flat)
        if self._last is None or self._last[0] != key:
            self._last = None
            parts = data.splits(run.dataset, run.settings.data)
            self._last = key, preprocess.prepare(parts, run.settings.data, flat, self.device)
        return self._last[1]


def _train(
    run: runs.Run,
    store: runs.Store,
    prepared: _Prepared,
    device: torch.device,
    progress: Progress,
    say: Say,
    bar: bool | None,
    deadline: float | None,
    call: dict[str, Any],
    checkpoint_seconds: float | None,
) -> Record:
    started = runs.now()
    checkpoint = store.checkpoint(run)
    show_bar = sys.stdout.isatty() if bar is None else bar
    gc.collect()  # a GPU's recording of an earlier run's step must not be freed while the next is made
    try:
        outcome = train.fit(
            run.settings,
            prepared(run),
            run.seed,
            checkpoint,
            device,
            [progress],
            show_bar,
            say,
            checkpoint_seconds,
            deadline=deadline,
            run=run.parts,
            call=call,
        )
    except train.Diverged as failure:
        curve = [EpochRow(**row) for row in failure.curve]
        seconds = sum(row.seconds for row in curve)
        record = run.record(started, seconds, status="failed", failure=str(failure), curve=curve)
        record = _with_calls(record, failure.calls)
        store.write(record)
        return record
    valid, test = outcome.scored["valid"], outcome.scored["test"]
    result = Result(
        best_epoch=outcome.best["epoch"],
        valid_error=100 * outcome.best["valid_wrong"] / valid,
        test_error=100 * outcome.best["test_wrong"] / test,
        last_test_error=100 * outcome.curve[-1]["test_wrong"] / test,
        valid_images=valid,
        test_images=test,
        wrong_best=outcome.best["missed"],
        wrong_last=outcome.missed,
    )
    record = run.record(
        started,
        outcome.seconds,
        status="finished",
        weights=outcome.weights,
        parameters=outcome.parameters,
        weights_sha256=weights.digest(outcome.net),
        result=result,
        filters=kept_filters(run.settings, outcome.net),
        curve=[EpochRow(**row) for row in outcome.curve],
    )
    record = _with_calls(record, outcome.calls)
    weights.save(store.net(run.stem), outcome.net)
    store.write(record)
    checkpoint.unlink(missing_ok=True)
    return record


def _with_calls(record: Record, calls: Sequence[dict[str, Any]]) -> Record:
    """The record of a run that several calls trained: dirty if one of them was, with the threads of all."""
    if len(calls) < 2:
        return record
    dirty = [call["dirty"] for call in calls]
    code = record.code | {"dirty": True if True in dirty else None if None in dirty else False}
    if code["threads"]:
        code["threads"] = sorted({call["threads"] for call in calls})
    return record.model_copy(update={"code": code, "machine": record.machine | {"calls": list(calls)}})


def kept_filters(settings: spec.Settings, state: dict[str, torch.Tensor]) -> Filters | None:
    """The counts of a net's binary convolutions, for its record; None for a net without any."""
    net = settings.net
    found = filter_counts.of_net(state) if isinstance(net, spec.PaperNet) and net.weights == "binary" else None
    return None if found is None else Filters.model_validate(found)
