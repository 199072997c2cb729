"""`make check-small`: trains two small nets and compares them with bands from committed runs.

A band is the prediction interval of one more run, for each measure, from the runs of the calibration seeds. The
mutants have one deliberate error each. They show that a wrong training leaves the bands.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from reproduce import spec, yamlfile
from reproduce.campaign import worker
from reproduce.campaign.wanted import Wanted
from reproduce.records import Record, read_records, runs

COMMITTED = yamlfile.ROOT / "results" / "check"
OWN_STORE = yamlfile.ROOT / "results" / "check-local"
CONFIDENCE = 0.999
MUTANT_SEEDS = 3
MUTANTS_NOTICED = 2

Say = Callable[[str], None]


def measures(record: Record) -> dict[str, float]:
    """The figures that are compared: the last epoch's training cost (log) and validation error (percent)."""
    assert record.result is not None
    last = record.curve[-1]
    return {
        "log training cost": math.log(max(last.train_loss, 1e-12)),
        "validation error %": 100 * last.valid_wrong / record.result.valid_images,
    }


def band(values: Sequence[float]) -> tuple[float, float]:
    """Two-sided CONFIDENCE prediction interval for one more value: mean ± t · s · sqrt(1 + 1/n)."""
    n, mean = len(values), float(np.mean(values))
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * float(np.std(values, ddof=1)) * math.sqrt(1 + 1 / n)
    return mean - half, mean + half


def bands(cell: spec.Cell, folder: Path = COMMITTED) -> dict[str, tuple[float, float]]:
    """Bands of a check cell from its committed calibration runs. ValueError if they are not all there."""
    assert cell.experiment.check is not None
    wanted = set(cell.experiment.check.calibration)
    digest = cell.scales["small"].digest()
    records = [
        r
        for r in read_records(folder / "calibration")[0]
        if r.cell == cell.name and r.seed in wanted and r.settings_digest == digest and r.status == "finished"
    ]
    if {r.seed for r in records} != wanted:
        have = sorted({r.seed for r in records})
        raise ValueError(f"{cell.name}: calibration runs of seeds {sorted(wanted)} wanted, {have} are committed")
    by_record = [measures(r) for r in records]
    return {name: band([m[name] for m in by_record]) for name in by_record[0]}


def outside(record: Record, limits: dict[str, tuple[float, float]]) -> list[str]:
    """The measures of a run that leave their band, as lines; a run that failed leaves every band."""
    if record.result is None:
        return ["the run failed"]
    found = measures(record)
    return [
        f"{name} {found[name]:.3f} outside {low:.3f} to {high:.3f}"
        for name, (low, high) in limits.items()
        if not low <= found[name] <= high
    ]


class Missing(Exception):
    """Some runs could not be made; the message says which, and why."""


def check(data: Path | None, say: Say) -> bool:
    """Train every check cell afresh with its own seed; whether all stay within their bands. Raises Missing."""
    cells = _cells()
    plan = [Wanted(c, "small", c.experiment.check.seed, c.scales["small"]) for c in cells if c.experiment.check]
    limits = {c.name: bands(c) for c in cells}
    with tempfile.TemporaryDirectory() as folder:
        records, missing = _trained(plan, data, say, Path(folder))
    good = True
    for item in plan:
        if item.cell.name in missing:
            continue
        record = records[item.cell.name, None, item.seed]
        problems = outside(record, limits[item.cell.name])
        good &= not problems
        if not problems:
            shown = ", ".join(f"{k} {v:.3f}" for k, v in measures(record).items())
            found = f"within its band ({shown})"
        else:
            found = "; ".join(problems)
        say(f"{item.cell.name}: {found}")
    if good and missing:
        raise Missing("; ".join(missing.values()))
    return good


def mutants(data: Path | None, say: Say, keep: bool) -> bool:
    """Train every mutant of every check cell with MUTANT_SEEDS seeds; whether MUTANTS_NOTICED are caught.

    Caught by a cell: every seed leaves a band there. With `keep` the records go to results/check/mutants.
    Raises Missing.
    """
    cells = _cells()
    limits = {c.name: bands(c) for c in cells}
    plan = [
        Wanted(c, "small", seed, settings, mutant)
        for c in cells
        for mutant, settings in c.mutants.items()
        for seed in range(MUTANT_SEEDS)
    ]
    records, missing = _trained(plan, data, say, OWN_STORE)
    if missing:
        raise Missing("; ".join(missing.values()))
    caught: dict[str, bool] = {}
    for cell in cells:
        for mutant in cell.mutants:
            found = [records[cell.name, mutant, seed] for seed in range(MUTANT_SEEDS)]
            problems = [outside(record, limits[cell.name]) for record in found]
            hits = sum(bool(p) for p in problems)
            caught[mutant] = caught.get(mutant, False) or hits == MUTANT_SEEDS
            why = next((p[0] for p in problems if p), "within the band")
            say(f"{cell.name}, {mutant}: {hits} of {MUTANT_SEEDS} seeds caught ({why})")
    for mutant, hit in caught.items():
        say(f"{mutant}: {'the check fails' if hit else 'NOT noticed'}")
    if keep:
        runs.Store(OWN_STORE).copy(list(records.values()), COMMITTED / "mutants")
    say(f"{sum(caught.values())} of {len(caught)} planted errors are noticed, {MUTANTS_NOTICED} must be")
    return sum(caught.values()) >= MUTANTS_NOTICED


def calibrate(data: Path | None, say: Say) -> None:
    """Train the calibration seeds and put their records into results/check/calibration."""
    plan = [
        Wanted(c, "small", seed, c.scales["small"])
        for c in _cells()
        if c.experiment.check
        for seed in c.experiment.check.calibration
    ]
    records, missing = _trained(plan, data, say, OWN_STORE)
    runs.Store(OWN_STORE).copy(list(records.values()), COMMITTED / "calibration")
    if missing:
        raise Missing("; ".join(missing.values()))


def _cells() -> list[spec.Cell]:
    found = [c for c in spec.cells() if c.experiment.check]
    if not found:
        raise spec.SpecError("no experiment file has a `check:` section: nothing to check")
    return found


Trained = dict[tuple[str, str | None, int], Record]


def _trained(plan: Sequence[Wanted], data: Path | None, say: Say, folder: Path) -> tuple[Trained, dict[str, str]]:
    summary = worker.carry_out(plan, runs.Store(folder), data, torch.device("cpu"), say, bar=False)
    if left := summary.not_made | summary.refused:
        raise Missing("; ".join(f"{run}: {reason}" for run, reason in left.items()))
    found = {(r.cell, r.variant, r.seed): r for r in [*summary.records, *summary.failed]}
    return found, summary.missing
