"""`reproduce tune`: the learning rate of each arm of an ablation, chosen on validation images.

Every rate that a file names is tried once for each arm, with a seed that no compared run has. The records of these
runs are kept in results/tuning. The author of the file then enters the rate with the least validation error, and
adds a rate beyond it if it is the first or the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reproduce import spec, yamlfile
from reproduce.records import Record, read_records
from reproduce.terminal import say

SEED = 100
COMMITTED = yamlfile.ROOT / "results" / "tuning" / "runs"


def found(cell: spec.Cell, records: Sequence[Record]) -> dict[float, Record]:
    """The rates of an arm that have been tried: rate -> record of its run, the newest where there are several."""
    of_arm = [r for r in records if r.seed == SEED and r.cell == cell.name]
    made = {r.settings_digest: r for r in sorted(of_arm, key=lambda r: r.started)}
    digests = {rate: settings.digest() for rate, settings in cell.tried.items()}
    return {rate: made[digest] for rate, digest in digests.items() if digest in made}


def best(cell: spec.Cell, records: Sequence[Record]) -> float | None:
    """The rate with the least validation error, the smallest of equal ones; a failed run counts as 100 %.

    None until all have been tried.
    """
    made = found(cell, records)
    if len(made) < len(cell.tried):
        return None
    return min(sorted(made), key=lambda rate: error(made[rate]))


def error(record: Record) -> float:
    """Validation error at the best epoch, in percent; 100 if the run failed."""
    return record.result.valid_error if record.result else 100.0


def at_an_end(cell: spec.Cell, rate: float) -> bool:
    """Whether a rate is the first or the last of those tried for an arm, so that one beyond may do better."""
    assert cell.ablation is not None
    grid = cell.ablation.tried(cell.arm)
    return rate in (min(grid), max(grid))


def committed() -> list[Record]:
    """The records of the trials that are committed."""
    return read_records(COMMITTED)[0]


def tune(cells: Sequence[spec.Cell], folder: Path, data: Path | None) -> bool | None:
    """Try what has not been tried, in the store `folder`, and say what each arm's rate should be.

    Records of the project's own cells are copied to COMMITTED. False if a file has another rate than the best, or
    the best is at an end of its grid; None if data are missing.
    """
    import torch

    from reproduce.campaign import parallel, worker
    from reproduce.campaign.wanted import Wanted
    from reproduce.records import runs

    plan = [
        Wanted(cell, "small", SEED, settings, f"rate-{rate:g}")
        for cell in cells
        for rate, settings in cell.tried.items()
    ]
    count = parallel.at_once(plan, 1, "cpu")
    parallel.use_threads(1)
    store = runs.Store(folder)
    with parallel.beside(count - 1, parallel.train, plan, folder, data, "cpu", 1, None, None, count):
        summary = worker.carry_out(plan, store, data, torch.device("cpu"), say, bar=False, jobs=count)
    records = [*summary.records, *summary.failed]
    own = {cell.name for cell in cells if cell.path and cell.path.resolve().is_relative_to(spec.EXPERIMENTS)}
    if kept := [record for record in records if record.cell in own]:
        store.copy(kept, COMMITTED)
    good = True
    for cell in cells:
        assert cell.ablation is not None
        rate, stated = best(cell, records), cell.ablation.arms[cell.arm].rate
        errors = ", ".join(f"{r:g}: {error(record):.2f} %" for r, record in found(cell, records).items())
        at_end = rate is not None and at_an_end(cell, rate)
        said = "not all rates were tried" if rate is None else f"best {rate:g}"
        said += "" if rate == stated else f", the file has {stated:g}"
        said += ", the lowest or highest of its rates: add one beyond it to the file" if at_end else ""
        good &= rate == stated and not at_end
        say(f"{cell.name}: {errors}; {said}")
    return None if summary.missing else good
