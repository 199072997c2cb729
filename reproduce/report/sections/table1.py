"""Table 1: our cells beside the printed ones, summarized and judged; a frame, and its section of the page."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reproduce import outcomes, spec, verdict
from reproduce.records import Record
from reproduce.report.evidence import Evidence, marks, once, the_paper
from reproduce.report.html.parts import Column, Section, Table
from reproduce.report.rows import apart, grouped, label

ROWS = ("BNN (Torch7)", "BNN (Theano)", "BinaryConnect", "No regularization")
DATASETS = ("MNIST", "SVHN", "CIFAR-10", "SVHN-test10k")
SCALES = ("paper", "short", "small")
COLUMNS = ["row", "dataset", "paper", "scale", "seeds", "mean", "low", "high", "verdict", "machine", "code"]
FRAME = [*COLUMNS, *"images plus_minus last seconds cell group quoted dirty note records again".split()]
OFF_SCALE = {"short": "short schedule", "small": "small scale"}  # verdicts of what is not the paper's cell
SHORT_NOTE = (
    "The net, the data and the update rule are the paper's, the schedule is shorter (each file in "
    "`experiments/short` says how; BNN (Theano) on MNIST also has less dropout): never the paper's cell, and not "
    "judged."
)
SMALL_NOTE = (
    "They show that every cell runs and learns, in minutes on a CPU. MNIST and CIFAR-10 are used whole; "
    "SVHN-test10k is the first 10,000 images of SVHN's test file, split into training, validation and test."
)
TITLES = {
    "paper": "At the paper's scale",
    "short": "The paper's net, short schedule: not the paper's cells",
    "small": "Small scale: smaller nets, short training, not the paper's cells",
}


@cache
def printed() -> tuple[dict[str, Any], ...]:
    """The rows of the paper's Table 1, in its order: row, group, dataset, paper, plus_minus; errors in percent."""
    found = []
    for row in the_paper()["table1"]["rows"]:
        for dataset, error in row["error"].items():
            error = error if isinstance(error, dict) else {"value": error}
            line = {"row": row["row"], "group": row["group"], "dataset": dataset}
            found.append(line | {"paper": error["value"], "plus_minus": error.get("plus_minus")})
    return tuple(found)


def frame(
    records: Sequence[Record],
    cells: Sequence[spec.Cell],
    store: str = "results",
    quoted: bool = True,
    groups: Sequence[str] | None = ("table1", "short"),
) -> pd.DataFrame:
    """One line per cell of these groups (None: of all), scale, image order and code; `quoted` rows.

    A cell's own scale has a line where it was not run, too.

    Columns as in FRAME: `images` are those of training, validation and test, `last` is the mean error at the last
    epoch, `seconds` the median of the runs', `code` what made the numbers (`rows.label`); errors in percent.
    """
    made = grouped(records, lambda r: (r.cell, r.scale))
    lines = []
    for cell in cells:
        if groups is not None and cell.group not in groups:
            continue
        for scale in cell.scales:
            own = made.get((cell.name, scale), [])
            orders = sorted({r.data.order for r in own})
            if not own and scale == cell.experiment.scale:
                lines.append(_line(cell, scale, [], "", store))
            for order in orders:
                suffix = f", image order {order[:6]}" if len(orders) > 1 else ""
                for group in apart(r for r in own if r.data.order == order):
                    lines.append(_line(cell, scale, group, suffix, store))
    if quoted:
        lines += [_quoted(entry) for entry in printed() if entry["row"] not in ROWS]
    found = pd.DataFrame(lines, columns=FRAME)
    known = list(dict.fromkeys(entry["row"] for entry in printed()))

    def rank(column: pd.Series) -> pd.Series:
        order = {"scale": list(SCALES), "row": known, "dataset": list(DATASETS)}[str(column.name)]
        return column.map(lambda value: order.index(value) if value in order else len(order))

    return found.sort_values(["scale", "row", "dataset"], key=rank, kind="stable", ignore_index=True)


@once
def every(evidence: Evidence) -> pd.DataFrame:
    """`frame` of all that is measured, and of the quoted rows."""
    return frame(evidence.runs, evidence.cells, evidence.name)


def _quoted(entry: dict[str, Any]) -> dict[str, object]:
    marked = {"seeds": 0, "verdict": "quoted", "machine": "", "code": "", "quoted": True, "dirty": False}
    return entry | {"scale": "paper"} | marked


