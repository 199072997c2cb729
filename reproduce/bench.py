"""Figure 3 for this machine: products, the MNIST MLP and the CIFAR-10 ConvNet, packed against others; one record.

The nets have the paper's sizes and random weights, which take the same time as trained ones. Each is compared with
the same net in plain torch float32.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reproduce import paper, spec, yamlfile
from reproduce.terminal import DataOption, say, stop

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from reproduce.packed import PackedNet

Say = Callable[[str], None]
RESULTS = yamlfile.ROOT / "results" / "kernels"
FORMAT = 1
SCALE, SHIFT = 2 / 255, -1.0  # pixels onto -1..1, as the BNN cells of MNIST and CIFAR-10 have them
BITS_ALONE, END_TO_END, FP32 = "packed, layers of bits alone", "packed, end to end", "torch float32, end to end"
INT8 = "onnxruntime int8, end to end"
NAIVE = "naive float32, products alone"
CELLS = {"MNIST MLP": "table1/bnn-theano-mnist", "CIFAR-10 ConvNet": "table1/bnn-theano-cifar10"}
IMAGES = {"MNIST MLP": (10000, 1000), "CIFAR-10 ConvNet": (10000, 100)}  # images, batch
ROUNDS = {"MNIST MLP": 5, "CIFAR-10 ConvNet": 3}  # at least; a round of the ConvNet takes most of a minute
NAIVE_IMAGES = 1000


def measure(say: Say, data_folder: Path | None, quick: bool = False) -> dict[str, Any]:
    """The record of one run of the benchmark on this machine's CPU. `quick`: tiny sizes, for tests."""
    import kernels
    from kernels import bench, cpu, pixels, timing
    from reproduce import machine, runs

    started = runs.now()
    bounds = bench.peaks()
    rows, notes = bench.products(say, quick)
    for name in CELLS:
        found, remarks = _net_rows(name, say, data_folder, quick)
        rows += found
        notes += remarks
    return {
        "format": FORMAT,
        "kind": "cpu",
        "quick": quick,
        "started": started,
        "machine": machine.machine("cpu") | {"clocks_mhz": clocks(), "load": os.getloadavg()},
        "libraries": machine.libraries() | _optional(),
        "code": machine.code(),
        "backend": kernels.describe("cpu"),
        "first_layer": pixels.describe("cpu"),
        "threads": {"kernels": cpu._threads(None), "torch": machine.machine("cpu")["threads"]},
        "bounds": bounds,
        "rows": rows,
        "notes": notes,
        "warnings": timing.warnings(rows),
        "paper": {"where": _figure3()["where"], "bars": _figure3()["bars"]},
    }


