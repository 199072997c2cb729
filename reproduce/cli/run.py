"""`reproduce run`: train cells, then show Table 1 of the store."""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from reproduce import extensions, files, spec, yamlfile
from reproduce.cli.options import (
    MOST_THREADS,
    Cells,
    DataOption,
    ExperimentsOption,
    FirstSeedOption,
    ResultsOption,
    SeedsOption,
    UseOption,
    cells_of,
    check_choice,
)
from reproduce.terminal import console, say, seconds_of, stop, stoppable

if TYPE_CHECKING:
    import pandas as pd


@stoppable("stopped; the same command resumes from the last checkpoint")
def run(
    cells: Cells = None,
    scale: Annotated[
        str,
        typer.Option(help="paper, short, small, or auto: paper with CUDA, else small, or the only one."),
    ] = "auto",
    seeds: SeedsOption = None,
    first_seed: FirstSeedOption = 0,
    results: ResultsOption = None,
    data: DataOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_THREADS, help="CPU threads of each run.", show_default="all cores, shared"),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=256,
            help="Runs made at once, by as many processes.",
            show_default="on a CPU as many as there are cores and memory for",
        ),
    ] = None,
    shard: Annotated[str, typer.Option(help="i/n: only every n-th run, to share them among machines.")] = "1/1",
    time_limit: Annotated[
        str | None,
        typer.Option(help="90s, 9m, 2h, 1h30m: stop at the end of an epoch when the next would not fit."),
    ] = None,
    checkpoint_every: Annotated[
        str | None,
        typer.Option(
            help="Time between checkpoints (90s, 9m, 2h). A killed run loses at most that and an epoch.",
            show_default="1m",
        ),
    ] = None,
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Only time a few steps, and say how long and how large it will be.")
    ] = False,
    experiments: ExperimentsOption = None,
    use: UseOption = None,
) -> None:
    """Train cells, skipping runs already in your store and resuming interrupted ones; then show Table 1.

    Without names: all cells but the ablations. A cell whose data set is missing is named, with how to get it.
    Exit code 1: a run failed, memory was not enough for it, or a data file cannot be read; 2: an option or an
    experiment file is not valid; 3: no data at all; 75: the time limit came first, and the same command resumes,
    here or where the store is copied to.
    """
    began = time.monotonic()
    from reproduce import report
    from reproduce.campaign import estimate, parallel, worker
    from reproduce.campaign.wanted import auto_scale, check_pairs, runs_wanted, share
    from reproduce.nets import products
    from reproduce.records import equal_code, runs
    from reproduce.report.sections import table1

    check_choice("--device", device, ("auto", "cpu", "cuda"))
    check_choice("--scale", scale, ("paper", "short", "small", "auto"))
    extensions.use(use or [])
    found = cells_of(cells, experiments, ablations=False)
    equal_code.known()  # the table at the end needs it
    try:
        chosen = worker.pick_device(device)
        products.mode(chosen.type)  # a variable with a wrong value ends the command here
        if chosen.type == "cpu":
            check_pairs(found)
        size: Any = scale if scale != "auto" else auto_scale(found, chosen.type)
        asked = range(first_seed, first_seed + seeds) if seeds else None
        plan = share(runs_wanted(found, size, asked, say, first_seed), shard)
        deadline = None if time_limit is None else began + seconds_of(time_limit)
        every = None if checkpoint_every is None else seconds_of(checkpoint_every, "--checkpoint-every")
    except ValueError as error:
        raise stop(str(error), 2) from None
    store = runs.Store(results or runs.LOCAL)
    if chosen.type == "cuda":
        from reproduce.campaign import gpu_trial

        gpu_trial.choose_parts(say)
    if jobs is None:  # from all runs, not the open ones: so a resumed run mostly keeps its number of threads
        jobs = parallel.at_once(plan, threads, chosen.type)
    each = parallel.threads_each(jobs, threads, chosen.type)
    if plan_only:
        parallel.use_threads(threads)
        estimate.show(estimate.estimates(plan, store, data, chosen, say, jobs, each), chosen)
        return
    parallel.use_threads(each)
    many = f", {jobs} at once" if jobs > 1 else ""
    say(f"{len(plan)} run(s) at {size} scale on {chosen.type}{many}; results in {yamlfile.shown(store.root)}")
    shared = (plan, store.root, data, chosen.type, each, deadline, every, jobs)
    with parallel.beside(jobs - 1, parallel.train, *shared):
        summary = worker.carry_out(
            plan, store, data, chosen, say, False if jobs > 1 else None, deadline, every, jobs
        )
    known = {c.name: c for c in [*report.cells(), *found]}
    evidence = report.gather(store.root, list(known.values()), say)
    _show(table1.frame(evidence.runs, found, quoted=False, groups=None), size)
    folder = yamlfile.shown(store.root)
    try:
        report.folder.add(report.tables(evidence), store.root / "report")
        written = f"written: {folder}/report/table1.md and table1.csv"
    except files.Foreign as error:
        written = f"Table 1 was not written: {error}"
    for cell, reason in summary.refused.items():
        say(f"not run: {cell}: {reason}")
    for record in summary.failed:
        say(f"failed: {record.cell}, seed {record.seed}: {record.failure}")
    for title, reason in summary.not_made.items():
        say(f"not run: {title}: {reason}; the same command tries again")
    say(f"{report.found(evidence, found, size)}; {written}")
    own = ["--results", os.path.relpath(store.root)]
    if place := experiments or next((c.path.parent for c in found if c.path and _elsewhere(c.path)), None):
        own += ["--experiments", str(place)]
    for path in use or []:
        own += ["--use", str(path)]
    say(f"the whole page: reproduce report {shlex.join(own)} --open")
    if summary.stopped:
        left = len(estimate.unfinished(plan, store, data, chosen.type))
        raise stop(
            f"time limit of {time_limit} reached: {left} of {len(plan)} run(s) left, {summary.stopped}; "
            "the same command resumes from there",
            75,
        )
    if summary.refused:
        raise typer.Exit(2)
    if summary.failed or summary.not_made:
        raise typer.Exit(1)
    if plan and not summary.records:
        raise typer.Exit(3)


def _elsewhere(path: Path) -> bool:
    """Whether an experiment file is not one of the project's."""
    return not path.resolve().is_relative_to(spec.EXPERIMENTS)


def _show(frame: pd.DataFrame, scale: str) -> None:
    """The table of one scale on the terminal: cell, paper, ours, scale, seeds, seconds, what made them."""
    import pandas as pd

    table = Table("cell", "paper %", "ours %", "prediction", "scale", "seeds", "seconds", "verdict", "made by")
    frame = frame[frame["scale"] == scale]
    for _, line in frame.iterrows():
        number = {k: "" if pd.isna(line[k]) else f"{line[k]:.2f}" for k in ("paper", "mean", "low", "high")}
        interval = f"{number['low']} to {number['high']}" if number["low"] else ""
        seconds = "" if pd.isna(line["seconds"]) else f"{line['seconds']:.0f}"
        table.add_row(
            *(f"{line['row']}, {line['dataset']}", number["paper"]),
            *(number["mean"] + ("*" if line["dirty"] else ""), interval, scale),
            *(str(line["seeds"]), seconds, line["verdict"], line["code"]),
        )
    out = console(140)
    out.print(table)
    if remarks := sorted({n for note in frame.loc[frame["dirty"].astype(bool), "note"] for n in note.split("; ")}):
        out.print(f"* of at least one run: {'; '.join(remarks)}.")
    if scale == "small":
        out.print("Small nets, short training: not the paper's cells, never judged against the paper.")
