"""The `reproduce` command."""

from __future__ import annotations

import difflib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from kernels.environment import VariableError
from reproduce import checkpoints, extensions, files, freeze, spec, submit, yamlfile
from reproduce.benchmarks.command import bench
from reproduce.data import DataError
from reproduce.export.command import export
from reproduce.gpu.command import app as gpu
from reproduce.terminal import (
    LAST_SEED,
    MOST_JOBS,
    MOST_SEEDS,
    MOST_THREADS,
    DataOption,
    ExperimentsOption,
    ResultsOption,
    UseOption,
    any_text,
    console,
    say,
    stop,
    stoppable,
)

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(
    help="Binarized Neural Networks (arXiv 1602.02830), reproduced: train the paper's cells, compare, judge.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Cells = Annotated[
    list[str] | None,
    typer.Argument(
        help="Cells (`table1/bnn-theano-mnist`), groups (`table1`), patterns (`*/*-mnist`), or your own files "
        "and folders (`mine.yaml`).",
        show_default="all",
    ),
]


def _scale(scale: str, device: str) -> spec.Scale:
    if scale == "auto":
        return "paper" if device == "cuda" else "small"
    if scale not in ("paper", "short", "small"):
        raise stop(f"--scale takes paper, short, small or auto, not {scale!r}", 2)
    return scale  # type: ignore[return-value]


def _cells(patterns: list[str] | None, experiments: Path | None) -> list[spec.Cell]:
    """The cells that a command names, of the project's experiments or of another folder."""
    return spec.cells(patterns) if experiments is None else spec.cells(patterns, experiments)


def _folder(store: Path | None) -> None:
    """Ends the command where a store is named that is no folder."""
    if store is not None and not store.is_dir():
        raise stop(f"no store {yamlfile.shown(store)}: not a folder", 2)


@app.command("list")
def list_cells(
    cells: Cells = None,
    results: ResultsOption = None,
    experiments: ExperimentsOption = None,
    use: UseOption = None,
) -> None:
    """Show every cell's state: what the paper prints, what was run (yours, published), its figures and verdict.

    A run that is under way is shown with its epoch.
    """
    from reproduce import report, running, runs
    from reproduce.report import evidence, rows, table1

    extensions.use(use or [])
    found = _cells(cells, experiments)
    _folder(results)
    stores = [(results or runs.LOCAL), runs.PUBLISHED]
    yours, public = (report.gather(store, found, say) for store in stores)
    published = evidence.usable([*public.runs, *public.checks], found)
    pooled = evidence.usable([*published, *yours.runs], found)
    here = running.in_store(runs.Store(stores[0]), found, say)
    ended = {r.stem for r in [*yours.runs, *public.runs]}
    under_way = {r.stem: r for r in [*public.running, *here] if r.stem not in ended}
    heads = ("cell", "row", "data set", "scale", "epochs", "yours", "published", "paper %", "ours %", "state")
    table = Table(*heads, "made by")
    for cell in found:
        paper = cell.experiment.published
        for scale, settings in cell.scales.items():
            orders = evidence.by_order([r for r in pooled if (r.cell, r.scale) == (cell.name, scale)])
            groups = [group for groups in orders.values() for group in groups]
            broken = sum((r.cell, r.scale) == (cell.name, scale) for r in [*yours.failed, *public.failed])
            also = [f"{broken} broke off"] if broken else []
            also += [
                f"seed {r.seed} at epoch {r.epochs_done} of {r.epochs}"
                for r in under_way.values()
                if (r.cell, r.scale) == (cell.name, scale)
            ]
            for group in groups or [[]]:
                figures = table1.measured(group, "")
                low, high = figures.get("low"), figures.get("high")
                interval = f" ({low:.2f} to {high:.2f})" if low is not None else ""
                state = [table1.judged(cell, scale, group), *also]
                state += [str(figures["note"])] if figures["dirty"] else []
                own, theirs = (sum(rows.same(r, group) for r in kept) for kept in (yours.runs, published))
                table.add_row(
                    *(cell.name, cell.experiment.row, cell.dataset_at(scale), scale, str(settings.train.epochs)),
                    *(str(own or ""), str(theirs or "")),
                    f"{paper.value:.2f}" if paper and scale == "paper" else "",
                    f"{figures['mean']:.2f}{interval}" if group else "",
                    "; ".join(state),
                    rows.label(group) + (f", image order {group[0].data.order[:6]}" if len(orders) > 1 else ""),
                )
                also = []
    console(190).print(table)


