"""`reproduce publish`: your runs become part of the committed evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reproduce import spec, yamlfile
from reproduce.cli.options import DataOption, ResultsOption, check_store
from reproduce.terminal import say, stop


def publish(
    results: ResultsOption = None,
    to: Annotated[Path | None, typer.Option(help="The committed results.", show_default="results")] = None,
    data: DataOption = None,
) -> None:
    """Copy your finished and failed runs into the committed evidence, and bring report and README up to date.

    Of an unfinished run the curve so far is written; it is removed once the run's record is there. The nets of
    finished BNN runs at paper or short scale are packed, and each prediction is compared with the float32 net's:
    `nets` holds the records, and seed 0's packed nets.
    """
    from reproduce import report
    from reproduce.campaign import under_way
    from reproduce.packed import publish_nets
    from reproduce.records import runs

    check_store(results)
    source, target = runs.Store(results or runs.LOCAL), to or runs.PUBLISHED
    if not any([*source.runs.glob("*.json"), *(source.root / "work").glob("*.ckpt")]):
        raise stop(f"no runs in {yamlfile.shown(source.root)}: nothing to publish", 2)
    cells = spec.cells()
    copied = runs.publish(source, target / "runs", say)
    say(f"{copied} record(s) copied to {yamlfile.shown(target / 'runs')}")
    begun = under_way.publish(source, target, cells, say)
    say(f"{begun} run(s) under way, written to {yamlfile.shown(target / under_way.FOLDER)}")
    packed = publish_nets.publish(source, target / publish_nets.FOLDER, data, say)
    say(f"{packed} net(s) packed and compared, written to {yamlfile.shown(target / publish_nets.FOLDER)}")
    if to is None:
        report.refresh(say)
