"""What the commands share: options, a line to the terminal, an end with a word and an exit code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

ResultsOption = Annotated[
    Path | None, typer.Option("--results", help="Your store of runs.", show_default="results/local")
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of the data sets.", show_default="$REPRODUCE_DATA, else a user cache"),
]


def say(text: str) -> None:
    """One line, at once."""
    print(text, flush=True)


def stop(reason: object, code: int) -> typer.Exit:
    """Say in one line why the command ends; raise what comes back."""
    print(f"reproduce: {(str(reason).splitlines() or [''])[0]}", file=sys.stderr)
    return typer.Exit(code)
