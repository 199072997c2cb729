"""`reproduce submit`: hand runs to a SLURM cluster."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Annotated

import typer

from reproduce import extensions, yamlfile
from reproduce.campaign import slurm
from reproduce.campaign.wanted import check_pairs, describe, runs_wanted
from reproduce.cli.options import (
    MOST_THREADS,
    DataOption,
    ExperimentsOption,
    FirstSeedOption,
    ResultsOption,
    SeedsOption,
    UseOption,
    cells_of,
    check_choice,
)
from reproduce.terminal import say, seconds_of, stop

SHORTEST = 10.0
"""The shortest time limit of a task, in seconds: with less no time is left to train."""


def submit(
    cells: Annotated[list[str] | None, typer.Argument(help="As for `run`.", show_default="all")] = None,
    scale: Annotated[str, typer.Option(help="paper, short or small.")] = "paper",
    seeds: SeedsOption = None,
    first_seed: FirstSeedOption = 0,
    results: ResultsOption = None,
    data: DataOption = None,
    device: Annotated[str, typer.Option(help="cuda (one GPU a run) or cpu.")] = "cuda",
    cpus: Annotated[int, typer.Option(min=1, max=MOST_THREADS, help="CPU cores a run.")] = 4,
    time_limit: Annotated[str, typer.Option(help="Of one SLURM job: 90s, 9m, 2h, 1h30m.")] = "4h",
    partition: Annotated[str | None, typer.Option(help="SLURM's partition, if not the default one.")] = None,
    experiments: ExperimentsOption = None,
    use: UseOption = None,
) -> None:
    """Train cells on a SLURM cluster: an array with one task for each run that is not in your store yet.

    Without names: all cells but the ablations. Store, data folder and this environment must be where the nodes see
    them too. Needs the extra `cluster`.
    """
    from importlib.util import find_spec

    from reproduce.campaign import estimate
    from reproduce.datasets.fetch import folder
    from reproduce.records import runs

    if not find_spec("submitit"):
        raise stop("submit needs submitit: pip install 'submitit>=1.5.3', or this project with '.[cluster]'", 2)
    check_choice("--scale", scale, ("paper", "short", "small"))
    check_choice("--device", device, ("cuda", "cpu"))
    extensions.use(use or [])
    found = cells_of(cells, experiments, ablations=False)
    try:
        if device == "cpu":
            check_pairs(found)
        limit = seconds_of(time_limit)
        asked = range(first_seed, first_seed + seeds) if seeds else None
        plan = runs_wanted(found, scale, asked, say, first_seed)  # type: ignore[arg-type]
    except ValueError as error:
        raise stop(error, 2) from None
    if limit < SHORTEST:
        raise stop(f"--time-limit takes at least {SHORTEST:.0f}s, not {time_limit}", 2)
    store = runs.Store((results or runs.LOCAL).absolute())
    where = folder(data).absolute()
    missing = estimate.unfinished(plan, store, where, device)
    common = ["--scale", scale, "--seeds", "1", "--results", str(store.root), "--data", str(where)]
    common += ["--device", device, "--threads", str(cpus), "--time-limit", f"{int(limit - slurm.spare(limit))}s"]
    for module in extensions.used():
        common += ["--use", str(module)]
    elsewhere = experiments is not None or any(Path(given).exists() for given in cells or [])
    tasks = []
    for item in missing:
        path = item.cell.path.absolute() if elsewhere and item.cell.path else None
        if path is None:
            named = [item.cell.name]
        elif item.cell.ablation:  # the file alone would stand for all its arms
            named = [item.cell.name, "--experiments", str(path.parents[1])]
        else:
            named = [str(path)]
        tasks.append(slurm.Task(("run", *named, "--first-seed", str(item.seed), *common)))
    if not tasks:
        say(f"all {len(plan)} run(s) are in {yamlfile.shown(store.root)} already")
        return
    store.prepare()
    try:
        jobs = slurm.hand_over(
            tasks, store.root / "cluster", "slurm", limit, cpus, int(device == "cuda"), partition
        )
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise stop(f"submitting failed: {error}", 1) from None
    for job, item in zip(jobs, missing, strict=True):
        say(f"{job.job_id}: {describe(item)}")
    say(f"{len(jobs)} of {len(plan)} run(s) submitted; logs in {yamlfile.shown(store.root / 'cluster')}")
