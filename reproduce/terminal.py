"""Text on the terminal: a line, a table's console, durations, an end with a message and an exit code."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator

import typer
from rich.console import Console


def any_text() -> None:
    """Let this process print any text: what the terminal's encoding lacks, an ü in ASCII, is written as \\xfc."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def last_line(output: str | bytes) -> str:
    """The last non-empty line of a program's output or an error, which holds its reason; else empty."""
    text = output.decode(errors="replace") if isinstance(output, bytes) else output
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def say(text: str) -> None:
    """Print one line and flush it, in one write: several processes share the terminal."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 2 h 05 min."""
    seconds = int(seconds + 0.5)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def seconds_of(text: str, option: str = "--time-limit") -> float:
    """Seconds of "90s", "9m", "2h" or "1h30m". ValueError for anything else, and for no time at all."""
    found = re.fullmatch(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?", text)
    seconds = (
        sum(int(n or 0) * unit for n, unit in zip(found.groups(), (3600, 60, 1), strict=True)) if found else 0
    )
    if not seconds:
        raise ValueError(f"{option} takes 90s, 9m, 2h or 1h30m, not {text!r}")
    return float(seconds)


def console(width: int) -> Console:
    """A console for tables, `width` columns wide where stdout is no terminal. Text is not read as markup."""
    return Console(width=None if sys.stdout.isatty() else width, markup=False, emoji=False, highlight=False)


def stop(reason: object, code: int) -> typer.Exit:
    """Print in one line why the command ends; the caller raises the result."""
    print(f"reproduce: {(str(reason).splitlines() or [''])[0]}", file=sys.stderr)
    return typer.Exit(code)


@contextlib.contextmanager
def stoppable(how_to_go_on: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the process at once, with a line and exit code 130 or 143.

    For work that may be killed at any moment: no `finally` block runs. A thread waits for the signal, so that
    neither a long call into a library nor code that swallows exceptions keeps the process alive.
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
                end = threading.Timer(1.0, os._exit, (128 + number,))  # if the print below blocks
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
