"""Do products of 16-bit numbers change what nets learn? (`make compare-products`; CELLS="table1/…" for some cells)

Cells are trained at small scale in both modes of `nets.products`, fixed16 and float32, with the same seeds:
weights, order of the images and data are the same at the start, so that the errors are compared in pairs. Dropout
and stochastic signs are drawn in other ways in the two modes. The record holds every seed's errors and, for each
cell, the mean difference with its 95 % interval (Student's t over the seeds' differences).
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from reproduce import records, spec, yamlfile
from reproduce.records import Record, Result, machine, runs, sealed
from reproduce.records.compared_products import Products

CELLS = ("table1/bnn-torch7-mnist", "table1/bnn-theano-mnist", "table1/bnn-theano-cifar10")
SEEDS = 8
MODES = ("fixed16", "float32")
STORE = yamlfile.ROOT / "results" / "local" / "products"
RECORDS = yamlfile.ROOT / "results" / "products"


def difference(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
    """Mean of first - second, pair by pair, with its standard error and 95 % interval (`low`, `high`).

    Raises ValueError for fewer than two pairs, or unequal numbers.
    """
    pairs = [a - b for a, b in zip(first, second, strict=True)]
    if len(pairs) < 2:
        raise ValueError("a difference needs two pairs at least")
    mean, error = statistics.fmean(pairs), statistics.stdev(pairs) / math.sqrt(len(pairs))
    half = float(stats.t.ppf(0.975, len(pairs) - 1)) * error
    return {"mean": mean, "standard_error": error, "low": mean - half, "high": mean + half}


def compared(fixed: Sequence[Record], plain: Sequence[Record]) -> dict[str, Any]:
    """The record's entry for one cell: runs of both modes, in pairs by seed.

    Raises ValueError where seeds, settings or data of the two do not fit.
    """
    fixed, plain = (sorted(some, key=lambda r: r.seed) for some in (fixed, plain))
    for a, b in zip(fixed, plain, strict=True):
        if (a.seed, a.settings_digest, a.data) != (b.seed, b.settings_digest, b.data):
            raise ValueError(f"seeds {a.seed} and {b.seed} are no pair: other settings or data")
    curves = zip(*(zip(a.curve, b.curve, strict=True) for a, b in zip(fixed, plain, strict=True)), strict=True)
    ends = [[_result(r) for r in some] for some in (fixed, plain)]
    valid = ends[0][0].valid_images
    return {
        "cell": fixed[0].cell,
        "scale": fixed[0].scale,
        "seeds": [r.seed for r in fixed],
        "modes": {
            str(some[0].code["mode"]): {
                "source": some[0].code["source"],
                "threads": some[0].machine.get("threads"),
                "test_error": [e.test_error for e in end],
                "last_test_error": [e.last_test_error for e in end],
                "seconds": [round(r.seconds, 1) for r in some],
            }
            for some, end in zip((fixed, plain), ends, strict=True)
        },
        "difference": difference(*([e.test_error for e in end] for end in ends)),
        "last_difference": difference(*([e.last_test_error for e in end] for end in ends)),
        "valid_difference_by_epoch": [
            round(statistics.fmean(100 * (a.valid_wrong - b.valid_wrong) / valid for a, b in epoch), 4)
            for epoch in curves
        ],
    }


def _result(record: Record) -> Result:
    if record.result is None:
        raise ValueError(f"seed {record.seed} of {record.cell} broke off: {record.failure}")
    return record.result


def train(mode: str, cells: Sequence[str], seeds: int) -> list[Record]:
    """The runs of one mode; missing ones are trained in another process."""
    words = ["run", *cells, "--scale", "small", "--seeds", str(seeds), "--threads", "1"]
    code = subprocess.run(
        [sys.executable, "-m", "reproduce", *words, "--results", str(STORE / mode)],
        env=os.environ | {"REPRODUCE_PRODUCTS": mode},
        cwd=yamlfile.ROOT,
    ).returncode
    if code:
        sys.exit(code)
    digests = {cell.name: cell.scales["small"].digest() for cell in spec.cells(list(cells))}
    source = machine.source_digest("cpu")
    found = [
        r
        for r in records.read_records(STORE / mode / "runs")[0]
        if (r.code["source"], r.settings_digest) == (source, digests.get(r.cell)) and r.seed < seeds
    ]
    for cell in cells:
        if (have := sum(r.cell == cell for r in found)) != seeds:
            sys.exit(f"error: {cell}: {have} of {seeds} runs in {mode}; are its data there?")
    return found


def main(cells: Sequence[str] = CELLS, seeds: int = SEEDS, folder: Path = RECORDS) -> Path:
    """Train what is missing, write a record of the comparison and show it."""
    made = {mode: train(mode, cells, seeds) for mode in MODES}
    lines = [compared(*([r for r in made[mode] if r.cell == cell] for mode in MODES)) for cell in cells]
    some = made[MODES[0]][0]
    content = {
        "format": 1,
        "kind": "products",
        "command": "make compare-products" + ("" if tuple(cells) == CELLS else f' CELLS="{" ".join(cells)}"'),
        "started": runs.now(),
        "machine": dict(some.machine),
        "libraries": dict(some.libraries),
        "code": {name: some.code[name] for name in ("revision", "dirty")},
        "cells": lines,
    }
    target = sealed.write_new(Products.model_validate(content), folder)
    for line in lines:
        d = line["difference"]
        print(
            f"{line['cell']}, {len(line['seeds'])} seeds: fixed16 - float32 = {d['mean']:+.3f} points "
            f"({d['low']:+.3f} to {d['high']:+.3f}); last epoch {line['last_difference']['mean']:+.3f}"
        )
    print(target)
    return target


def named(patterns: Sequence[str]) -> tuple[str, ...]:
    """The names of the cells that `patterns` name, CELLS if there are none; a wrong one ends the program."""
    try:
        return tuple(cell.name for cell in spec.cells(list(patterns or CELLS)))
    except spec.SpecError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(named(sys.argv[1:]))
