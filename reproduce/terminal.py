"""What the commands share: options, a line to the terminal, an end with a word and an exit code."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

MOST_THREADS, MOST_JOBS, MOST_SEEDS, LAST_SEED = 4096, 256, 10_000, 10**9
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
    typer.Option("--use", help="A Python file that registers what experiment files name; as often as needed."),
]


def any_text() -> None:
    """Let this process print any text: what the terminal's encoding lacks, an ü in ASCII, is written as \\xfc."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def last_line(output: str | bytes) -> str:
    """The last line that a program or an error says, where its reason stands; empty if it says nothing."""
    text = output.decode(errors="replace") if isinstance(output, bytes) else output
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def say(text: str) -> None:
    """One line, at once, and in one piece: processes beside each other write to the same place."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def console(width: int) -> Console:
    """Where tables go, so wide where it is no terminal; text stays as it is, for names come from files."""
    return Console(width=None if sys.stdout.isatty() else width, markup=False, emoji=False, highlight=False)


def stop(reason: object, code: int) -> typer.Exit:
    """Say in one line why the command ends; raise what comes back."""
    print(f"reproduce: {(str(reason).splitlines() or [''])[0]}", file=sys.stderr)
    return typer.Exit(code)


@contextlib.contextmanager
def stoppable(how_to_go_on: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the process at once, with a line and exit code 130 or 143.

    For what can be killed at any moment: nothing is unwound, and a thread hears the signal, so that neither a long
    call into a library nor one that swallows exceptions keeps the process alive.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ends = (signal.SIGINT, signal.SIGTERM)
    hears, tells = os.pipe()
    os.set_blocking(tells, False)

    def listen() -> None:
        while number := os.read(hears, 1)[0]:
            if number in ends:
                end = threading.Timer(1.0, os._exit, (128 + number,))  # should nobody read what we print
                end.daemon = True
                end.start()
                print(f"reproduce: {how_to_go_on}", file=sys.stderr, flush=True)
                os._exit(128 + number)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    wakeup = signal.set_wakeup_fd(tells, warn_on_full_buffer=False)
    before = {number: signal.signal(number, lambda *_: None) for number in ends}
    try:
        yield
    except KeyboardInterrupt:
        raise stop(how_to_go_on, 130) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.write(tells, b"\0")
        listener.join()
        os.close(hears)
        os.close(tells)
