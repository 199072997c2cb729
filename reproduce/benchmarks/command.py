"""`reproduce bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from reproduce import yamlfile
from reproduce.terminal import DataOption, say, stop


def bench(
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny sizes, in seconds: a trial of the benchmark.")
    ] = False,
    gpu: Annotated[bool, typer.Option("--gpu", help="The GPU's kernels instead of the CPU's.")] = False,
    training: Annotated[
        bool, typer.Option("--train", help="Training steps on the CPU instead: ours against a plain loop.")
    ] = False,
    to: Annotated[
        Path | None, typer.Option(help="Folder of the record.", show_default="results/kernels or results/train")
    ] = None,
    data: DataOption = None,
    trials: Annotated[
        Path | None,
        typer.Option(
            help="With --gpu: what `python -m reproduce.gpu trials` wrote.", show_default="trials are made"
        ),
    ] = None,
) -> None:
    """Measure Figure 3 on this machine: products, MLP and ConvNet; or their training. A table and a record.

    Exit code 2: the GPU was asked for and cannot be measured; 3: a data set's file is damaged.
    """
    from reproduce.benchmarks import cpu, record
    from reproduce.benchmarks import gpu as on_gpu
    from reproduce.benchmarks import train as of_training
    from reproduce.data import DataError

    if gpu and training:
        raise stop("--train measures the CPU", 2)
    if gpu and (reason := on_gpu.missing()):
        raise stop(reason, 2)
    folder = to or yamlfile.ROOT / "results" / ("train" if training else "kernels")
    path: Path | None = None

    def keep(state: dict[str, Any]) -> None:
        nonlocal path
        path = record.write(state, folder, path)
        say(f"written: {yamlfile.shown(path)}")

    try:
        if gpu:
            broken = None if trials is None else json.loads(trials.read_text())
            found = on_gpu.measure(say, data, quick, keep, broken)
        else:
            found = (of_training if training else cpu).measure(say, data, quick)
            keep(found)
    except DataError as error:
        raise stop(error, 3) from None
    (of_training if training else record).show(found)
