"""Training steps of the paper's two nets on this machine's CPU: ours against a plain PyTorch loop; one record.

Ours and the peer (`peer_torch`) take turns of a few steps each in one run. The record also has two bounds of a
step whose products are float32: the time of those products alone by torch's matmul, and the FP32 peak. Products
with ±1 can be faster than both.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

import kernels
from kernels.bench import on_cpu, timing
from reproduce import spec
from reproduce.benchmarks import breakdown, common
from reproduce.benchmarks.cells import CELLS, SCALE, SHIFT, cell_settings, images_of
from reproduce.benchmarks.peer_torch import Peer
from reproduce.nets.products import mode
from reproduce.records import runs
from reproduce.terminal import console
from reproduce.training import train
from reproduce.training.preprocess import DeviceData

Say = Callable[[str], None]
OURS, OURS_FLOAT32, PEER = "ours", "ours, float32", "plain PyTorch loop"
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
STEPS = {"MNIST MLP": 4, "CIFAR-10 ConvNet": 2}  # a turn
BUDGET = {"MNIST MLP": 45.0, "CIFAR-10 ConvNet": 70.0}  # seconds of turns; all else takes as long again
LEAST_SHARE = 0.3
"""What the peer must make of the steps/s that the net's float32 products allow (`bound`, by torch's matmul).

A ratio against a slower peer is void. On two Zen 5 cores it reached 0.49 and 2.0: its convolutions beat matmul.
"""
IMAGES = 2000


def measure(say: Say, data_folder: Path | None, quick: bool = False) -> dict[str, Any]:
    """The record of one run on this machine's CPU, all cores. `quick`: tiny nets, for tests."""
    started = runs.now()
    peak = on_cpu.peak("fp32_peak")
    rows, notes, bounds, parts, overheads = [], [], {}, {}, {}
    for name in CELLS:
        settings = cell_settings(name, quick)
        images, source = images_of(name, settings, data_folder, IMAGES)
        data = device_data(settings, images)
        notes.append(f"{name}: {source}, random labels")
        say(f"{name}: batches of {settings.train.batch}")
        times, layout = _turns(name, settings, data, quick)
        if settings.net.kind == "convnet":
            notes.append(f"{name}: the plain loop is timed with {layout} tensors, which are faster for it")
        bounds[name] = bound(settings, peak, quick)
        rows += _rows(name, settings, times, layout, bounds[name])
        say(f"{name}: where the time goes")
        module = ours(settings, data)
        blocks = [list(itertools.islice(batches(settings, data), 2)) for _ in range(3 if quick else 5)]
        parts[name] = breakdown.of_step(module, blocks)
        del module
        seconds = float(np.median(times[OURS]))
        overheads[name] = breakdown.of_lightning(settings, data, seconds, blocks=3 if quick else 5, epochs=3)
    return common.about("train-cpu", quick, started, {}) | {
        "backend": kernels.describe("cpu"),
        "rows": rows,
        "bounds": {"fp32_peak": peak, "nets": bounds},
        "parts": {
            "how": "timers around the parts of the real step: seconds a step, medians; none counts twice",
            "seconds": parts,
        },
        "lightning": {
            "how": "time between blocks and between epochs in train.fit, without evaluation",
            "nets": overheads,
        },
        "notes": notes,
        "warnings": timing.warnings(rows),
    }


def device_data(settings: spec.Settings, images: Any) -> DeviceData:
    """Images (N, H, W) or (N, H, W, C) uint8 as training has them on its device, with random labels."""
    rows = torch.from_numpy(images.reshape(len(images), -1))
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, settings.dataset.classes, len(images)))
    shape = () if settings.net.flat else images.shape[1:]
    return DeviceData(rows, labels, shape, SCALE, torch.tensor(SHIFT))


def batches(settings: spec.Settings, data: DeviceData) -> Iterator[Tensor]:
    """Indices of random batches, endlessly."""
    shuffle = torch.Generator().manual_seed(0)
    while True:
        yield torch.randperm(len(data), generator=shuffle)[: settings.train.batch]


