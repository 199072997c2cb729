"""`reproduce bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from reproduce import yamlfile
from reproduce.cli.options import DataOption
from reproduce.terminal import say, stop


def bench(
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny sizes, in seconds: a trial of the benchmark.")
    ] = False,
    gpu: Annotated[bool, typer.Option("--gpu", help="The GPU's kernels instead of the CPU's.")] = False,
    training: Annotated[
        bool, typer.Option("--train", help="Training steps on the CPU instead: ours against a plain loop.")
    ] = False,
    layers: Annotated[
        bool, typer.Option("--layers", help="Single 1-bit layers of PyTorch instead, beside float32 and int8.")
    ] = False,
    to: Annotated[
        Path | None,
        typer.Option(help="Folder of the record.", show_default="in results: kernels, train or layers"),
    ] = None,
    data: DataOption = None,
    broken: Annotated[
        Path | None,
        typer.Option(
            help="With --gpu: the file of failed kernels from `reproduce gpu trials`, instead of new trials."
        ),
    ] = None,
) -> None:
    """Measure Figure 3 on this machine: products, MLP and ConvNet; or training, or layers. A table and a record.

    Exit code 1: nothing could be timed; 2: an option is not valid, there is no GPU, or a packed net is damaged;
    3: a data set's file is damaged.
    """
    from reproduce.benchmarks import common, on_gpu
    from reproduce.benchmarks import on_cpu as cpu
    from reproduce.benchmarks import single_layers as of_layers
    from reproduce.benchmarks import training_steps as of_training
    from reproduce.packed.blocks import PackedError
    from reproduce.records import sealed
    from reproduce.records.benchmark import Bench

    if gpu and (training or layers):
        raise stop(f"--{'train' if training else 'layers'} measures the CPU", 2)
    if broken and not gpu:
        raise stop("--broken names kernels of a GPU (--gpu)", 2)
    if training and layers:
        raise stop("--train or --layers, not both", 2)
    if gpu and (reason := on_gpu.missing()):
        raise stop(reason, 2)
    folder = "train" if training else "layers" if layers else "kernels"
    measure, show = {
        "train": (of_training.measure, of_training.show),
        "layers": (of_layers.measure, of_layers.show),
        "kernels": (cpu.measure, common.show),
    }[folder]
    if to is None and not (kept := yamlfile.ROOT / "results").is_dir():
        raise stop(f"no folder {kept}, as a checkout has it: name one for the record (--to)", 2)
    path: Path | None = None

    def keep(state: dict[str, Any]) -> None:
        nonlocal path
        path = sealed.write_new(Bench.model_validate(state), to or yamlfile.ROOT / "results" / folder, path)
        say(f"written: {yamlfile.shown(path)}")

    try:
        if gpu:
            known = None if broken is None else json.loads(broken.read_text())
            found = on_gpu.measure(say, data, quick, keep, known)
        else:
            found = measure(say, data, quick)
            keep(found)
    except PackedError as error:
        raise stop(error, 2) from None
    show(found)
    if not found["rows"]:
        raise stop("nothing could be timed: the record says why", 1)
