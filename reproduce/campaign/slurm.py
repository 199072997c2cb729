"""Runs handed to a SLURM cluster through submitit (the extra `cluster`): one array, one task a run.

A task is `reproduce run` of one cell and seed on the common store. Before SLURM's time limit it stops at the end
of an epoch and requeues itself; if its node fails, SLURM requeues it. Either way it resumes from its last
checkpoint.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduce.terminal import last_line

OUT_OF_TIME = 75  # exit code of `reproduce run` at its time limit


@dataclass(frozen=True)
class Task:
    """`reproduce WORDS`, repeated until it ends before its time limit; on SLURM each time through the queue."""

    words: tuple[str, ...]

    def __call__(self) -> None:
        """RuntimeError if the command fails. A call that is requeued ends the process and does not return."""
        while True:
            code = subprocess.run([sys.executable, "-m", "reproduce", *self.words]).returncode
            if code != OUT_OF_TIME:
                break
            if job := slurm_job(os.environ):
                if reason := _requeue(job):
                    line = f"reproduce: job {job} is at its time limit and could not be requeued ({reason})"
                    print(f"{line}; the work is kept: submit again to resume it", file=sys.stderr, flush=True)
                sys.exit(OUT_OF_TIME)  # not by returning: submitit would write a result
        if code:
            raise RuntimeError(f"`reproduce {' '.join(self.words)}` ended with exit code {code}")

    def checkpoint(self) -> Any:
        """What submitit requeues if SLURM's own signal comes first."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def slurm_job(environment: Any) -> str | None:
    """The SLURM job of this process, with its index in an array; None outside of SLURM."""
    array, place = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{place}" if array and place else environment.get("SLURM_JOB_ID")


def _requeue(job: str) -> str | None:
    """Requeue a SLURM job; the reason in one line if that failed, else None."""
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, timeout=60)
    except OSError as error:
        return f"scontrol: {error.strerror}"
    except subprocess.TimeoutExpired:
        return "scontrol did not answer within 60 seconds"
    return last_line(done.stderr) or f"scontrol: exit code {done.returncode}" if done.returncode else None


def spare(limit: float) -> float:
    """How many seconds before the end of a job of `limit` seconds its training must end."""
    return min(120.0, limit / 4)


def hand_over(
    tasks: Sequence[Task], folder: Path, cluster: str, limit: float, cpus: int, gpus: int, partition: str | None
) -> list[Any]:
    """Submit tasks as one array; submitit's jobs. `limit` in seconds; `cluster`: slurm, or local for a test."""
    import submitit

    executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
    executor.update_parameters(
        name="reproduce", timeout_min=math.ceil(limit / 60), nodes=1, cpus_per_task=cpus, gpus_per_node=gpus
    )
    if cluster == "slurm":
        executor.update_parameters(slurm_signal_delay_s=int(spare(limit) / 2))
        if partition:
            executor.update_parameters(slurm_partition=partition)
    with executor.batch():
        jobs = [executor.submit(task) for task in tasks]
    return list(jobs)
