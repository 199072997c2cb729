"""Several runs at once on one machine: worker processes that share the store of this one.

Each process takes the next run that no other process is training. This one does so too, and at the end it resumes
runs that another process left unfinished. On a GPU the processes take turns unless NVIDIA's MPS daemon runs.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import pickle
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from kernels.cpu import thread_count
from kernels.environment import cores
from reproduce import extensions, spec
from reproduce.campaign import worker
from reproduce.campaign.probe import STEPS, Probe
from reproduce.campaign.wanted import Wanted
from reproduce.records import runs
from reproduce.terminal import any_text, say

Work = Callable[..., None]


PROCESS = 1e9
"""Memory of a training process in bytes, without its net and its data."""


def at_once(plan: Sequence[Wanted], threads: int | None, device: str) -> int:
    """How many runs to make at once without --jobs: as many as runs, cores and memory allow; 1 on a GPU.

    One run a core, because a second core shortens the step of a small net only a little.
    """
    if device != "cpu" or not plan:
        return 1
    most = min(thread_count(), torch.get_num_threads(), cores()) // (threads or 1)
    need = max(_memory(item.settings) for item in plan)
    return max(1, min(most, len(plan), int(_free_memory() // need)))


def _memory(settings: spec.Settings) -> float:
    """An upper estimate of a run's memory in bytes: five float32 numbers a weight, and the images.

    These are there as bytes, twice, and as float32: three times over while they are preprocessed, if bytes are not
    enough for that.
    """
    parts = settings.data
    images = parts.train + parts.valid + parts.test
    weights = sum(layer.weights for layer in settings.layers())
    floats = 1 if all(step.keeps_bytes for step in parts.preprocess) else 3
    return PROCESS + 20 * weights + (2 + 4 * floats) * images * math.prod(settings.dataset.image)


def _free_memory(told: Path = Path("/proc/meminfo")) -> float:
    """Bytes of memory that are free or can be freed; half of all memory if the system does not say."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", told.read_text(), re.M)
    except OSError:
        found = None
    if found:
        return 1024.0 * int(found[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2


def threads_each(jobs: int, threads: int | None, device: str) -> int | None:
    """CPU threads for each of `jobs` processes: `threads` if given, else an equal share; None: torch's choice."""
    if threads is not None or jobs == 1 or device != "cpu":
        return threads
    return max(1, thread_count() // jobs)


def use_threads(threads: int | None) -> None:
    """Set the CPU threads of torch and the kernels in this process; None leaves the choice to them.

    Torch ignores a cgroup's CPU quota, so its own choice is limited to the quota. VariableError if
    $KERNELS_THREADS is no number.
    """
    if threads is not None:
        torch.set_num_threads(threads)
        os.environ["KERNELS_THREADS"] = str(threads)
    elif torch.get_num_threads() > cores():
        torch.set_num_threads(cores())
    thread_count()


@contextlib.contextmanager
def with_threads(threads: int | None) -> Iterator[None]:
    """`use_threads` within a block."""
    before = torch.get_num_threads()
    with patch.dict(os.environ):
        use_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@contextlib.contextmanager
def beside(count: int, work: Work, *arguments: Any) -> Iterator[list[Connection]]:
    """Start `count` processes that call work(pipe, number, *arguments), numbered from 2; gives our pipe ends.

    The block begins when all have started; its end waits for them. If the block raises, or this process ends in
    any other way, they end at once.
    """
    context = multiprocessing.get_context("spawn")
    given = pickle.dumps((work, arguments))
    started = []
    try:
        for number in range(2, count + 2):
            ours, theirs = context.Pipe()
            process = context.Process(target=_child, args=(theirs, number, extensions.used(), given), daemon=True)
            with _without_ctrl_c():
                process.start()
            theirs.close()
            started.append((process, ours))
        for number, (_, pipe) in enumerate(started, 2):
            try:
                pipe.recv()
            except EOFError:
                say(f"({number}) did not start")
        yield [pipe for _, pipe in started]
        for number, (process, _) in enumerate(started, 2):
            process.join()
            if process.exitcode:
                say(f"({number}) ended with exit code {process.exitcode}")
    finally:
        for process, pipe in started:
            pipe.close()
            process.join()


@contextlib.contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Processes started in this block ignore Ctrl-C, which a terminal sends to all; they end with their parent."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _child(pipe: Connection, number: int, used: Sequence[Path], given: bytes) -> None:
    any_text()
    extensions.use(used)  # the arguments may hold objects of their classes
    work, arguments = pickle.loads(given)
    pipe.send("begun")
    threading.Thread(target=_end_with_parent, args=(pipe,), daemon=True).start()
    work(pipe, number, *arguments)


def _end_with_parent(pipe: Connection) -> None:
    """End this process at once when the other end of the pipe is closed or its process has ended."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.recv()
    os._exit(0)


def train(
    pipe: Connection,
    number: int,
    plan: Sequence[Wanted],
    root: Path,
    data_folder: Path | None,
    device: str,
    threads: int | None,
    deadline: float | None,
    checkpoint_seconds: float | None,
    jobs: int,
) -> None:
    """What each extra process of `reproduce run --jobs` does: it carries out the same plan on the same store."""
    use_threads(threads)
    store = runs.Store(root)

    def tell(text: str) -> None:
        say(f"({number}) {text}")

    try:
        place = torch.device(device)
        worker.carry_out(plan, store, data_folder, place, tell, False, deadline, checkpoint_seconds, jobs)
    except OSError as error:  # a full disk, for example; the first process fails too and says how to resume
        tell(f"{error.filename or store.root}: {error.strerror or error}")
        sys.exit(1)


def load(pipe: Connection, number: int, settings: spec.Settings, device: str, threads: int | None) -> None:
    """What each extra process of `--plan` does: send "ready", then make steps on random images until ended."""
    use_threads(threads)
    turn = Probe(settings, torch.device(device)).turn
    turn(1)
    pipe.send("ready")
    while True:
        turn(STEPS)
