"""Table 1 from records: grouped, summarized, judged; as CSV, Markdown and README block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from reproduce import runs, spec, verdict, yamlfile

ROWS = ("BNN (Torch7)", "BNN (Theano)", "BinaryConnect", "No regularization")
DATASETS = ("MNIST", "SVHN", "CIFAR-10", "SVHN-test10k")
SCALES = ("paper", "short", "small")
COLUMNS = ["row", "dataset", "paper", "scale", "seeds", "mean", "low", "high", "verdict", "machine"]
BEGIN, END = "<!-- table 1: begin (made by `reproduce publish`) -->", "<!-- table 1: end -->"


def usable(
    records: Sequence[runs.Record], cells: Sequence[spec.Cell], say: Callable[[str], None] = lambda _: None
) -> list[runs.Record]:
    """Finished records of these cells as their files stand today, one per cell, scale, seed and image order.

    Of several (after a change of the training code) the latest counts. Records of other settings are named.
    """
    settings = {(c.name, scale): s.digest() for c in cells for scale, s in c.scales.items()}
    kept: dict[tuple[str, ...], runs.Record] = {}
    outdated = 0
    for record in sorted(records, key=lambda r: r.started):
        current = settings.get((record.cell, record.scale))
        if current is None or record.status != "finished" or record.variant:
            continue
        if record.settings_digest != current:
            outdated += 1
            continue
        kept[(record.cell, record.scale, str(record.seed), record.data.order)] = record
    if outdated:
        say(f"{outdated} record(s) left out: their settings are not those of today's experiment files")
    return list(kept.values())


def table1(records: Sequence[runs.Record], cells: Sequence[spec.Cell]) -> pd.DataFrame:
    """The measured cells, one line per cell, scale and image order; paper-scale cells also where not run.

    Columns as in COLUMNS plus `last` (mean error at the last epoch), `seconds` (mean), `dirty` and `cell`;
    errors in percent.
    """
    lines = []
    for cell in cells:
        for scale in SCALES:
            own = [r for r in records if (r.cell, r.scale) == (cell.name, scale)]
            orders = sorted({r.data.order for r in own})
            if not own and scale == cell.experiment.scale and scale in cell.scales:
                orders = [""]
            for order in orders:
                group = [r for r in own if r.data.order == order]
                lines.append(_line(cell, scale, group, f", image order {order[:6]}" if len(orders) > 1 else ""))
    frame = pd.DataFrame(lines, columns=[*COLUMNS, "last", "seconds", "dirty", "cell"])

    def rank(column: pd.Series) -> pd.Series:
        order: tuple[str, ...] = {"scale": SCALES, "row": ROWS, "dataset": DATASETS}[str(column.name)]
        return column.map(lambda value: order.index(value) if value in order else len(order))

    return frame.sort_values(["scale", "row", "dataset"], key=rank, kind="stable", ignore_index=True)


def _line(cell: spec.Cell, scale: str, group: list[runs.Record], suffix: str) -> dict[str, object]:
    experiment, published = cell.experiment, cell.experiment.published
    dataset = cell.dataset_at(scale)  # type: ignore[arg-type]
    same_data = dataset == experiment.dataset
    errors = [r.result.test_error for r in group if r.result]
    line: dict[str, object] = {
        "row": experiment.row,
        "dataset": dataset,
        "paper": published.value if published and same_data else None,
        "scale": scale,
        "seeds": len(errors),
        "verdict": "not run",
        "machine": _machines(group) + suffix,
        "dirty": any(r.code["dirty"] for r in group),
        "cell": cell.name,
    }
    if errors:
        summary = verdict.summarize(errors)
        line |= {"mean": summary.mean, "low": summary.low, "high": summary.high}
        line["last"] = sum(r.result.last_test_error for r in group if r.result) / len(errors)
        line["seconds"] = sum(r.seconds for r in group) / len(errors)
        if scale != "paper":
            line["verdict"] = f"{scale} scale"
        elif published and experiment.margin:
            line["verdict"] = verdict.verdict(errors, published.value, experiment.margin)
    return line


def _machines(group: Sequence[runs.Record]) -> str:
    """The machines of some runs, with the CPU threads used where that was not all of them."""
    used: dict[str, set[int]] = {}
    for record in group:
        found = record.machine
        every = "gpu" in found or found["threads"] == found["cores"]
        used.setdefault(found["name"], set()).update(() if every else (found["threads"],))
    return "; ".join(
        f"{name} ({', '.join(map(str, sorted(threads)))} used by some)" if threads else name
        for name, threads in sorted(used.items())
    )


def _number(value: object, digits: int = 2) -> str:
    return "" if value is None or pd.isna(value) else f"{value:.{digits}f}"  # type: ignore[call-overload]


def markdown(frame: pd.DataFrame) -> str:
    """Table 1 for people: paper scale (or short schedule) first, the small-scale cells in a table of their own."""
    out = [
        "Test error (%) at the best validation epoch, the paper's protocol; behind it the last epoch's.",
        "",
    ]
    paper = frame[frame["scale"] != "small"]
    small = frame[frame["scale"] == "small"]
    out += ["### At the paper's scale", ""]
    head = [
        "row",
        "data set",
        "paper",
        "ours",
        "95 % prediction",
        "last epoch",
        "seeds",
        "verdict",
        "machine",
    ]
    out += _rows(head, [[*_cells(line, True), line["machine"]] for _, line in paper.iterrows()])
    if len(small):
        out += [
            "",
            "### Small scale: smaller nets, short training, not the paper's cells",
            "",
            "They show that every cell runs and learns, in minutes on a CPU. "
            "SVHN-test10k is 10,000 images of SVHN's test file (7,000 train, 1,000 validation, 2,000 test).",
            "",
        ]
        head = ["row", "data set", "ours", "95 % prediction", "last epoch", "seeds", "seconds", "machine"]
        out += _rows(
            head,
            [[*_cells(line, False), _number(line["seconds"], 0), line["machine"]] for _, line in small.iterrows()],
        )
    if frame["dirty"].any():
        out += ["", "\\* at least one run was made by code that differs from its revision."]
    return "\n".join(out) + "\n"


def _cells(line: pd.Series, full: bool) -> list[str]:
    interval = f"{_number(line['low'])} to {_number(line['high'])}" if not pd.isna(line["low"]) else ""
    mark = "\\*" if line["dirty"] else ""
    paper, judged = ([_number(line["paper"])], [line["verdict"]]) if full else ([], [])
    ours = _number(line["mean"]) + mark
    return [
        line["row"],
        line["dataset"],
        *paper,
        ours,
        interval,
        _number(line["last"]),
        str(line["seeds"]),
        *judged,
    ]


def _rows(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def write(frame: pd.DataFrame, folder: Path) -> None:
    """table1.csv and table1.md into `folder`."""
    csv = frame[COLUMNS].to_csv(index=False, float_format="%.4f", lineterminator="\n")
    runs.write_whole(folder / "table1.csv", csv)
    runs.write_whole(folder / "table1.md", f"# Table 1\n\n{markdown(frame)}")


def into_readme(text: str, frame: pd.DataFrame) -> str:
    """README's text with the table between its markers brought up to date. ValueError without markers."""
    if BEGIN not in text or END not in text:
        raise ValueError("README.md has no markers for table 1")
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n\n{markdown(frame)}\n{END}{rest.split(END, 1)[1]}"


def of(folder: Path, cells: Sequence[spec.Cell], say: Callable[[str], None] = lambda _: None) -> pd.DataFrame:
    """`table1` of a folder of records; what is left out is told."""
    records, problems = runs.read_all(folder)
    for problem in problems:
        say(f"left out: {problem}")
    return table1(usable(records, cells, say), cells)


def refresh(say: Callable[[str], None]) -> None:
    """Bring results/report and README's table up to date with the committed records."""
    frame = of(runs.PUBLISHED / "runs", spec.cells(["table1"]), say)
    write(frame, runs.PUBLISHED / "report")
    readme = yamlfile.ROOT / "README.md"
    runs.write_whole(readme, into_readme(readme.read_text(encoding="utf-8"), frame))
    say("written: results/report/table1.md, table1.csv and README's table")