def ours(settings: spec.Settings, data: DeviceData) -> train.Classifier:
    """The module that `reproduce run` trains, at the start of its first epoch."""
    module = train.Classifier(settings, {"train": data}, 0)
    module.on_train_epoch_start()
    return module


def in_float32(settings: spec.Settings, data: DeviceData) -> train.Classifier:
    """The same with $REPRODUCE_PRODUCTS=float32."""
    with patch.dict(os.environ, REPRODUCE_PRODUCTS="float32"):
        module = ours(settings, data)
        assert module.step.engine is None  # the step is made when it is first asked for
    return module


def _turns(name: str, settings: spec.Settings, data: DeviceData, quick: bool) -> tuple[timing.Times, str]:
    """Seconds a step of each turn of ours (in every mode) and of the peer; the peer's faster memory layout."""
    steps = 1 if quick else STEPS[name]
    modules, order = {OURS: ours(settings, data)}, batches(settings, data)
    if mode() == "fixed16":
        modules[OURS_FLOAT32] = in_float32(settings, data)
    images = data.images(torch.arange(len(data)))
    images = images.contiguous() if images.dim() == 4 else images

    assert isinstance(settings.train.rate, spec.ExponentialRate)
    rate = settings.train.rate.start

    def plain(layout: str) -> Callable[[], None]:
        torch.manual_seed(0)
        peer = Peer(settings, rate, LAYOUTS[layout])
        peer.net.train()
        held = images.contiguous(memory_format=peer.memory_format) if images.dim() == 4 else images

        def turn() -> None:
            for index in itertools.islice(order, steps):
                peer.step(held[index], data.labels[index])

        return turn

    layouts = list(LAYOUTS) if settings.net.kind == "convnet" else ["contiguous"]
    trial = {layout: plain(layout) for layout in layouts}
    layout = layouts[0]
    if len(layouts) > 1:
        times = timing.interleave(trial, 0.0, least=3, most=3)
        layout = min(layouts, key=lambda one: float(np.median(times[one])))
    turns: dict[str, Callable[[], object]] = {
        who: partial(lambda module: module.training_step(list(itertools.islice(order, steps)), 0), module)
        for who, module in modules.items()
    }
    turns[PEER] = trial[layout]
    trial.clear()  # frees the net of the other layout
    budget, least = (0.05, 3) if quick else (BUDGET[name], 7)
    times = timing.interleave(turns, budget, least, most=99, floor=0.0)
    return {candidate: taken / steps for candidate, taken in times.items()}, layout


def _rows(
    name: str, settings: spec.Settings, times: timing.Times, layout: str, limits: dict[str, Any]
) -> list[dict[str, Any]]:
    batch = settings.train.batch
    reason = void(1 / float(np.median(times[PEER])), limits["matmul_steps_per_second"])
    rows = []
    for candidate in times:
        row = timing.row(name, candidate, times, limits["operations"], batch=batch)
        row |= {"steps_per_second": 1 / row["seconds"], "images_per_second": batch / row["seconds"]}
        row["void"] = reason
        if candidate == PEER:
            row["layout"] = layout
        rows.append(row)
    return rows


def void(peer: float, allowed: float) -> str | None:
    """Why a ratio against a peer of `peer` steps/s is void where its products allow `allowed`; None if valid."""
    if peer >= LEAST_SHARE * allowed:
        return None
    why = f"under {LEAST_SHARE} of the {allowed:.2f} that its products allow here"
    return f"the plain loop makes {peer:.2f} steps/s, {why}"


# --- bounds ---------------------------------------------------------------------------------------------------


def products(settings: spec.Settings) -> list[tuple[int, int, int]]:
    """Each layer's product as (rows, inputs, outputs); a convolution is the product over its 3×3 windows."""
    batch = settings.train.batch
    return [(batch * y.height * y.width, y.kernel**2 * y.inputs, y.outputs) for y in settings.layers()]