@app.command()
@stoppable("stopped; the same command goes on from the last checkpoint")
def run(
    cells: Cells = None,
    scale: Annotated[
        str, typer.Option(help="paper, short, small, or auto: paper with CUDA, else small.")
    ] = "auto",
    seeds: Annotated[
        int, typer.Option(min=1, max=MOST_SEEDS, help="How many seeds: 0, 1, … one after another.")
    ] = 1,
    first_seed: Annotated[int, typer.Option(min=0, max=LAST_SEED, help="The first of them.")] = 0,
    results: ResultsOption = None,
    data: DataOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, max=MOST_THREADS, help="CPU threads.", show_default="all cores")
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(
            min=1, max=MOST_JOBS, help="Runs made at once, by as many processes; --plan tells whether it pays."
        ),
    ] = 1,
    shard: Annotated[str, typer.Option(help="i/n: only every n-th run, to share them among machines.")] = "1/1",
    time_limit: Annotated[
        str | None,
        typer.Option(help="90s, 9m, 2h, 1h30m: stop at the end of an epoch when the next would not fit."),
    ] = None,
    checkpoint_every: Annotated[
        str | None, typer.Option(help="As --time-limit: how much work may be lost.", show_default="1m")
    ] = None,
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Only time a few steps, and say how long and how large it will be.")
    ] = False,
    experiments: ExperimentsOption = None,
    use: UseOption = None,
) -> None:
    """Train cells, skipping runs already in your store and resuming interrupted ones; then show Table 1.

    What cannot be run for want of data is named with how to get it. Exit code 1: a run failed, or memory was not
    enough for it; 2: an experiment file asks for what cannot be done; 3: no data at all;
    75: the time limit came first, and the same command goes on, here or where the store is copied to.
    """
    began = time.monotonic()
    from reproduce import campaign, equal_code, paper, report, runs
    from reproduce import jobs as beside
    from reproduce.report import table1

    if device not in ("auto", "cpu", "cuda"):
        raise stop(f"--device takes auto, cpu or cuda, not {device!r}", 2)
    extensions.use(use or [])
    found = _cells(cells, experiments)
    paper.read(), equal_code.known()  # as the table at the end needs them
    try:
        chosen = campaign.pick_device(device)
        size = _scale(scale, chosen.type)
        plan = campaign.wanted(found, size, range(first_seed, first_seed + seeds), say)
        plan = campaign.shard(plan, shard)
        deadline = None if time_limit is None else began + campaign.time_limit(time_limit)
        every = None if checkpoint_every is None else campaign.time_limit(checkpoint_every, "--checkpoint-every")
    except ValueError as error:
        raise stop(str(error), 2) from None
    store = runs.Store(results or runs.LOCAL)
    if chosen.type == "cuda":
        from reproduce.gpu import trial

        trial.settle(say)
    each = beside.threads_each(jobs, threads, chosen.type)
    if plan_only:
        from reproduce import plan as planning

        beside.use_threads(threads)
        planning.show(planning.estimates(plan, store, data, chosen, say, jobs, each), chosen)
        return
    beside.use_threads(each)
    say(f"{len(plan)} run(s) at {size} scale on {chosen.type}; results in {yamlfile.shown(store.root)}")
    shared = (plan, store.root, data, chosen.type, each, deadline, every)
    with beside.beside(jobs - 1, beside.train, *shared):
        summary = campaign.carry_out(plan, store, data, chosen, say, False if jobs > 1 else None, deadline, every)
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
    for record in summary.broken:
        say(f"failed: {record.cell}, seed {record.seed}: {record.failure}")
    for title, reason in summary.starved.items():
        say(f"not made: {title}: {reason}; the same command tries again")
    say(f"{report.found(evidence, size)}; {written}; the whole page: reproduce report --results {folder} --open")
    if summary.stopped:
        left = len(plan) - len(summary.records) - len(summary.broken)
        raise stop(
            f"time limit of {time_limit}: {left} of {len(plan)} run(s) left, {summary.stopped}; "
            "the same command goes on from there",
            75,
        )
    if summary.refused:
        raise typer.Exit(2)
    if summary.broken or summary.starved:
        raise typer.Exit(1)
    if plan and not summary.records:
        raise typer.Exit(3)


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


@app.command("data")
def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(help="mnist, cifar10, svhn, svhn_test10k.", show_default="all")
    ] = None,
    data: DataOption = None,
    use: UseOption = None,
) -> None:
    """Fetch and check data sets; say where each stands and, if it cannot be had, how to get it."""
    from reproduce import data as sets
    from reproduce.datasets import DATASETS
    from reproduce.fetch import folder, load

    extensions.use(use or [])
    missing = False
    for name in names or DATASETS:
        if name not in DATASETS:
            near = difflib.get_close_matches(name, DATASETS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(DATASETS)}"
            raise stop(f"no data set {name!r}{hint}", 2)
        try:
            found = load(name, data, say)
            say(f"{name}: content {found.digest[:12]}, order {found.order[:12]}, in {folder(data)}")
        except sets.DataError as error:
            missing = True
            say(str(error))
    if missing:
        raise typer.Exit(1)


