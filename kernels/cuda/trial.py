"""Checks a backend on this machine's GPU, in a process of its own: python -m kernels.cuda.trial cuda-wgmma.

A kernel that never ends or corrupts the GPU's state makes its whole process useless, so a benchmark calls
`failures` first. Exit code 0 if all results equal the host's, else 1 and a line that names the wrong one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

import kernels
from kernels import Thresholds, pack, pixels, unpack
from kernels.bench.timing import said
from kernels.cuda import launch, updates
from kernels.cuda.arrays import moved, to_gpu

PIXELS = "pixels"
UPDATES = "updates"
SECONDS = 60.0  # time limit of all trials together, with compiling
SHAPES = ((1, 1, 1), (131, 257, 1000), (4096, 4096, 8192))
QUICK = ((1, 1, 1), (35, 129, 300))
ROWS = 16  # rows of a product that are compared with the host's


def check(name: str, quick: bool = False) -> None:
    """Products, thresholds and convolutions of a backend (or `PIXELS`, or `UPDATES`) against the host.

    `quick`: small ones only, for tests. RuntimeError if they differ.
    """
    rng = np.random.default_rng(0)

    def signs(*shape: int) -> Any:
        return rng.integers(0, 2, shape, np.int8) * 2 - 1

    if name == PIXELS:
        x = rng.integers(0, 256, (9, 8, 8, 3)).astype(np.uint8)
        w = pack(signs(70, 3, 3, 3))
        _same(pixels.pixel_conv2d(moved(x), w, 1), pixels.pixel_conv2d(x, w, 1, "reference"), "pixels")
        return
    if name == UPDATES:
        for entry in updates.ENTRIES:
            _check_update(entry, rng)
        return
    for m, n, k in QUICK if quick else SHAPES:
        a, b = pack(signs(m, k)), pack(signs(n, k))
        rule = Thresholds(rng.integers(-50, 51, n), rng.random(n) < 0.5)
        left, right, few = to_gpu(a), to_gpu(b), pack(unpack(a)[-ROWS:])
        want = kernels.xnor_matmul(few, b)
        what = f"product of ({m}, {k}) and ({n}, {k})"
        _same(kernels.xnor_matmul(left, right, name)[-ROWS:], want, what)
        bits = kernels.xnor_matmul_threshold(left, right, rule, name)
        _same(unpack(bits)[-ROWS:] > 0, rule.apply(want), f"{what}, bits")
    images, filters = pack(signs(3, 6, 5, 130)), pack(signs(33, 3, 3, 130))
    want = kernels.xnor_conv2d(images, filters)
    _same(kernels.xnor_conv2d(to_gpu(images), to_gpu(filters), 1, 1, name), want, "convolution")


def _check_update(entry: str, rng: np.random.Generator) -> None:
    """A step of two tensors by an update rule, and the signs beside them, against NumPy's float64."""
    steps, rate, beta1, beta2, eps = 7.0, 0.01, 0.9, 0.999, 1e-8
    clock, common = moved(np.array(steps)), moved(np.array(rate))
    kept, parts = [], []
    for count, multiplier in ((100003, 1.0), (37, 3.0)):
        w, g = (rng.uniform(-0.02, 0.02, count).astype(np.float32) for _ in range(2))
        there = [moved(x) for x in (w, np.zeros_like(w), np.zeros_like(w), g, np.zeros(count, np.uint16))]
        at_w, at_m, at_v, at_g, at_signs = (int(x.data.ptr) for x in there)
        parts.append(updates.Part(at_w, at_m, at_v, at_g, count, multiplier, 1.0, at_signs, 0x3F80))
        kept.append((w, g, multiplier, there))
    at_clock, at_rate = int(clock.data.ptr), int(common.data.ptr)
    updates.update(entry, parts, clock=at_clock, rate=at_rate, beta1=beta1, beta2=beta2, eps=eps)
    for w, g, multiplier, there in kept:
        size = np.abs(g.astype(np.float64))
        if entry == "update_adam":
            scaled = rate * np.sqrt(1 - beta2**steps) / (1 - beta1**steps)
            under = np.sqrt((1 - beta2) * size**2)
        else:
            scaled, under = _power(rate / (1 - beta1**steps)), _power(size)
        want = np.clip(w - multiplier * scaled * (1 - beta1) * g / (under + eps), -1, 1)
        new = there[0].get()
        far = np.abs(new - want) > 1e-6
        if far.mean() > (0 if entry == "update_adam" else 1e-4):  # near sqrt(2) 2^n both powers are right
            raise RuntimeError(f"{entry}: {int(far.sum())} of {far.size} results are wrong")
        _same(there[4].get(), np.where(new >= 0, 0x3F80, 0xBF80).astype(np.uint16), f"{entry}, signs")


def _power(x: Any) -> Any:
    """The power of two nearest to x >= 0 in its logarithm; 0 for 0."""
    with np.errstate(divide="ignore"):
        return np.where(x > 0, 2.0 ** np.rint(np.log2(x)), 0.0)


def _same(found: Any, want: Any, what: str) -> None:
    found = found.get() if hasattr(found, "get") else found  # CuPy's
    if not np.array_equal(found, want):
        raise RuntimeError(f"{what}: {int((found != want).sum())} of {want.size} results are wrong")


def failures(names: Sequence[str], seconds: float = SECONDS) -> dict[str, str]:
    """The errors of those of `names` that failed, by name. All of them run at the same time."""
    return broken({name: ["kernels.cuda.trial", name] for name in names}, seconds)


def broken(commands: Mapping[str, Sequence[str]], seconds: float = SECONDS) -> dict[str, str]:
    """Runs modules with their arguments at the same time, each in its own process; returns their errors by name.

    Modules that end with exit code 0 are left out; the error of another is the last line it printed.
    """
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    started = {
        name: subprocess.Popen(
            [sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        for name, command in commands.items()
    }  # fmt: skip
    end, found = time.monotonic() + seconds, {}
    for name, process in started.items():
        try:
            output, _ = process.communicate(timeout=max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            with suppress(subprocess.TimeoutExpired):  # a process that hangs in the driver may not end
                process.communicate(timeout=2)
            found[name] = f"not done after {seconds:.0f} s: hangs, or is compiled very slowly"
            continue
        if process.returncode:
            lines = output.strip().splitlines()
            found[name] = lines[-1] if lines else f"ended with exit code {process.returncode}"
    return found


def main(arguments: list[str] | None = None) -> int:
    """One trial; see the module."""
    name = (sys.argv[1:] if arguments is None else arguments)[0]
    if reason := launch.no_gpu():
        print(reason)
        return 1
    try:
        check(name)
    except Exception as error:  # any error of a driver
        print(said(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
