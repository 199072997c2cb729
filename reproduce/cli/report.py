"""`reproduce report`: the report of a store, or stores compared."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from reproduce import extensions, spec, yamlfile
from reproduce.cli.options import ExperimentsOption, UseOption, cells_of, check_store
from reproduce.terminal import say, stop


def make_report(
    results: Annotated[
        list[Path] | None,
        typer.Option(
            help="A store of runs; of several the first is compared with the others.",
            show_default="the committed records; with --experiments your store",
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
    """Write the report of the committed records and README's table, or of your own store; or compare stores."""
    from reproduce import report
    from reproduce.records.runs import LOCAL, PUBLISHED

    extensions.use(use or [])
    both = [one for name in cell or [] for one in _named(name, experiments)]
    if cell and (len(both) != 2 or both[0].name == both[1].name or len(results or []) > 1):
        raise stop("--cell names two cells of one store", 2)
    if results is None and to is None and not cell and experiments is None and yamlfile.CHECKOUT:
        report.refresh(say, force)
        if show:
            typer.launch(str(PUBLISHED / "report" / "index.html"))
        return
    stores = results or [PUBLISHED if yamlfile.CHECKOUT and experiments is None else LOCAL]
    for store in stores:
        check_store(store)
    base = stores[0].resolve().parent
    target = to or stores[0] / ("report" if len(stores) == 1 and not cell else "compare")
    names = [Path(os.path.relpath(store.resolve(), base)).as_posix() for store in stores]
    home = Path(os.path.relpath(target.resolve(), base)).as_posix()
    known = report.cells(experiments)
    known += [one for one in both if one.name not in {c.name for c in known}]
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


def _named(name: str, experiments: Path | None) -> list[spec.Cell]:
    """The cells of this name in the given folder, or else among the project's."""
    try:
        return cells_of([name], experiments)
    except spec.SpecError:
        if experiments is None:
            raise
        return cells_of([name], None)
