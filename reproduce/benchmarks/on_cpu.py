"""Figure 3 for this machine: products, the MNIST MLP and the CIFAR-10 ConvNet, packed against others; one record.

The nets have the paper's sizes, and trained weights where `results/nets` has them; random ones take the same time.
Each is compared with the same net in plain torch float32, and in ONNX Runtime's int8 where that is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import kernels
from kernels import cpu, pixels
from kernels.bench import on_cpu as bench
from kernels.bench import timing
from reproduce import spec
from reproduce.benchmarks import common, peer_onnx
from reproduce.benchmarks.cells import CELLS, RANDOM, floats, images_of, net_of
from reproduce.packed import PackedNet
from reproduce.records import machine, runs

Say = Callable[[str], None]
BITS_ALONE, END_TO_END, FP32 = "packed, layers of bits alone", "packed, end to end", "torch float32, end to end"
INT8 = "onnxruntime int8, end to end"
NAIVE = "naive float32, products alone"
IMAGES = {"MNIST MLP": (10000, 1000), "CIFAR-10 ConvNet": (10000, 100)}  # images, batch
ROUNDS = {"MNIST MLP": 5, "CIFAR-10 ConvNet": 3}  # at least; a round of the ConvNet takes most of a minute
NAIVE_IMAGES = 1008  # whole tiles


def measure(say: Say, data_folder: Path | None, quick: bool = False) -> dict[str, Any]:
    """The record of one run of the benchmark on this machine's CPU. `quick`: tiny sizes, for tests."""
    started = runs.now()
    bounds = {bound: bench.peak(bound) for bound in bench.BOUNDS}
    rows, notes = bench.products(say, quick)
    for name in CELLS:
        found, remarks = _net_rows(name, say, data_folder, quick)
        rows += found
        notes += remarks
    return common.about("cpu", quick, started, machine.versions("onnxruntime", "onnx")) | {
        "backend": kernels.describe("cpu"),
        "first_layer": pixels.describe("cpu"),
        "threads": {"kernels": cpu.thread_count(), "torch": machine.machine("cpu")["threads"]},
        "bounds": bounds,
        "rows": rows,
        "notes": notes,
        "warnings": timing.warnings(rows),
        "paper": common.figure3(),
    }


def _net_rows(
    name: str, say: Say, data_folder: Path | None, quick: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows for one net, whole test set and one image alone, and notes."""
    settings, net, plain, whose = net_of(name, quick)
    images, source = images_of(name, settings, data_folder, 40 if quick else IMAGES[name][0])
    batch = 20 if quick else IMAGES[name][1]
    say(f"{name}: {len(images)} images, batches of {batch}")
    rows, notes = [], [f"{name}: {whose}, {source}"]
    budget, least = (0.05, 3) if quick else (25.0, ROUNDS[name])
    few = 16 if quick else NAIVE_IMAGES
    whole = settings.macs
    first = settings.layers()[0].macs
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
            if name == "MNIST MLP" and bench.has_compiler():
                times[NAIVE] = timing.once(_naive_products(settings, few)) * (len(part) / few)
                notes.append(f"{NAIVE}: timed once, on {few} images, scaled to {len(part)}")
        for candidate in times:
            macs = whole - first if candidate == BITS_ALONE else whole
            row = timing.row(what, candidate, times, 2.0 * macs * len(part), batch=size, images=len(part))
            timed = few if candidate == NAIVE else len(part)
            row |= {"images_per_second": len(part) / row["seconds"], "timed_images": timed}
            rows.append(row | {"random_weights": whose == RANDOM})
    return rows, list(dict.fromkeys(notes))


def _candidates(
    net: PackedNet, plain: nn.Module, steps: list[NDArray[np.uint8]], notes: list[str]
) -> dict[str, Callable[[], list[NDArray[Any]]]]:
    """The candidates; each classifies all batches of images in `steps`, one after another."""
    first = [net.first(step, "cpu") for step in steps]
    found: dict[str, Callable[[], list[NDArray[Any]]]] = {
        BITS_ALONE: lambda: [net.from_bits(h, "cpu") for h in first],
        END_TO_END: lambda: [net.predict(step, "cpu") for step in steps],
        FP32: lambda: [_torch_classes(plain, step) for step in steps],
    }
    if reason := peer_onnx.missing():
        notes.append(f"{INT8} left out: {reason}")
    else:
        classes = peer_onnx.classifier(net, cpu.thread_count())
        found[INT8] = lambda: [classes(step) for step in steps]
    return found


def _torch_classes(net: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    with torch.no_grad():
        found: NDArray[np.int64] = net(floats(torch.from_numpy(images))).argmax(1).numpy()
    return found


def _naive_products(settings: spec.Settings, images: int) -> Callable[[], None]:
    """The MLP's products for `images` images by the naive kernel; the 10 outputs are padded to 16."""
    assert isinstance(settings.net, spec.MLPNet)
    sizes = [layer.inputs for layer in settings.layers()] + [16]
    rng = np.random.default_rng(0)
    rows = -(-images // 16) * 16
    parts = []
    for k, n in pairwise(sizes):
        a, b = (rng.choice(np.array([-1, 1], np.float32), shape) for shape in ((rows, k), (k, n)))
        parts.append((a, b, np.empty((rows, n), np.float32)))

    def run() -> None:
        for a, b, out in parts:
            bench.naive(a, b, out)

    return run
