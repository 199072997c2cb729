"""`reproduce gpu`: the steps of gpu-evidence.sh, one command each."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reproduce import files
from reproduce.terminal import duration, say

if TYPE_CHECKING:
    import torch

    from reproduce.campaign.probe import Probe
    from reproduce.identity import Device

app = typer.Typer(no_args_is_help=True, help="The steps of gpu-evidence.sh.")
BACKENDS = ("cuda-wgmma", "cuda-bmma", "cuda-xnor", "cuda-naive")
ROUNDS = (32.0, 20.0)
"""Seconds for the two rounds of trials."""
PROFILED = 10
"""Steps in a table of the profiler."""
DeviceOption = Annotated[str, typer.Option(help="cuda or cpu.")]
ScaleOption = Annotated[str, typer.Option(help="paper or small.")]


@app.command()
def versions(device: DeviceOption = "cuda") -> None:
    """Print machine, libraries, code and the output of nvidia-smi. Exit code 2: a package is missing."""
    import kernels
    from reproduce import packed, report  # noqa: F401, what any later step imports
    from reproduce.campaign import worker  # noqa: F401, what any later step imports
    from reproduce.records import machine

    kind: Device = "cuda" if device == "cuda" else "cpu"
    found = {"machine": machine.machine(kind), "libraries": machine.libraries(), "code": machine.code(kind)}
    say(json.dumps(found | {"backends": kernels.backends()}, indent=1))
    if device == "cuda":
        say(subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=20).stdout)


@app.command()
def trials(
    to: Annotated[Path, typer.Argument(help="Folder of the three files.")],
    cells: Annotated[
        list[str] | None, typer.Argument(help="Cells that are to be trained: only what they use is tried.")
    ] = None,
    device: DeviceOption = "cuda",
    scale: ScaleOption = "paper",
) -> None:
    """Try every backend and every part of a training step once, each in a process of its own.

    broken.json: the kernels that failed, and why; backends.txt: the backends that passed; without.txt: the parts
    to leave out of a step, for $REPRODUCE_WITHOUT. Until the trials end, the files say that nothing passed.
    """
    from kernels.cuda.trial import PIXELS
    from reproduce.nets import ways

    def keep(broken: dict[str, str], without: tuple[str, ...]) -> None:
        usable = [] if PIXELS in broken else [name for name in BACKENDS if name not in broken]
        failed = {name: broken[name] for name in names if name in broken}
        files.write_whole(to / "broken.json", json.dumps(failed, indent=1) + "\n")
        files.write_whole(to / "backends.txt", " ".join(usable) + "\n")
        files.write_whole(to / "without.txt", " ".join(without) + "\n")

    names = (*BACKENDS, PIXELS)
    keep(dict.fromkeys(names, "its trial was cut off"), tuple(ways.PARTS))
    import kernels
    from reproduce.campaign import gpu_trial

    here = kernels.backends()
    unusable = {name: here[name] for name in BACKENDS if here[name].startswith("unavailable")}
    others = {name: ["kernels.cuda.trial", name] for name in names if name not in unusable}
    found = unusable | gpu_trial.try_parts(say, device, scale, others, ROUNDS, cells or ())
    keep(found, ways.left_out())
    failed = {*found, *ways.left_out()}
    say(f"passed: {', '.join(name for name in (*names, *ways.PARTS) if name not in failed) or 'nothing'}")


@app.command()
def preflight(
    cell: Annotated[str, typer.Argument(help="The cell that is to be trained.")],
    left: Annotated[
        float | None, typer.Option(help="Seconds left to train it: say whether that is enough.")
    ] = None,
    device: DeviceOption = "cuda",
    scale: ScaleOption = "paper",
    steps: Annotated[int, typer.Option(help="Steps of each net to time.")] = 200,
) -> None:
    """Check the convolutions, time a step, profile it, and say whether training will end in the time left."""
    import torch

    from reproduce.campaign import estimate, gpu_trial
    from reproduce.campaign.probe import Probe
    from reproduce.nets import ways

    place = torch.device(device)
    for name in dict.fromkeys([cell, *gpu_trial.CELLS[scale]]):
        settings = gpu_trial.settings_of(name, scale)
        gpu_trial.leave_out_inexact([settings], place, say)
        if settings.net.kind == "convnet":
            say(f"{name}: its forward convolutions of ±1 by ±1 are exact with the parts in use")
        made = Probe(settings, place)
        made.turn(5)
        step = made.turn(steps)
        without = ", ".join(ways.left_out()) or "nothing"
        say(f"{name}: {1000 * step:.3f} ms a step over {steps} steps; left out: {without}")
        if name == cell and left is not None:
            _, epoch, _ = estimate.measured(settings, place)
            whole = epoch * settings.train.epochs
            ends = "will end in this call" if whole < left else "will not end in this call; its curve comes back"
            say(
                f"{name}: {settings.train.epochs} epochs of {epoch:.3g} s are {duration(whole)}, "
                f"{duration(left)} are left: training {ends}"
            )
        say(f"{name}, {PROFILED} steps:\n{_profile(made, place)}")


def _profile(made: Probe, device: torch.device) -> str:
    from torch import profiler

    on_gpu = device.type == "cuda"
    kinds = [profiler.ProfilerActivity.CPU, *([profiler.ProfilerActivity.CUDA] if on_gpu else [])]
    with profiler.profile(activities=kinds) as profile:
        made.turn(PROFILED)
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    table: str = profile.key_averages().table(sort_by=key, row_limit=25, max_name_column_width=70)
    return table


@app.command()
def curves(
    to: Annotated[Path, typer.Argument(help="The CSV file.")],
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Records, and checkpoints of unfinished runs.")
    ] = None,
) -> None:
    """Write the curves of runs, one line for each epoch; of an unfinished run up to its checkpoint."""
    from reproduce.campaign.checkpoints import begun
    from reproduce.records import read_record

    rows: list[dict[str, Any]] = []
    for path in paths or ():
        if path.suffix == ".json":
            found = [row.model_dump() for row in read_record(path).curve]
        else:
            found = saved.curve if (saved := begun(path)) else []  # cut off while it was copied
        rows += [{"run": path.stem, **row} for row in found]
        say(f"{path.stem}: {len(found)} epochs")
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_whole(to, text.getvalue())
