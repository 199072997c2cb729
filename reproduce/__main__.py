"""Where the `reproduce` command begins."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any


def main() -> None:
    """The command. A missing package is one line; Ctrl-C and SIGTERM during the imports end it with a word."""
    ends = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, _end) for number in ends}
    try:
        from reproduce.cli import main as command
    except ModuleNotFoundError as error:
        package = {"yaml": "pyyaml"}.get(error.name or "", error.name)
        how = f"`pip install {package}` brings it; without a network see README, On a GPU"
        print(f"reproduce: {error.name} is missing; {how}", file=sys.stderr)
        sys.exit(2)

    for number, handler in before.items():
        signal.signal(number, handler)
    command()


def _end(number: int, _: Any) -> None:
    os.write(2, b"reproduce: stopped before anything began\n")
    os._exit(128 + number)


if __name__ == "__main__":  # not in the processes that `--jobs` starts
    main()
