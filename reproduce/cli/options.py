"""Options and arguments that several commands have, and how they are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from reproduce import spec, yamlfile
from reproduce.terminal import stop

MOST_THREADS = 256  # of a call of the kernels
ResultsOption = Annotated[
    Path | None, typer.Option("--results", help="Your store of runs.", show_default="results/local")
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of the data sets.", show_default="$REPRODUCE_DATA, else a user cache"),
]
ExperimentsOption = Annotated[
    Path | None,
    typer.Option("--experiments", help="Folder of experiment files.", show_default="the project's"),
]
UseOption = Annotated[
    list[Path] | None,
    typer.Option("--use", help="A Python file of your own data sets, nets, optimizers …; as often as needed."),
]
SeedsOption = Annotated[
    int | None,
    typer.Option("--seeds", min=1, max=10_000, help="How many seeds: 0, 1, …", show_default="as the file says"),
]
FirstSeedOption = Annotated[int, typer.Option("--first-seed", min=0, max=10**9, help="The first of them.")]
Cells = Annotated[
    list[str] | None,
    typer.Argument(
        help="Cells (`table1/bnn-theano-mnist`), groups (`table1`), patterns (`*/*-mnist`), or your own files "
        "and folders (`mine.yaml`).",
        show_default="all",
    ),
]


def cells_of(patterns: list[str] | None, experiments: Path | None, ablations: bool = True) -> list[spec.Cell]:
    """The cells that a command names, of the project's experiments or of another folder.

    Without `ablations` their arms, which take hours, have to be named.
    """
    found = spec.cells(patterns) if experiments is None else spec.cells(patterns, experiments)
    kept = [cell for cell in found if patterns or ablations or not cell.ablation]
    if not kept:
        raise spec.SpecError("there are only ablations here: name those to be trained")
    return kept


def check_choice(option: str, given: str, allowed: Sequence[str]) -> None:
    """End the command if an option's value is not one of those allowed."""
    if given not in allowed:
        raise stop(f"{option} takes {', '.join(allowed)}, not {given!r}", 2)


def check_store(store: Path | None) -> None:
    """End the command if the named store is not a folder."""
    if store is not None and not store.is_dir():
        raise stop(f"no store {yamlfile.shown(store)}: not a folder", 2)
