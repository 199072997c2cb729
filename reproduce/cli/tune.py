"""`reproduce tune`: the learning rates of an ablation's arms."""

from __future__ import annotations

import typer

from reproduce import extensions
from reproduce.cli.options import Cells, DataOption, ExperimentsOption, ResultsOption, UseOption, cells_of
from reproduce.terminal import stop


def tune(
    cells: Cells = None,
    data: DataOption = None,
    results: ResultsOption = None,
    experiments: ExperimentsOption = None,
    use: UseOption = None,
) -> None:
    """Try the learning rates of ablations' arms on validation images, and say which is the best of each.

    Each rate that a file names is tried once, with a seed that no compared run has; the same command resumes.
    Records of the project's ablations are copied to results/tuning. Exit code 1: a file has another rate than the
    best, the best is the first or the last of its rates, or a rate could not be tried; 2: no ablation is named, or
    an ablation's arms cannot be compared; 3: data are missing.
    """
    from reproduce.campaign import tuning
    from reproduce.campaign.wanted import check_pairs
    from reproduce.records import runs

    extensions.use(use or [])
    found = [
        cell for cell in cells_of(cells or (None if experiments else ["ablations"]), experiments) if cell.ablation
    ]
    if not found:
        raise stop("none of these is an ablation", 2)
    try:
        check_pairs(found)
    except ValueError as error:
        raise stop(str(error), 2) from None
    good = tuning.tune(found, (results or runs.LOCAL) / "tuning", data)
    if good is None:
        raise typer.Exit(3)
    if not good:
        raise typer.Exit(1)
