"""`reproduce data`: fetch and check data sets."""

from __future__ import annotations

from typing import Annotated

import typer

from reproduce import extensions, yamlfile
from reproduce.cli.options import DataOption, UseOption
from reproduce.terminal import say, stop


def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(help="mnist, cifar10, svhn, svhn_test10k.", show_default="all")
    ] = None,
    data: DataOption = None,
    use: UseOption = None,
) -> None:
    """Fetch and check data sets; say where each one is or, if it is missing, how to get it.

    Exit code 1: one is missing.
    """
    from reproduce.datasets import DATASETS
    from reproduce.datasets import data as sets
    from reproduce.datasets.fetch import folder, load

    extensions.use(use or [])
    missing = False
    for name in names or DATASETS:
        if name not in DATASETS:
            hint = yamlfile.did_you_mean(name, DATASETS, f"; there are {', '.join(DATASETS)}")
            raise stop(f"no data set {name!r}{hint}", 2)
        try:
            found = load(name, data, say)
            say(f"{name}: content {found.digest[:12]}, order {found.order[:12]}, in {folder(data)}")
        except sets.DataError as error:
            missing = True
            say(str(error))
    if missing:
        raise typer.Exit(1)