def _line(cell: spec.Cell, scale: spec.Scale, group: list[Record], suffix: str, store: str) -> dict[str, object]:
    experiment, published = cell.experiment, cell.experiment.published
    dataset = cell.dataset_at(scale)
    same_data, data = dataset == experiment.dataset, cell.scales[scale].data
    of_row = (e["group"] for e in printed() if e["row"] == experiment.row)
    line: dict[str, object] = {
        "row": experiment.row,
        "group": next(of_row, ""),
        "dataset": dataset,
        "paper": published.value if published and same_data else None,
        "plus_minus": published.plus_minus if published and same_data else None,
        "scale": scale,
        "images": f"{data.train:,} / {data.valid:,} / {data.test:,}",
        "verdict": judged(cell, scale, group),
        "cell": cell.name,
        "quoted": False,
        **measured(group, store),
    }
    line["machine"] = f"{line['machine']}{suffix}"
    line["again"] = again(cell.name, scale, group)
    return line


def judged(cell: spec.Cell, scale: str, group: Sequence[Record]) -> str:
    """The verdict on runs of one cell at one scale; only the paper's scale is compared with the paper."""
    errors = [r.result.test_error for r in group if r.result]
    experiment = cell.experiment
    if not errors:
        return "not run"
    if scale != "paper":
        return OFF_SCALE[scale]
    if experiment.published is None or experiment.margin is None:
        return "nothing printed"
    published = experiment.published.value
    return verdict.verdict(errors, published, experiment.margin, *tested(group))


def tested(group: Sequence[Record]) -> tuple[int, NDArray[np.bool_] | None]:
    """Test images N of runs of one cell, and which of them each got wrong (n, N) at its best validation epoch.

    None where a record does not say which, or was tested on another number.
    """
    results = [r.result for r in group if r.result]
    images = min(result.test_images for result in results)
    told = [r.wrong_best for r in results if r.wrong_best is not None and r.test_images == images]
    whole = len(told) == len(results)
    return images, np.stack([outcomes.unpack(text, images) for text in told]) if whole else None


def measured(group: Sequence[Record], store: str) -> dict[str, object]:
    """The columns of runs that may be pooled: seeds, mean, prediction interval, last epoch, machines, marks."""
    errors = [r.result.test_error for r in group if r.result]
    line: dict[str, object] = marks(*group) | {
        "seeds": len(errors),
        "machine": machines(group),
        "code": label(group),
        "records": "; ".join(f"{store}/runs/{r.stem}.json" for r in group),
    }
    if errors:
        summary = verdict.summarize(errors, *tested(group))
        line |= {"mean": summary.mean, "low": summary.low, "high": summary.high}
        line["last"] = sum(r.result.last_test_error for r in group if r.result) / len(errors)
        line["seconds"] = statistics.median(r.seconds for r in group)
    return line


def again(cell: str, scale: str, group: Sequence[Record]) -> str:
    """The command that makes these runs again; where there are none, three: the fewest that get a verdict."""
    return " && ".join(
        f"reproduce run {cell} --scale {scale} --seeds {count}" + (f" --first-seed {first}" if first else "")
        for first, count in _stretches([r.seed for r in group] or [0, 1, 2])
    )


def _stretches(seeds: Sequence[int]) -> list[tuple[int, int]]:
    """First and length of every stretch of seeds that follow one another."""
    found: list[tuple[int, int]] = []
    for seed in sorted(set(seeds)):
        if found and seed == sum(found[-1]):
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((seed, 1))
    return found


def _threads(record: Record) -> int:
    """CPU threads of a run: those of torch or of the kernels, whichever are more."""
    return max(int(record.machine["threads"]), int(record.machine.get("kernel_threads", 0)))


def machines(group: Sequence[Record]) -> str:
    """The machines of some runs, with the CPU threads where some run did not use all of them."""
    words = []
    for name, records in sorted(grouped(group, lambda r: str(r.machine["name"])).items()):
        on_cpu = [r for r in records if "gpu" not in r.machine]
        fewer = any(_threads(r) != r.machine["cores"] for r in on_cpu)
        words.append(
            f"{name} ({threads(on_cpu, ' or ')} thread{'s' * (threads(on_cpu) != '1')})" if fewer else name
        )
    return "; ".join(words)


def threads(group: Sequence[Record], between: str = ", ") -> str:
    """The numbers of CPU threads that some runs used."""
    return between.join(map(str, sorted({_threads(r) for r in group})))


def revisions(group: Sequence[Record]) -> str:
    """The first digits of the code revisions of some runs."""
    return ", ".join(sorted({(r.code["revision"] or "unknown")[:8] for r in group}))


