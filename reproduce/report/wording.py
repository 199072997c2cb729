"""Words for numbers, and what the figures show: a title for each, computed from the frame that is drawn."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pandas as pd

PREFERRED = ("with packing", "end to end")  # the XNOR times that hold what the paper's do: both operands packed
PRECISIONS = {"int8": ("int8", "Integer"), "bfloat16": ("bfloat16",), "TF32": ("tf32",)}
SCALES = {"short": "on a short schedule", "small": "with a small net"}


def precision(candidate: str) -> str:
    """What a library computes with, by a candidate's name: int8, bfloat16, TF32, else float32."""
    return next((p for p, words in PRECISIONS.items() if any(word in candidate for word in words)), "float32")


def backend(candidate: str) -> str:
    """The GPU kernel in a candidate's name, for example cuda-wgmma; "" for the CPU kernel."""
    return found[0] if (found := re.search(r"cuda-\w+", candidate)) else ""


def machine(name: str) -> str:
    """A machine's name without trade marks: "Intel Xeon (family 6 model 207)"."""
    return re.sub(r"\((?:R|TM)\)| Processor\b", "", name)


def short(value: float) -> str:
    """A ratio with two figures below ten, without decimals from there on: 3.4, 23, 121."""
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def count(number: int, what: str) -> str:
    """ "1 run", "2 runs"."""
    return f"{number} {what}{'s' * (number != 1)}"


def between(values: Iterable[float]) -> str:
    """The smallest and the largest ratio (1.1 to 34); one number if both are shown alike (32)."""
    ends = sorted(values)
    return " to ".join(dict.fromkeys(short(end) for end in (ends[0], ends[-1])))


def verdicts_counted(values: pd.Series) -> str:
    """ "2 reproduced, 1 inconclusive"."""
    return ", ".join(f"{number} {value}" for value, number in values.value_counts(sort=False).items())


def verdicts_of_cells(frame: pd.DataFrame) -> str:
    """`verdicts_counted` of lines with row and dataset; says so where a cell has lines of several codes."""
    twice = frame.duplicated(["dataset", "row"]).any()
    return verdicts_counted(frame["verdict"]) + (", runs of different code counted apart" if twice else "")


def table1(frame: pd.DataFrame) -> str:
    """How many cells of `overview.forest_frame` were run at the paper's scale, and their verdicts."""
    cells = frame[["dataset", "row"]].drop_duplicates()
    run = frame[(frame["kind"] == "mean") & (frame["scale"] == "paper")]
    if run.empty:
        return f"Test error: none of {len(cells)} cells was run at the paper's scale yet"
    done = len(run[["dataset", "row"]].drop_duplicates())
    return f"Test error: {done} of {len(cells)} cells at the paper's scale: {verdicts_of_cells(run)}"


def times(frame: pd.DataFrame) -> str:
    """The range of the kernels' ratios in `overview.times_frame`, for each kind of library."""
    kinds = [(str(kind), between(part["value"])) for kind, part in frame.groupby("kind", sort=False)]
    (kind, ratio), *rest = kinds
    first = f"XNOR kernels are {ratio} × as fast as {kind} libraries"
    return ", ".join([first, *(f"{r} × {k}" for k, r in rest)])


def curve(net: str, frame: pd.DataFrame) -> str:
    """Where the validation errors of one net of `curves.frame` end, ours at the largest scale and the paper's."""
    errors = frame[frame["quantity"] == "validation error"]
    paper = errors[(errors["source"] == "paper") & errors["value"].notna()].tail(1)
    said = [f"{line.low:g} to {line.high:g} % at epoch {line.epoch}" for line in paper.itertuples()]
    ours = errors[errors["source"] != "paper"]
    scale = next((scale for scale in ("paper", *SCALES) if (ours["scale"] == scale).any()), None)
    if scale is None:
        return "; ".join([f"{net}: not run here", *(f"the paper's error is {words}" for words in said)])
    runs = ours[ours["scale"] == scale].sort_values("epoch").groupby("run")["value"]
    first, last = runs.first().mean(), runs.last().mean()
    way = "falls" if last < first else "does not fall"
    far = "so far" if "unfinished" in set(ours["source"]) else f"by epoch {ours['epoch'].max()}"
    where = f" {SCALES[scale]}" if scale in SCALES else ""
    end = f"{net}: validation error {way}{where} from {first:.1f} to {last:.2f} % {far}"
    return "; ".join([end, *(f"the paper's is {words}" for words in said)])


def kernels(distinct: int, every: int) -> str:
    """How many of the kernels drawn are distinct, each held against those of its own input map."""
    return f"{distinct} of {every} kernels of the first layer are distinct within their input map"


def unique(frame: pd.DataFrame) -> str:
    """How the mean shares of unique filters (`filters.layers`) compare with the paper's figure."""
    means = frame.groupby(["cell", "rule"])[["fraction", "random"]].mean()
    printed, ours, random = frame["printed"].iloc[0], means["fraction"], means["random"]
    side = "Fewer" if (ours < printed).all() else "More" if (ours > printed).all() else "By some counts fewer"
    return (
        f"{side} filters are unique than the paper's {printed:g} %: {between(ours)} % of a layer's on average; "
        f"of random signs {between(random)} %"
    )


def speed(what: str, frame: pd.DataFrame) -> str:
    """On each machine, how many times faster than float32 the fastest XNOR kernel is, packing included.

    Of lines of `speed.frame` about one thing, the paper's machine first. Without a float32 library the naive
    kernel is what it is held against; a machine without an XNOR kernel is passed over.
    """
    found: dict[str, list[str]] = {}
    for (_, machine), lines in frame.groupby([frame["source"].ne("paper"), "machine"]):
        ours = lines[lines["family"] == "xnor"]
        whole = ours[ours["candidate"].map(lambda name: any(words in name for words in PREFERRED))]
        library = lines[(lines["family"] == "library") & (lines["candidate"].map(precision) == "float32")]
        other = library if len(library) else lines[lines["family"] == "naive"]
        if len(ours) and len(other):
            against = "the best float32 library" if len(library) else "a naive kernel"
            best = min((whole if len(whole) else ours).to_dict("records"), key=lambda line: line["seconds"])
            as_fast = "" if against in found else " times as fast"
            where = f"{machine} ({kernel})" if (kernel := backend(best["candidate"])) else machine
            ratio = short(other["seconds"].min() / best["seconds"])
            found.setdefault(against, []).append(f"{ratio}{as_fast} on {where}")
    parts = [f"XNOR against {against}: {'; '.join(words)}" for against, words in found.items()]
    what = what[:1].upper() + what[1:]
    return f"{what}. {'. '.join(parts)}" if parts else f"{what}: no XNOR kernel was timed"


def energy(frame: pd.DataFrame, column: str, what: str) -> str:
    """How many times less the fully binary nets take than the float ones, in a column of `energy.frame`."""
    by_net = frame.pivot(index="net", columns="variant", values=column)
    if not {"float", "binary"} <= set(by_net):
        return what
    return f"{what}: {between(by_net['float'] / by_net['binary'])} times less in fully binary nets than in float"


def ablations(frame: pd.DataFrame) -> str:
    """The verdicts of the comparisons that are complete (`ablations.frame`), and the largest difference."""
    most = max(frame.to_dict("records"), key=lambda line: abs(line["difference"]))
    many = f"{count(len(frame), 'comparison')}: {verdicts_counted(frame['verdict'])}"
    return f"{many}; the largest: {most['arm']} against {most['against']}, {most['difference']:+.2f} points"