def bound(settings: spec.Settings, peak: float | None, quick: bool) -> dict[str, Any]:
    """The bounds of float32 products alone: forward, dX (except of the first layer) and dW of every layer.

    By torch's matmul, and by the `peak` (operations a second, 2 a multiply-add).
    """
    listed = products(settings)
    operations = sum(2.0 * m * k * n * (2 if i == 0 else 3) for i, (m, k, n) in enumerate(listed))
    taken = {shape: _product_seconds(*shape, quick) for shape in dict.fromkeys(listed)}
    seconds = sum(sum(taken[shape][1 if i == 0 else 0 :]) for i, shape in enumerate(listed))
    return {
        "operations": operations,
        "matmul_seconds": seconds,
        "matmul_steps_per_second": 1 / seconds,
        "peak_steps_per_second": None if peak is None else peak / operations,
        "products": [
            {"rows": m, "inputs": k, "outputs": n, "dx_forward_dw_seconds": list(taken[m, k, n])}
            for m, k, n in listed
        ],
    }


def _product_seconds(m: int, k: int, n: int, quick: bool) -> tuple[float, float, float]:
    """Median seconds of dX (m, k), forward (m, n) and dW (n, k) of one layer."""
    x, w, y = torch.randn(m, k), torch.randn(n, k), torch.randn(m, n)
    dx, dw, out = torch.empty_like(x), torch.empty_like(w), torch.empty_like(y)
    calls: dict[str, Callable[[], object]] = {
        "dx": lambda: torch.mm(y, w, out=dx),
        "forward": lambda: torch.mm(x, w.T, out=out),
        "dw": lambda: torch.mm(y.T, x, out=dw),
    }
    with torch.no_grad():
        times = timing.interleave(calls, 0.0 if quick else 1.0, least=3)
    dx_seconds, forward, dw_seconds = (float(np.median(times[key])) for key in calls)
    return dx_seconds, forward, dw_seconds


# --- the terminal ---------------------------------------------------------------------------------------------


def show(record: dict[str, Any]) -> None:
    """The record as tables: rates and ratios, bounds, parts of our step."""
    out = console(150)
    table = Table("", "candidate", "ms a step", "steps/s", "images/s", "× plain loop", "of the products' bound")
    for row in record["rows"]:
        limits = record["bounds"]["nets"][row["what"]]
        ratio = common.ratio_text(row["times_faster_than"].get(PEER))
        table.add_row(
            row["what"] if row["candidate"] == OURS else "",
            row["candidate"] + (f", {row['layout']}" if row.get("layout") == "channels-last" else ""),
            f"{1000 * row['seconds']:.1f}",
            f"{row['steps_per_second']:.2f}",
            f"{row['images_per_second']:,.0f}",
            ratio + (" VOID" if ratio and row["void"] else ""),
            f"{100 * row['steps_per_second'] / limits['matmul_steps_per_second']:.0f} %",
        )
    out.print(table)
    for name, limits in record["bounds"]["nets"].items():
        peak = limits["peak_steps_per_second"]
        by_peak = "" if peak is None else f", {peak:.2f} at the FP32 peak"
        out.print(
            f"{name}: float32 products alone: {limits['matmul_steps_per_second']:.2f} steps/s by matmul{by_peak}"
        )
    seconds = record["parts"]["seconds"]
    table = Table("part of our step", *(f"{name}, ms" for name in seconds), *(f"{name}, %" for name in seconds))
    for part in dict.fromkeys(part for parts in seconds.values() for part in parts):
        taken = [(parts.get(part, 0.0), sum(parts.values())) for parts in seconds.values()]
        table.add_row(
            part, *(f"{1000 * s:.1f}" for s, _ in taken), *(f"{100 * s / whole:.1f}" for s, whole in taken)
        )
    out.print(table)
    for name, found in record["lightning"]["nets"].items():
        out.print(f"{name}: Lightning's own overhead {100 * found['share_of_step']:.2f} % of a step")
    for row in record["rows"]:
        if row["void"] and row["candidate"] == OURS:
            out.print(f"VOID: {row['what']}: {row['void']}")
    common.show_notes(out, record)
