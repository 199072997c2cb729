"""`reproduce list`: every cell's state."""

from __future__ import annotations

from rich.table import Column, Table

from reproduce import extensions
from reproduce.cli.options import Cells, ExperimentsOption, ResultsOption, UseOption, cells_of, check_store
from reproduce.terminal import console, say


def list_cells(
    cells: Cells = None,
    results: ResultsOption = None,
    experiments: ExperimentsOption = None,
    use: UseOption = None,
) -> None:
    """Show every cell's state: what the paper prints, what was run (yours, published), its figures and verdict.

    A run that is under way is shown with its epoch.
    """
    from reproduce import report
    from reproduce.campaign import under_way
    from reproduce.records import runs
    from reproduce.report import evidence, rows
    from reproduce.report.sections import table1

    extensions.use(use or [])
    found = cells_of(cells, experiments)
    check_store(results)
    stores = [(results or runs.LOCAL), runs.PUBLISHED]
    yours, public = (report.gather(store, found, say) for store in stores)
    published = evidence.usable([*public.runs, *public.checks], found)
    pooled = evidence.usable([*published, *yours.runs], found)
    here = under_way.in_store(runs.Store(stores[0]), found, say)
    ended = {r.stem for s in (yours, public) for r in [*s.runs, *s.failed]}
    unfinished = {r.stem: r for r in [*public.running, *here] if r.stem not in ended}
    heads = ("row", "data set", "scale", "epochs", "yours", "published", "paper %", "ours %", "state", "made by")
    table = Table(Column("cell", overflow="fold"), *heads)
    for cell in found:
        paper = cell.experiment.published
        for scale, settings in cell.scales.items():
            orders = evidence.by_order([r for r in pooled if (r.cell, r.scale) == (cell.name, scale)])
            groups = [group for groups in orders.values() for group in groups]
            broken = sum((r.cell, r.scale) == (cell.name, scale) for r in [*yours.failed, *public.failed])
            also = [f"{broken} broke off"] if broken else []
            also += [
                f"seed {r.seed} at epoch {r.epochs_done} of {r.epochs}"
                for r in unfinished.values()
                if (r.cell, r.scale) == (cell.name, scale)
            ]
            for group in groups or [[]]:
                figures = table1.measured(group, "")
                low, high = figures.get("low"), figures.get("high")
                interval = f" ({low:.2f} to {high:.2f})" if low is not None else ""
                state = [table1.judged(cell, scale, group), *also]
                state += [str(figures["note"])] if figures["dirty"] else []
                own, theirs = (sum(rows.same(r, group) for r in kept) for kept in (yours.runs, published))
                table.add_row(
                    *(cell.name, cell.experiment.row, cell.dataset_at(scale), scale, str(settings.train.epochs)),
                    *(str(own or ""), str(theirs or "")),
                    f"{paper.value:.2f}" if paper and scale == "paper" else "",
                    f"{figures['mean']:.2f}{interval}" if group else "",
                    "; ".join(state),
                    rows.label(group) + (f", image order {group[0].data.order[:6]}" if len(orders) > 1 else ""),
                )
                also = []
    console(190).print(table)
