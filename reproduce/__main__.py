"""Where the `reproduce` command begins: checks that must come before all other imports."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """The command. A missing package ends it with one line, also if it is imported late.

    Ctrl-C and SIGTERM during the first imports end it with a word.
    """
    ends = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, _end) for number in ends}
    if place := foreign_kernels():
        print(
            f"reproduce: {place} is not this project's package `kernels`, but another of that name; "
            "uninstall both (pip uninstall kernels bnn-reproduce), then install this project again",
            file=sys.stderr,
        )
        sys.exit(2)
    os.environ["MPLBACKEND"] = "agg"  # figures go to files; a notebook's backend may not be installed here
    if sys.argv[1:2] != ["bench"] and not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        # torch's threads sleep soon without work: by default they keep cores from the threads of `kernels`
        os.environ["GOMP_SPINCOUNT"] = "2000"
    try:
        from reproduce.cli.app import main as command

        for number, handler in before.items():
            signal.signal(number, handler)
        command()
    except ModuleNotFoundError as error:
        name = (error.name or "").split(".")[0]
        if name in ("reproduce", "kernels"):
            raise
        package = {"yaml": "pyyaml"}.get(name, name)
        how = f"`pip install {package}` brings it; without a network see docs/gpu.md"
        print(f"reproduce: {name} is missing; {how}", file=sys.stderr)
        sys.exit(2)


def foreign_kernels() -> str | None:
    """Where another package named `kernels` would be imported from; None if it is this project's.

    Nothing is imported for this: the other may need what is not installed.
    """
    found = importlib.util.find_spec("kernels")
    if found is None or found.origin is None:  # the other was uninstalled, and our `__init__.py` with it
        return "what is left of `kernels`"
    ours = "xnor_matmul" in Path(found.origin).read_text(encoding="utf-8", errors="replace")
    return None if ours else found.origin


def _end(number: int, _: Any) -> None:
    os.write(2, b"reproduce: stopped before anything began\n")
    os._exit(128 + number)


if __name__ == "__main__":  # not in the processes that `--jobs` starts
    main()
