"""Where the `reproduce` command begins."""

from __future__ import annotations

import os
import signal
from typing import Any


def main() -> None:
    """The command; Ctrl-C and SIGTERM while it is still being imported end it with a word."""
    ends = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, _end) for number in ends}
    from reproduce.cli import main as command

    for number, handler in before.items():
        signal.signal(number, handler)
    command()


def _end(number: int, _: Any) -> None:
    os.write(2, b"reproduce: stopped before anything began\n")
    os._exit(128 + number)


if __name__ == "__main__":  # not in the processes that `--jobs` starts
    main()