def _net_rows(
    name: str, say: Say, data_folder: Path | None, quick: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows for one net, whole test set and one image alone, and notes."""
    import numpy as np

    from kernels import timing
    from kernels.bench import has_compiler
    from reproduce.training import nets

    settings = cell_settings(name, quick)
    net, plain = random_net(settings)
    images, source = images_of(name, settings, data_folder, 40 if quick else IMAGES[name][0])
    batch = 20 if quick else IMAGES[name][1]
    say(f"{name}: {len(images)} images, batches of {batch}")
    rows, notes = [], [f"{name}: random weights, {source}"]
    budget, least = (0.05, 3) if quick else (25.0, ROUNDS[name])
    whole = nets.macs(settings.net)
    first = int(np.prod(net.first.weights.shape)) * net.first.shape.size**2
    for what, part, size in (
        (f"{name}, {len(images)} images in batches of {batch}", images, batch),
        (f"{name}, one image alone", images[:1], 1),
    ):
        steps = [part[i : i + size] for i in range(0, len(part), size)]
        candidates = _candidates(net, plain, steps, notes)
        times = timing.interleave(candidates, budget, least)
        if size > 1:
            mine = np.concatenate(candidates[END_TO_END]())
            for key, other in ((FP32, "float32"), (INT8, "onnxruntime's int8")):
                if key in candidates:
                    differ = int((mine != np.concatenate(candidates[key]())).sum())
                    notes.append(f"{name}: predictions of packed and {other} net differ on {differ} images")
            if name == "MNIST MLP" and has_compiler():
                few = 16 if quick else NAIVE_IMAGES
                times[NAIVE] = timing.once(_naive_products(settings, few)) * (len(part) / few)
                notes.append(f"{NAIVE}: timed once, on {few} images, scaled to {len(part)}")
        for candidate in times:
            macs = whole - first if candidate == BITS_ALONE else whole
            row = timing.row(what, candidate, times, 2.0 * macs * len(part), batch=size, images=len(part))
            rows.append(row | {"images_per_second": len(part) / row["seconds"]})
    return rows, list(dict.fromkeys(notes))


def _candidates(
    net: PackedNet, plain: nn.Module, steps: list[NDArray[np.uint8]], notes: list[str]
) -> dict[str, Callable[[], list[NDArray[Any]]]]:
    """What goes through all batches of images in `steps`, one after another."""
    from kernels.cpu import thread_count
    from reproduce import peer_onnx

    first = [net.first(step, "cpu") for step in steps]
    found: dict[str, Callable[[], list[NDArray[Any]]]] = {
        BITS_ALONE: lambda: [net.from_bits(h, "cpu") for h in first],
        END_TO_END: lambda: [net.predict(step, "cpu") for step in steps],
        FP32: lambda: [_torch_classes(plain, step) for step in steps],
    }
    if reason := peer_onnx.missing():
        notes.append(f"{INT8} left out: {reason}")
    else:
        classes = peer_onnx.classifier(net, thread_count())
        found[INT8] = lambda: [classes(step) for step in steps]
    return found


def random_net(settings: spec.Settings) -> tuple[PackedNet, nn.Module]:
    """A net of `settings` with random weights, BN of every slope: packed, and in torch float32 with ±1 weights."""
    import numpy as np
    import torch

    from reproduce.packed import freeze_net
    from reproduce.training import binarize, nets

    torch.manual_seed(0)
    state = nets.build(settings.net).state_dict()
    for key, value in state.items():
        if key.endswith("norm.inv_std"):
            value.fill_(state[key.replace("norm.inv_std", "layer.weight")][0].numel() ** -0.5)
        elif key.endswith("norm.weight"):
            value.uniform_(-1, 1)
        elif key.endswith(("norm.bias", "layer.bias")):
            value.uniform_(-0.1, 0.1)
    packed = freeze_net(settings, state, (SCALE, np.full((), SHIFT, np.float32)))
    signs = {k: binarize.sign(v) if k.endswith("layer.weight") else v for k, v in state.items()}
    plain = nets.build(settings.net.model_copy(update={"weights": "float"}))  # ±1 as floats: no sign in each call
    plain.load_state_dict(signs)
    return packed, plain.eval()


def _torch_classes(net: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    import torch

    with torch.no_grad():
        x: Tensor = torch.from_numpy(images).to(torch.float32).mul_(SCALE).add_(SHIFT)
        x = x.flatten(1) if x.dim() == 3 else x.permute(0, 3, 1, 2)  # (N, C, H, W) as it lies: channels last
        found: NDArray[np.int64] = net(x).argmax(1).numpy()
    return found


def _naive_products(settings: spec.Settings, images: int) -> Callable[[], None]:
    """The MLP's products for so many images by the naive kernel; the 10 outputs are filled up to 16."""
    from itertools import pairwise

    import numpy as np

    from kernels.bench import naive

    assert isinstance(settings.net, spec.MLPNet)
    sizes = [784, *settings.net.hidden, 16]
    rng = np.random.default_rng(0)
    rows = -(-images // 16) * 16
    parts = []
    for k, n in pairwise(sizes):
        a, b = (rng.choice(np.array([-1, 1], np.float32), shape) for shape in ((rows, k), (k, n)))
        parts.append((a, b, np.empty((rows, n), np.float32)))

    def run() -> None:
        for a, b, out in parts:
            naive(a, b, out)

    return run


def cell_settings(name: str, quick: bool) -> spec.Settings:
    """The settings at the paper's scale of the cell that stands for a net; `quick`: with a tiny net."""
    (cell,) = spec.cells([CELLS[name]])
    settings = cell.scales["paper"]
    if not quick:
        return settings
    small: dict[str, Any] = {"hidden": [32, 32]} if name == "MNIST MLP" else {"channels": [8], "dense": [16]}
    return settings.model_copy(update={"net": settings.net.model_copy(update=small)})


def images_of(
    name: str, settings: spec.Settings, data_folder: Path | None, count: int
) -> tuple[NDArray[np.uint8], str]:
    """The first `count` test images if the data set lies in the data folder, else random bytes; and which."""
    import numpy as np

    from reproduce import data

    file = data.folder(data_folder) / f"{settings.data.name}.npz"
    if file.exists():  # nothing is fetched for a measurement that any images will do for
        images = data.load(settings.data.name, data_folder).arrays["x_test"][:count]
        return np.ascontiguousarray(images), f"the first {count} test images"
    shape = data.SHAPES[settings.data.name]["test"][1:]
    found = np.random.default_rng(0).integers(0, 256, (count, *shape)).astype(np.uint8)
    return found, f"{count} random images ({file.name} is not in the data folder)"


def clocks() -> list[float] | None:
    """Each core's present clock in MHz, where the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")] or None


def _optional() -> dict[str, str]:
    from importlib import metadata

    found = {}
    for name in ("onnxruntime", "onnx"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _figure3() -> dict[str, Any]:
    figure: dict[str, Any] = paper.read()["figure3"]
    return figure


def write(record: dict[str, Any], folder: Path) -> Path:
    """Write the record into `folder`, under a name of its own."""
    from reproduce import runs

    stamp = record["started"].replace(":", "").replace("-", "").split("+")[0]
    path = folder / f"{record['kind']}-{'quick-' if record['quick'] else ''}{stamp}.json"
    if path.exists():
        raise FileExistsError(17, "a record of the same second is there already", str(path))
    runs.write_sealed(path, record)
    return path


# --- the terminal ---------------------------------------------------------------------------------------------


def paper_seconds(what: str, candidate: str, bars: list[dict[str, Any]]) -> float | None:
    """What the paper's figure shows on its GTX 750 for the like of this row."""
    start = "product of two 8192" if what.startswith("product of 8192") else None
    if what.startswith("MNIST MLP, 10000"):
        start = "MNIST MLP on the 10,000"
    bar = next((b for b in bars if start and b["what"].startswith(start)), None)
    if bar is None:
        return None
    kinds = {"naive": "baseline", "torch float32": "cublas"}
    kinds |= {
        r"xnor\b.*, kernel alone": "xnor",
        r"packed\b.*, end to end": "xnor",
    }  # with or without a backend's name
    key = next((kind for pattern, kind in kinds.items() if re.match(pattern, candidate)), None)
    return None if key is None else float(bar[key])


def show(record: dict[str, Any]) -> None:
    """The record as a table, with the paper's seconds beside it."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", "candidate", "ms", "Gop/s", "of its bound", "× torch float32", "images/s", "paper, GTX 750")
    last = None
    for row in record["rows"]:
        against = next((v for k, v in row["times_faster_than"].items() if k.startswith("torch float32")), None)
        times = "" if against is None else f"{against['ratio']:.2f}"
        if against is not None and against["low"] is not None:
            times += f" ({against['low']:.2f} to {against['high']:.2f})"
        printed = paper_seconds(row["what"], row["candidate"], record["paper"]["bars"])
        share = row.get("share_of_bound")
        rate = row.get("images_per_second")
        table.add_row(
            row["what"] if row["what"] != last else "",
            row["candidate"],
            f"{1000 * row['seconds']:.4g}",
            f"{row['operations_per_second'] / 1e9:,.0f}",
            "" if share is None else f"{100 * share:.0f} %",
            times,
            "" if rate is None else f"{rate:,.0f}",
            "" if printed is None else f"{1000 * printed:,.0f} ms",
        )
        last = row["what"]
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table)
    for line in record["notes"]:
        console.print(f"note: {line}")
    for line in record["warnings"]:
        console.print(f"warning: {line}")


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
) -> None:
    """Measure Figure 3 on this machine: products, MLP and ConvNet; or their training. A table and a record.

    Exit code 2: the GPU was asked for and cannot be measured; 3: a data set's file is damaged.
    """
    from reproduce.data import DataError

    folder, measured, shown = to or RESULTS, measure, show
    if gpu and training:
        raise stop("--train measures the CPU", 2)
    if gpu:
        from reproduce import bench_gpu

        if reason := bench_gpu.missing():
            raise stop(reason, 2)
        measured = bench_gpu.measure
    if training:
        from reproduce import bench_train

        folder, measured, shown = to or bench_train.RESULTS, bench_train.measure, bench_train.show
    try:
        record = measured(say, data, quick)
    except DataError as error:
        raise stop(error, 3) from None
    path = write(record, folder)
    shown(record)
    say(f"written: {yamlfile.shown(path)}")
