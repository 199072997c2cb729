"""What gpu-evidence.sh asks of Python: python -m reproduce.gpu versions | trials | preflight | curve (see --help)."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import kernels
from kernels.cuda import trial as kernel_trial
from reproduce import campaign, files, machine, plan, spec
from reproduce.records import read_record
from reproduce.terminal import say
from reproduce.gpu import trial
from reproduce.training import ways
from reproduce.training.checkpoint import saved

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
BACKENDS = ("cuda-wgmma", "cuda-bmma", "cuda-xnor", "cuda-naive")
ROUNDS = (35.0, 20.0)  # seconds for the two rounds of trials
PROFILED = 10  # steps
DeviceOption = Annotated[str, typer.Option(help="cuda or cpu.")]
ScaleOption = Annotated[str, typer.Option(help="paper or small.")]


@app.command()
def versions(device: DeviceOption = "cuda") -> None:
    """Machine, libraries, code, what the driver says of the GPU, and the kernels' backends."""
    found = {"machine": machine.machine(device), "libraries": machine.libraries(), "code": machine.code()}
    print(json.dumps(found | {"backends": kernels.backends()}, indent=1))
    if device == "cuda":
        print(subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=20).stdout)


@app.command()
def trials(
    to: Annotated[Path, typer.Option(help="Folder for trials.json and without.txt.")],
    device: DeviceOption = "cuda",
    scale: ScaleOption = "paper",
) -> None:
    """Every backend and every part of a training step once, each in a process of its own; what failed, and why.

    without.txt is for $REPRODUCE_WITHOUT. Until the trials are over, both files say that nothing can be used.
    """
    names = (*BACKENDS, kernel_trial.PIXELS)
    _written(to, dict.fromkeys(names, "its trial was cut off"), list(ways.PARTS))
    backends = kernels.backends()
    unusable = {name: backends[name] for name in BACKENDS if backends[name].startswith("unavailable")}
    others = {name: ["kernels.cuda.trial", name] for name in names if name not in unusable}
    found = trial.settled(say, device, scale, others, ROUNDS)  # type: ignore[arg-type]
    _written(to, unusable | found, list(ways.left_out()))
    failed = {*unusable, *found, *ways.left_out()}
    say(f"passed: {', '.join(name for name in (*names, *ways.PARTS) if name not in failed) or 'nothing'}")


def _written(folder: Path, broken: dict[str, str], without: list[str]) -> None:
    files.write_whole(folder / "trials.json", json.dumps(broken, indent=1) + "\n")
    files.write_whole(folder / "without.txt", " ".join(without) + "\n")


@app.command()
def preflight(
    cell: Annotated[str, typer.Argument(help="The cell that is to be trained.")],
    left: Annotated[float, typer.Option(help="Seconds that are left for it in this call.")],
    device: DeviceOption = "cuda",
    scale: ScaleOption = "paper",
    steps: Annotated[int, typer.Option(help="Steps of each net to time.")] = 200,
) -> None:
    """Exactness of the convolutions, ms a step of both nets, where the time goes, and whether training will end."""
    place = torch.device(device)
    for name in dict.fromkeys([cell, *trial.CELLS]):
        settings = spec.cells([name])[0].at(scale)  # type: ignore[arg-type]
        assert settings is not None
        trial.settle_here([settings], place, say)
        made = plan.Trial(settings, place)
        made.turn(5)
        step = made.turn(steps)
        without = ", ".join(ways.left_out()) or "nothing"
        say(f"{name}: {1000 * step:.3f} ms a step over {steps} steps; left out: {without}")
        if name == cell:
            _, epoch, _ = plan.measured(settings, place)
            whole = epoch * settings.train.epochs
            verdict = (
                "will end in this call" if whole < left else "will not end in this call; its curve comes back"
            )
            say(
                f"{name}: {settings.train.epochs} epochs of {epoch:.3g} s are {campaign.duration(whole)}, "
                f"{campaign.duration(left)} are left: training {verdict}"
            )
        _profiled(made, place)


def _profiled(made: plan.Trial, device: torch.device) -> None:
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profile:
        made.turn(PROFILED)
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    print(
        f"{PROFILED} steps:\n{profile.key_averages().table(sort_by=key, row_limit=25, max_name_column_width=70)}"
    )


@app.command()
def curve(
    store: Annotated[Path, typer.Argument(help="A store of runs.")],
    to: Annotated[Path, typer.Argument(help="The CSV file.")],
) -> None:
    """Every run's curve, finished or not, an epoch a line."""
    rows: list[dict[str, Any]] = []
    for path in sorted([*(store / "runs").glob("*.json"), *(store / "work").glob("*.ckpt")]):
        try:
            if path.suffix == ".json":
                found = [row.model_dump() for row in read_record(path).curve]
            else:
                found = saved(path)["run"]["curve"]
        except Exception as error:  # a file cut short can fail in any way; the others are good
            say(f"left out: {path.name}: {type(error).__name__}")
            continue
        rows += [{"run": path.stem, **row} for row in found]
    heads = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, heads, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_whole(to, text.getvalue())
    say(f"{len(rows)} epochs of {len({row['run'] for row in rows})} run(s)")


if __name__ == "__main__":
    sys.exit(app())
