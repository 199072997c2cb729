"""`make tune-ablations`: the learning rate of each arm of an ablation, chosen on validation images.

Every rate that a file names is tried once for each arm, with a seed that no compared run has. The records of these
runs are kept in results/tuning. The author of the file then enters the rate with the least validation error, and
adds a rate beyond it if it is the first or the last.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from reproduce import spec, yamlfile
from reproduce.records import Record, read_records
from reproduce.terminal import say

SEED = 100
STORE = yamlfile.ROOT / "results" / "local" / "tuning"
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


def main(patterns: Sequence[str]) -> int:
    """Try what has not been tried, keep the records, and say what each arm's rate should be.

    Exit code 1 if a file has another rate, if the best one is at an end of its grid, or if data are missing; 2 if
    no ablation is named.
    """
    import torch

    from reproduce.campaign import parallel, worker
    from reproduce.campaign.wanted import Wanted
    from reproduce.records import runs

    try:
        cells = [cell for cell in spec.cells(list(patterns) or ["ablations"]) if cell.ablation]
    except spec.SpecError as problem:
        say(f"error: {problem}")
        return 2
    if not cells:
        say(f"error: no ablation in {', '.join(patterns)}")
        return 2
    plan = [
        Wanted(cell, "small", SEED, settings, f"rate-{rate:g}")
        for cell in cells
        for rate, settings in cell.tried.items()
    ]
    count = parallel.at_once(plan, 1, "cpu")
    parallel.use_threads(1)
    store = runs.Store(STORE)
    with parallel.beside(count - 1, parallel.train, plan, STORE, None, "cpu", 1, None, None):
        summary = worker.carry_out(plan, store, None, torch.device("cpu"), say, bar=False)
    records = [*summary.records, *summary.failed]
    store.copy(records, COMMITTED)
    wrong = 0
    for cell in cells:
        assert cell.ablation is not None
        rate, stated = best(cell, records), cell.ablation.arms[cell.arm].rate
        errors = ", ".join(f"{r:g}: {error(record):.2f} %" for r, record in found(cell, records).items())
        at_end = rate is not None and at_an_end(cell, rate)
        said = "not all rates were tried" if rate is None else f"best {rate:g}"
        said += "" if rate == stated else f", the file has {stated:g}"
        said += ", at an end of its grid: add one beyond" if at_end else ""
        wrong += rate != stated or at_end
        say(f"{cell.name}: {errors}; {said}")
    return 1 if wrong or summary.missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