def failures(evidence: Evidence) -> pd.DataFrame:
    """One line per run that broke off: seed, epoch and reason."""
    lines = []
    for record in evidence.failed:
        reason = record.failure or "no reason recorded"
        epoch = re.search(r"epoch (\d{1,9})\b", reason)
        lines.append(
            marks(record)
            | {
                "cell": record.cell,
                "scale": record.scale,
                "seed": record.seed,
                "epoch": int(epoch[1]) if epoch else None,
                "reason": reason,
                "machine": record.machine["name"],
                "records": evidence.path(record),
                "again": again(record.cell, record.scale, [record]),
            }
        )
    columns = ["cell", "scale", "seed", "epoch", "reason", "machine", "dirty", "note", "records", "again"]
    return pd.DataFrame(lines, columns=columns)


# --- for the page ---------------------------------------------------------------------------------------------

_WHAT = (Column("row", "row"), Column("dataset", "data set"))
_MEASURED = (
    Column("mean", "ours", 2, "%", "mean test error at the best validation epoch"),
    Column("low", "95 % prediction", 2, "%", "interval of one more run", "high"),
    Column("last", "last epoch", 2, "%", "mean test error at the last epoch"),
    Column("seeds", "seeds", 0, "", "runs, each with a seed of its own"),
)
_PAPER = (Column("paper", "paper", 2, "%", "as printed"), Column("plus_minus", "±", 2, "%", "as printed"))
_VERDICT = Column("verdict", "verdict", hint="computed from the runs; the rule stands under Verdicts")
_MACHINE = Column("machine", "machine")
CODE = Column(
    "code",
    "made by",
    hint="training code (first digits of its digest), mode, device, threads; fixed16: steps without autograd, "
    "in products with ±1 gradients and ReLU activations rounded to 16-bit fixed point, float nets in float32; "
    "tables, torch: steps by autograd in float32, products "
    "by our kernels or by torch; “tensor cores without passes”: on a GPU, "
    "without the fused kernels between two products",
)
_SECONDS = Column("seconds", "run takes", 0, "s", "median of the runs")

OWN = (
    *(Column("cell", "cell"), *_WHAT, Column("scale", "scale"), _PAPER[0], *_MEASURED, _VERDICT, _SECONDS),
    *(_MACHINE, CODE),
)


def with_note(frame: pd.DataFrame, *columns: Column) -> tuple[Column, ...]:
    """The columns, and that of the notes where a row of the frame has one."""
    return (*columns, Column("note", "note")) if frame["dirty"].any() else columns


def with_order(frame: pd.DataFrame, *columns: Column) -> tuple[Column, ...]:
    """The columns, and before the last that of the image order where a cell was run with several."""
    orders = frame.groupby(["cell", "scale"])["order"].nunique()
    order = Column("order", "image order", hint="its first digits; another order is another validation split")
    return (*columns[:-1], order, columns[-1]) if (orders > 1).any() else columns


def section(evidence: Evidence) -> Section:
    """Table 1 at each scale, and the runs that broke off."""
    tables = []
    for scale in SCALES:
        part = every(evidence).query("scale == @scale").reset_index(drop=True)
        part["seeds"] = part["seeds"].where(~part["quoted"].astype(bool))
        if not len(part):
            continue
        first, note = {
            "paper": (_PAPER, "Rows marked as quoted are other people's, as the paper prints them."),
            "short": (_PAPER[:1], SHORT_NOTE),
            "small": ((Column("images", "images", hint="training / validation / test, as set"),), SMALL_NOTE),
        }[scale]
        columns = (*_WHAT, *first, *_MEASURED, _VERDICT if scale == "paper" else _SECONDS, _MACHINE, CODE)
        name = "table1" if scale == "paper" else f"table1-{scale}"
        tables.append(Table(name, f"{TITLES[scale]}. {note}", part, with_note(part, *columns)))
    broken = failures(evidence)
    if len(broken):
        broke = (
            *(Column("cell", "cell"), Column("scale", "scale"), Column("seed", "seed", 0)),
            *(Column("epoch", "epoch", 0), Column("reason", "reason"), _MACHINE),
        )
        caption = "Runs that broke off because a number was not finite; they count in no mean."
        tables.append(Table("failed", caption, broken, with_note(broken, *broke)))
    text = (
        "Test error in percent at the best validation epoch (the last of equal ones, as in the authors' code) and "
        "at the last epoch. "
        "The interval is the 95 % prediction interval of one more run: mean ± R(.975) · √(1 + 1/n). R is the "
        "runs' scatter, by their errors and by the images they disagree on (the rule stands under Verdicts). "
        "What a cell follows where the paper is silent or differs from the authors' code stands in its file, "
        "`follows` in experiments/table1. "
        "Runs made by other training code, on another kind of device, in another mode, or with another number of "
        "threads where numbers depend on it, stand in rows of their own and are judged by themselves.",
    )
    return Section("table1", "Table 1: test errors", text, tuple(tables))
