"""`reproduce clean`: remove checkpoints that were set aside."""

from __future__ import annotations

from typing import Annotated

import typer

from reproduce.campaign.checkpoints import begun
from reproduce.cli.options import ResultsOption, check_store
from reproduce.terminal import say


def clean(
    results: ResultsOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list them.")] = False,
) -> None:
    """Remove checkpoints that were set aside because they are of other code, data or settings, or damaged."""
    from reproduce.records import runs

    store = results or runs.LOCAL
    check_store(store)
    found = sorted((store / "work").glob("*.ckpt.other*"))
    total = 0
    for path in found:
        size, of = path.stat().st_size, begun(path)
        total += size
        epochs = "cannot be read" if of is None else f"{of.epochs} epochs"
        say(f"{path.name}: {size / 1e6:,.1f} MB, {epochs}")
        if not dry_run:
            path.unlink()
    words = "would be removed" if dry_run else "removed"
    say(f"{len(found)} checkpoint(s) set aside, {total / 1e6:,.1f} MB: {words}")
