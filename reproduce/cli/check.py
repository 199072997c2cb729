"""`reproduce check`: two small nets against the committed bands."""

from __future__ import annotations

from typing import Annotated

import typer

from kernels.environment import VariableError
from reproduce import spec
from reproduce.cli.options import DataOption
from reproduce.terminal import say, stop, stoppable


@stoppable("stopped; --mutants and --calibrate resume from the last checkpoint, a check starts afresh")
def check(
    data: DataOption = None,
    mutants: Annotated[bool, typer.Option("--mutants", help="Train nets with a planted error instead.")] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Train the runs of the bands instead, and keep them.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the mutants' records in results/check.")] = False,
) -> None:
    """Train two small nets and compare them with the committed bands.

    Exit code 1: a net leaves its band; 2: options that exclude each other; 3: data or calibration records are
    missing, or memory is not enough.
    """
    from reproduce.campaign import parallel, small_check

    if calibrate and mutants:
        raise stop("--mutants or --calibrate, not both", 2)
    if keep and not mutants:
        raise stop("--keep is of the runs of --mutants", 2)
    parallel.use_threads(None)
    try:
        if calibrate:
            small_check.calibrate(data, say)
            return
        good = small_check.mutants(data, say, keep) if mutants else small_check.check(data, say)
    except (spec.SpecError, VariableError):
        raise
    except (ValueError, small_check.Missing) as error:
        raise stop(str(error), 3) from None
    say("check passed" if good else "check FAILED")
    if not good:
        raise typer.Exit(1)