@app.command("report")
def make_report(
    results: Annotated[
        list[Path] | None,
        typer.Option(
            help="A store of runs; several are compared, the first with each other.", show_default="the committed"
        ),
    ] = None,
    cell: Annotated[
        list[str] | None,
        typer.Option(help="Given twice: these two cells of a store are compared, image by image too."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="Folder of the report.", show_default="report or compare in the store")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write into a folder that also holds other files; they stay.")
    ] = False,
    show: Annotated[bool, typer.Option("--open", help="Show the page in your browser.")] = False,
    experiments: ExperimentsOption = None,
    use: UseOption = None,
) -> None:
    """Write the report of the committed records, with README's table; or of your own store; or compare stores."""
    from reproduce import report
    from reproduce.runs import LOCAL, PUBLISHED

    extensions.use(use or [])
    both = _cells(cell, experiments) if cell else []
    if cell and (len(both) != 2 or len(results or []) > 1):
        raise stop("--cell names two cells of one store", 2)
    if results is None and to is None and not cell and experiments is None and yamlfile.CHECKOUT:
        report.refresh(say, force)
        if show:
            typer.launch(str(PUBLISHED / "report" / "index.html"))
        return
    stores = results or [PUBLISHED if yamlfile.CHECKOUT else LOCAL]
    for store in stores:
        _folder(store)
    base = stores[0].resolve().parent
    target = to or stores[0] / ("report" if len(stores) == 1 and not cell else "compare")
    names = [Path(os.path.relpath(store.resolve(), base)).as_posix() for store in stores]
    home = Path(os.path.relpath(target.resolve(), base)).as_posix()
    known = report.cells(experiments)
    found = [report.gather(s, known, say, name) for s, name in zip(stores, names, strict=True)]
    for store, evidence in zip(stores, found, strict=True):
        if evidence.empty:
            raise stop(f"no records in {yamlfile.shown(store)}: nothing to report", 2)
    if cell:
        report.cells_compared(found[0], (both[0], both[1]), target, home, force)
    elif len(found) == 1:
        report.write(found[0], target, home, force)
    else:
        report.compared(found, target, home, force)
    say(f"written: {yamlfile.shown(target)}")
    if show:
        typer.launch(str(target / "index.html"))


@app.command()
def publish(
    results: ResultsOption = None,
    to: Annotated[Path | None, typer.Option(help="The committed results.", show_default="results")] = None,
    data: DataOption = None,
) -> None:
    """Copy finished runs of your store into the committed evidence, and bring report and README up to date.

    A run that is under way has its curve so far written, until its record is there. The nets of finished BNN runs,
    but for small-scale ones, are packed, and each prediction is compared with the float32 net's: `nets` holds the
    records, and seed 0's packed nets.
    """
    from reproduce import packing, report, running, runs

    _folder(results)
    source, target = runs.Store(results or runs.LOCAL), to or runs.PUBLISHED
    if not any([*source.runs.glob("*.json"), *(source.root / "work").glob("*.ckpt")]):
        raise stop(f"no runs in {yamlfile.shown(source.root)}: nothing to publish", 2)
    cells = spec.cells()
    copied = runs.publish(source, target / "runs", say)
    say(f"{copied} record(s) copied to {yamlfile.shown(target / 'runs')}")
    begun = running.publish(source, target, cells, say)
    say(f"{begun} run(s) under way, written to {yamlfile.shown(target / running.FOLDER)}")
    packed = packing.publish(source, target / packing.FOLDER, data, say)
    say(f"{packed} net(s) packed and compared, written to {yamlfile.shown(target / packing.FOLDER)}")
    if to is None:
        report.refresh(say)


@app.command()
@stoppable("stopped; --mutants and --calibrate go on from the last checkpoint, a check begins afresh")
def check(
    data: DataOption = None,
    mutants: Annotated[bool, typer.Option("--mutants", help="Train the planted errors instead.")] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Train the bands' seeds instead, and keep them.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the mutants' records in results/check.")] = False,
) -> None:
    """Train small nets afresh, hold them against the committed bands. Exit code 1: outside, 3: no data, memory."""
    from reproduce import check as small
    from reproduce import jobs

    jobs.use_threads(None)
    try:
        if calibrate:
            small.calibrate(data, say)
            return
        good = small.mutants(data, say, keep) if mutants else small.check(data, say)
    except (spec.SpecError, VariableError):
        raise
    except (ValueError, small.Missing) as error:
        raise stop(str(error), 3) from None
    say("check passed" if good else "check FAILED")
    if not good:
        raise typer.Exit(1)


app.command()(freeze.freeze)
app.command()(freeze.predict)
app.command()(export)
app.command()(bench)
app.command()(checkpoints.clean)
app.command()(submit.submit)
app.add_typer(gpu, name="gpu", hidden=True)


def main() -> None:
    """Run the command. What cannot be used ends it with one line and code 2, storage that fails with code 1."""
    any_text()
    try:
        app()
    except (spec.SpecError, VariableError, files.Foreign) as error:
        print(f"reproduce: {error}", file=sys.stderr)
        sys.exit(2)
    except DataError as error:
        print(f"reproduce: {error}", file=sys.stderr)
        sys.exit(3)
    except MemoryError as error:
        reason = (str(error).splitlines() or ["not enough memory"])[0]
        print(f"reproduce: {reason}; with more memory, the same command goes on", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or error
        print(f"reproduce: {what}; once that is mended, the same command goes on", file=sys.stderr)
        sys.exit(1)
