"""The `reproduce` command."""

from __future__ import annotations

import difflib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from reproduce import bench, freeze, spec, submit, yamlfile
from reproduce.terminal import DataOption, ResultsOption, say, stop

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
        help="Cells (`table1/bnn-theano-mnist`), groups (`table1`) or patterns (`*/*-mnist`).",
        show_default="all",
    ),
]


def _scale(scale: str, device: str) -> spec.Scale:
    if scale == "auto":
        return "paper" if device == "cuda" else "small"
    if scale not in ("paper", "short", "small"):
        raise stop(f"--scale takes paper, short, small or auto, not {scale!r}", 2)
    return scale  # type: ignore[return-value]


@app.command("list")
def list_cells(cells: Cells = None, results: ResultsOption = None) -> None:
    """Show the cells: what the paper prints, what has been run (yours and published), at which scale."""
    from reproduce import report, runs

    found = spec.cells(cells)
    local, problems = runs.read_all(runs.Store(results or runs.LOCAL).runs)
    public, more = runs.read_all(runs.PUBLISHED / "runs")
    counts: dict[tuple[str, str], list[int]] = {}
    for column, records in enumerate((local, public)):
        for record in report.usable(records, found):
            counts.setdefault((record.cell, record.scale), [0, 0])[column] += 1
    table = Table("cell", "row", "data set", "paper %", "scale", "epochs", "runs: yours", "published")
    for cell in found:
        published = cell.experiment.published
        for scale, settings in cell.scales.items():
            yours, theirs = counts.get((cell.name, scale), [0, 0])
            table.add_row(
                cell.name,
                cell.experiment.row,
                cell.dataset_at(scale),
                f"{published.value:.2f}" if published and scale == "paper" else "",
                scale,
                str(settings.train.epochs),
                str(yours or ""),
                str(theirs or ""),
            )
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    for problem in problems + more:
        say(f"left out: {problem}")


@app.command()
def run(
    cells: Cells = None,
    scale: Annotated[
        str, typer.Option(help="paper, short, small, or auto: paper with CUDA, else small.")
    ] = "auto",
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds: 0, 1, … one after another.")] = 1,
    first_seed: Annotated[int, typer.Option(min=0, help="The first of them.")] = 0,
    results: ResultsOption = None,
    data: DataOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="all cores")] = None,
    shard: Annotated[str, typer.Option(help="i/n: only every n-th run, to share them among machines.")] = "1/1",
    time_limit: Annotated[
        str | None,
        typer.Option(help="90s, 9m, 2h, 1h30m: stop at the end of an epoch when the next would not fit."),
    ] = None,
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Only time a few steps, and say how long and how large it will be.")
    ] = False,
) -> None:
    """Train cells, skipping runs already in your store and resuming interrupted ones; then show Table 1.

    What cannot be run for want of data is named with how to get it. Exit code 1: a run failed; 3: no data at all;
    75: the time limit came first, and the same command goes on, here or where the store is copied to.
    """
    began = time.monotonic()
    import torch

    from reproduce import campaign, report, runs

    if device not in ("auto", "cpu", "cuda"):
        raise stop(f"--device takes auto, cpu or cuda, not {device!r}", 2)
    found = spec.cells(cells)
    if threads:
        torch.set_num_threads(threads)
    try:
        chosen = campaign.pick_device(device)
        size = _scale(scale, chosen.type)
        plan = campaign.wanted(found, size, range(first_seed, first_seed + seeds), say)
        plan = campaign.shard(plan, shard)
        deadline = None if time_limit is None else began + campaign.time_limit(time_limit)
    except ValueError as error:
        raise stop(str(error), 2) from None
    store = runs.Store(results or runs.LOCAL)
    if plan_only:
        from reproduce import plan as planning

        planning.show(planning.estimates(plan, store, data, chosen, say), chosen)
        return
    say(f"{len(plan)} run(s) at {size} scale on {chosen.type}; results in {yamlfile.shown(store.root)}")
    try:
        summary = campaign.carry_out(plan, store, data, chosen, say, deadline=deadline)
    except KeyboardInterrupt:
        raise stop("stopped; the same command goes on from the last checkpoint", 130) from None
    except OSError as error:
        raise stop(f"{error.filename or store.root}: {error.strerror}", 1) from None
    _show(report.of(store.runs, found, say), size)
    report.write(report.of(store.runs, spec.cells(["table1"])), store.root / "report")
    for cell, reason in summary.missing.items():
        say(f"not run: {cell}: {reason}")
    for record in summary.broken:
        say(f"failed: {record.cell}, seed {record.seed}: {record.failure}")
    say(f"written: {yamlfile.shown(store.root / 'report')}/table1.md and table1.csv")
    if summary.stopped:
        left = len(plan) - len(summary.records) - len(summary.broken)
        raise stop(
            f"time limit of {time_limit}: {left} of {len(plan)} run(s) left, {summary.stopped}; "
            "the same command goes on from there",
            75,
        )
    if summary.broken:
        raise typer.Exit(1)
    if plan and not summary.records:
        raise typer.Exit(3)


