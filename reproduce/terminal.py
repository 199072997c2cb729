"""What the commands share: options, a line to the terminal, an end with a word and an exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

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


PATIENCE = 3.0  # seconds for an orderly end; then it is an end all the same: nothing on disk needs the order


@contextlib.contextmanager
def stoppable(how_to_go_on: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM end what runs inside, within seconds, with a line and exit code 130 or 143.

    The signal interrupts as Ctrl-C does; where that is not heard in time (a long call into a library), the process
    ends without it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told: list[int] = []

    def end_now() -> None:
        print(f"reproduce: {how_to_go_on}", file=sys.stderr, flush=True)
        os._exit(128 + told[0])

    timer = threading.Timer(PATIENCE, end_now)
    timer.daemon = True

    def stop_it(number: int, _: Any) -> None:
        if not told:
            told.append(number)
            timer.start()
            raise KeyboardInterrupt

    before = {number: signal.signal(number, stop_it) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except BaseException as error:
        if told:  # whatever the interrupt became on its way through the libraries
            raise stop(how_to_go_on, 128 + told[0]) from None
        if isinstance(error, KeyboardInterrupt):
            raise stop(how_to_go_on, 130) from None
        raise
    finally:
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
