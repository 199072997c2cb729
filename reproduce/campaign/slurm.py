"""Runs handed to a SLURM cluster through submitit (the extra `cluster`): one array, one task a run.

A task is `reproduce run` of one cell and seed on the common store. It stops itself at an epoch's end before
SLURM's limit and goes back into the queue; one whose node dies is put there by SLURM. Either way it goes on from
its last checkpoint.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from reproduce import extensions, spec, yamlfile
from reproduce.terminal import (
    LAST_SEED,
    MOST_SEEDS,
    MOST_THREADS,
    DataOption,
    ExperimentsOption,
    ResultsOption,
    UseOption,
    last_line,
    say,
    stop,
)

SHORTEST = 10.0  # seconds of a stay: of less nothing is left to train in
OUT_OF_TIME = 75  # exit code of `reproduce run` at its time limit


@dataclass(frozen=True)
class Task:
    """`reproduce WORDS`, again and again until it ends by itself; in SLURM each time through the queue."""

    words: tuple[str, ...]

    def __call__(self) -> None:
        """Raises RuntimeError where the command fails; never returns from a call that goes back into the queue."""
        while True:
            code = subprocess.run([sys.executable, "-m", "reproduce", *self.words]).returncode
            if code != OUT_OF_TIME:
                break
            if job := slurm_job(os.environ):
                if reason := _requeue(job):
                    line = f"reproduce: job {job} is at its time limit and could not be requeued ({reason})"
                    print(f"{line}; the work is kept: submit again to resume it", file=sys.stderr, flush=True)
                sys.exit(OUT_OF_TIME)  # past submitit, which would write a result
        if code:
            raise RuntimeError(f"`reproduce {' '.join(self.words)}` ended with exit code {code}")

    def checkpoint(self) -> Any:
        """What submitit puts back into the queue if SLURM's own signal comes first."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def slurm_job(environment: Any) -> str | None:
    """This process's SLURM job, with its place in an array; None outside of SLURM."""
    array, place = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{place}" if array and place else environment.get("SLURM_JOB_ID")


def _requeue(job: str) -> str | None:
    """Put a SLURM job back into the queue; why that failed, in a line, or None."""
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, timeout=60)
    except OSError as error:
        return f"scontrol: {error.strerror}"
    except subprocess.TimeoutExpired:
        return "scontrol did not answer within 60 seconds"
    return last_line(done.stderr) or f"scontrol: exit code {done.returncode}" if done.returncode else None


def spare(limit: float) -> float:
    """Seconds before the end of a job of `limit` seconds at which its training is to be over."""
    return min(120.0, limit / 4)


def hand_over(
    tasks: Sequence[Task], folder: Path, cluster: str, limit: float, cpus: int, gpus: int, partition: str | None
) -> list[Any]:
    """Submit tasks as one array; submitit's jobs. `cluster`: slurm, local or debug; `limit` in seconds."""
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


def submit(
    cells: Annotated[list[str] | None, typer.Argument(help="As for `run`.", show_default="all")] = None,
    scale: Annotated[str, typer.Option(help="paper, short or small.")] = "paper",
    seeds: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_SEEDS, help="How many seeds: 0, 1, …", show_default="as the file says"),
    ] = None,
    first_seed: Annotated[int, typer.Option(min=0, max=LAST_SEED, help="The first of them.")] = 0,
    results: ResultsOption = None,
    data: DataOption = None,
    device: Annotated[str, typer.Option(help="cuda (one GPU a run) or cpu.")] = "cuda",
    cpus: Annotated[int, typer.Option(min=1, max=MOST_THREADS, help="CPU cores a run.")] = 4,
    time_limit: Annotated[str, typer.Option(help="Of one stay on a node: 90s, 9m, 2h, 1h30m.")] = "4h",
    partition: Annotated[str | None, typer.Option(help="SLURM's, if not its default one.")] = None,
    cluster: Annotated[
        str, typer.Option(help="slurm, or local: as processes on this machine, all at once.")
    ] = "slurm",
    experiments: ExperimentsOption = None,
    use: UseOption = None,
) -> None:
    """Train cells on a SLURM cluster: an array with one task for each run that is not in your store yet.

    Store, data folder and this environment must be where the nodes see them too. Needs the extra `cluster`.
    """
    from importlib.util import find_spec

    from reproduce.campaign import carry_out as campaign
    from reproduce.campaign import estimate as planning
    from reproduce.datasets.fetch import folder
    from reproduce.records import runs

    if not find_spec("submitit"):
        raise stop("submit needs submitit: pip install 'submitit>=1.5.3', or this project with '.[cluster]'", 2)
    choices = {"--scale": (scale, ("paper", "short", "small")), "--device": (device, ("cuda", "cpu"))}
    choices["--cluster"] = (cluster, ("slurm", "local"))
    for option, (given, allowed) in choices.items():
        if given not in allowed:
            raise stop(f"{option} takes {', '.join(allowed)}, not {given!r}", 2)
    extensions.use(use or [])
    found = spec.cells(cells) if experiments is None else spec.cells(cells, experiments)
    if not cells:
        found = [cell for cell in found if not cell.ablation]
    try:
        limit = campaign.time_limit(time_limit)
        plan = campaign.wanted(found, scale, first_seed, seeds, say)  # type: ignore[arg-type]
    except ValueError as error:
        raise stop(error, 2) from None
    if limit < SHORTEST:
        raise stop(f"--time-limit takes at least {SHORTEST:.0f}s, not {time_limit}", 2)
    store = runs.Store((results or runs.LOCAL).absolute())
    where = folder(data).absolute()
    missing = planning.unfinished(plan, store, where, device)
    common = ["--scale", scale, "--seeds", "1", "--results", str(store.root), "--data", str(where)]
    common += ["--device", device, "--threads", str(cpus), "--time-limit", f"{int(limit - spare(limit))}s"]
    for module in extensions.used():
        common += ["--use", str(module)]
    elsewhere = experiments is not None or any(Path(given).exists() for given in cells or [])
    tasks = []
    for item in missing:
        path = item.cell.path if elsewhere else None
        named = str(path.absolute()) if path else item.cell.name
        tasks.append(Task(("run", named, "--first-seed", str(item.seed), *common)))
    if not tasks:
        say(f"all {len(plan)} run(s) are in {yamlfile.shown(store.root)} already")
        return
    store.prepare()
    try:
        jobs = hand_over(tasks, store.root / "cluster", cluster, limit, cpus, int(device == "cuda"), partition)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise stop(f"submitting failed: {error}", 1) from None
    for job, item in zip(jobs, missing, strict=True):
        say(f"{job.job_id}: {campaign.describe(item)}")
    say(f"{len(jobs)} of {len(plan)} run(s) submitted; logs in {yamlfile.shown(store.root / 'cluster')}")