def _show(frame: pd.DataFrame, scale: str) -> None:
    """The table of one scale on the terminal: cell, paper, ours, scale, seeds, seconds."""
    import pandas as pd

    table = Table("cell", "paper %", "ours %", "prediction", "scale", "seeds", "seconds", "verdict")
    for _, line in frame[frame["scale"] == scale].iterrows():
        number = {k: "" if pd.isna(line[k]) else f"{line[k]:.2f}" for k in ("paper", "mean", "low", "high")}
        interval = f"{number['low']} to {number['high']}" if number["low"] else ""
        seconds = "" if pd.isna(line["seconds"]) else f"{line['seconds']:.0f}"
        table.add_row(
            *(f"{line['row']}, {line['dataset']}", number["paper"], number["mean"], interval, scale),
            *(str(line["seeds"]), seconds, line["verdict"]),
        )
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    if scale == "small":
        console.print("Small nets, short training: not the paper's cells, never judged against the paper.")


@app.command("data")
def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(help="mnist, cifar10, svhn, svhn_test10k.", show_default="all")
    ] = None,
    data: DataOption = None,
) -> None:
    """Fetch and check data sets; say where each stands and, if it cannot be had, how to get it."""
    from reproduce import data as sets

    missing = False
    for name in names or sets.SHAPES:
        if name not in sets.SHAPES:
            near = difflib.get_close_matches(name, sets.SHAPES, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(sets.SHAPES)}"
            raise stop(f"no data set {name!r}{hint}", 2)
        try:
            found = sets.load(name, data, say)
            say(f"{name}: content {found.digest[:12]}, order {found.order[:12]}, in {sets.folder(data)}")
        except sets.DataError as error:
            missing = True
            say(str(error))
    if missing:
        raise typer.Exit(1)


@app.command("report")
def make_report(results: ResultsOption = None) -> None:
    """Write table1.md and table1.csv from the committed records, and README's table; or from your own store."""
    from reproduce import report

    cells = spec.cells(["table1"])
    if results is not None:
        report.write(report.of(results / "runs", cells, say), results / "report")
        say(f"written: {yamlfile.shown(results / 'report')}")
    else:
        report.refresh(say)


@app.command()
def publish(
    results: ResultsOption = None,
    to: Annotated[Path | None, typer.Option(help="The committed results.", show_default="results")] = None,
) -> None:
    """Copy finished runs of your store into the committed evidence, and bring report and README up to date."""
    from reproduce import report, runs

    target = to or runs.PUBLISHED
    copied = runs.publish(runs.Store(results or runs.LOCAL), target / "runs", say)
    say(f"{copied} record(s) copied to {yamlfile.shown(target / 'runs')}")
    if to is None:
        report.refresh(say)


@app.command()
def check(
    data: DataOption = None,
    mutants: Annotated[bool, typer.Option("--mutants", help="Train the planted errors instead.")] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Train the bands' seeds instead, and keep them.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the mutants' records in results/check.")] = False,
) -> None:
    """Train small nets afresh and hold them against the committed bands. Exit code 1: outside, 3: no data."""
    from reproduce import check as small

    try:
        if calibrate:
            small.calibrate(data, say)
            return
        good = small.mutants(data, say, keep) if mutants else small.check(data, say)
    except (ValueError, small.Missing) as error:
        raise stop(str(error), 3) from None
    say("check passed" if good else "check FAILED")
    if not good:
        raise typer.Exit(1)


app.command()(freeze.freeze)
app.command()(freeze.predict)
app.command()(bench.bench)
app.command()(submit.submit)


def main() -> None:
    """Run the command; a bad experiment file is one line and exit code 2."""
    try:
        app()
    except spec.SpecError as error:
        print(f"reproduce: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
