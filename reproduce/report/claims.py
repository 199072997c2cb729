"""The claims table: what the paper says in figures or words, what the records say to it, and a verdict by rule.

Each claim of `experiments/paper.yaml` is judged by the function that carries its id; claims without one can only
be `quoted`. The verdict's words follow from the evidence by the rules of WORDS.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from reproduce.records import Record
from reproduce.records.benchmark import Bench, Ratio, Timing
from reproduce.report import ablations, compare, energy, filters, findings, speed, table1
from reproduce.report.evidence import Evidence, marks, once, the_paper
from reproduce.report.findings import count
from reproduce.report.parts import Section
from reproduce.report.rows import main

NOT_MEASURED = "not measured"
PAPERS_KIND = "cuda-xnor"  # the GPU kernel that computes as the paper's does
NEARLY = 0.9  # of a printed factor; from there on it is nearly reached
NEAR_SHARE = 5.0  # points between a printed share of filters and ours that still count as the same
SIGNIFICANT = 0.05
FEWEST = 3  # runs that can be judged


@dataclass(frozen=True)
class Finding:
    """What was measured of a claim, where, the verdict in words, and the records behind it.

    `brief`: the figure alone, as the head of the page shows it.
    """

    measured: str
    where: str
    verdict: str
    records: str = ""
    again: str = ""
    note: str = ""
    brief: str = ""


def factor(value: float, low: float | None, high: float | None, printed: float) -> str:
    """Words for "so many times": by the interval where there is one, else by the value, which is then said.

    holds: all of it at or above the printed factor; does not hold: all of it below; else cannot be told.
    """
    if low is None or high is None:
        return f"{'holds' if value >= printed else 'does not hold'} in a single timing"
    if low >= printed:
        return "holds"
    return "does not hold" if high < printed else "cannot be told"


def at_least(value: float, printed: float) -> str:
    """Words for a factor that is counted, not timed: holds, nearly holds (from NEARLY of it), does not hold."""
    share = value / printed
    return "holds" if share >= 1 else "nearly holds" if share >= NEARLY else "does not hold"


# --- speed ----------------------------------------------------------------------------------------------------


def _ratios(evidence: Evidence, what: str, other: tuple[str, ...]) -> Iterator[tuple[Bench, Timing, str, Ratio]]:
    """The XNOR row that does what the paper's did, and its ratio to the fastest `other`, at the largest size.

    The record, the row, the full name of the other and the ratio. Of several kernels of a GPU that of the paper's
    kind counts: XNOR and bit counts, without tensor cores.
    """
    for bench in speed.latest(evidence.benches):
        rows = [
            (row, name, ratio)
            for row in bench.rows
            if speed.named(row).startswith(what) and row.family == "xnor"
            for name, ratio in row.times_faster_than.items()
            if name.startswith(other)
        ]
        wanted = [r for r in rows if any(p in r[0].candidate for p in findings.PREFERRED)] or rows
        wanted = [r for r in wanted if r[0].what == wanted[-1][0].what]
        wanted = [r for r in wanted if findings.backend(r[0].candidate) == PAPERS_KIND] or wanted
        if wanted:
            last = wanted[-1][0]
            yield bench, *min((r for r in wanted if r[0] is last), key=lambda r: r[2].ratio)


def _faster(bench: Bench, row: Timing, against: str) -> str:
    """The kernel of the same record that does the same faster than `row`, if any, in words."""
    alike = [
        r
        for r in bench.rows
        if (r.what, r.family) == (row.what, "xnor")
        and any(p in row.candidate and p in r.candidate for p in findings.PREFERRED)
        and against in r.times_faster_than
    ]
    best = min(alike, key=lambda r: r.seconds, default=row)
    if best.seconds >= row.seconds:
        return ""
    return f"; faster here: {best.candidate}, {best.times_faster_than[against].ratio:.1f} times"


def _speed(what: str, *other: str, claimed: str = "") -> Callable[[Evidence, dict[str, Any]], list[Finding]]:
    """Judge how many times faster the rows are whose name begins with `what`.

    `claimed`: the row that the paper's claim is about, where smaller products may be measured in its place.
    """

    def judge(evidence: Evidence, claim: dict[str, Any]) -> list[Finding]:
        found = []
        for bench, row, name, ratio in _ratios(evidence, what, other):
            between = "no interval" if ratio.low is None else f"{ratio.low:.1f} to {ratio.high:.1f}"
            kind = "a CPU" if bench.kind == "cpu" else "another GPU"
            words = factor(ratio.ratio, ratio.low, ratio.high, claim["value"])
            timed = {r.candidate: r for r in bench.rows if r.what == row.what}
            said = [
                f"; {key}: {', '.join(remarks.values())}"
                for key in (row.candidate, name)
                if key in timed and (remarks := speed.remarks(timed[key]))
            ]
            said += ["; random weights"] if row.random_weights else []
            said += [_faster(bench, row, name)]
            kernel = findings.backend(row.candidate)
            if name in timed and timed[name].scaled:
                words += ", scaled up from fewer images,"
            where = f"{words} here, on {kind} (the paper's was a {speed.PAPER_MACHINE})"
            if claimed and speed.named(row) != claimed:
                where += f", for a {speed.named(row)}: no larger one was timed against {name}"
            found.append(
                Finding(
                    f"{ratio.ratio:.1f} times ({between}): {row.candidate} against {name}, {speed.named(row)}"
                    + "".join(said),
                    bench.machine.name,
                    where,
                    bench.path,
                    speed.AGAIN,
                    marks(bench)["note"],
                    (f"{ratio.ratio:.1f} times" if ratio.low is None else f"{between} times")
                    + f", {bench.machine.name}"
                    + (f" ({kernel})" if kernel else ""),
                )
            )
        return found

    return judge


def _same_predictions(evidence: Evidence, _: dict[str, Any]) -> list[Finding]:
    """Nets of the paper's size; small ones only where there is no other."""
    nets = energy.predicted(evidence)
    if nets.empty:
        return []
    large = nets[nets["scale"] != "small"]
    nets = large if len(large) else nets
    where = [f"{' and '.join(sorted(set(nets['scale'])))} scale", *sorted(filter(None, set(nets["backend"])))]
    differing, images = int(nets["differing"].sum()), int(nets["images"].sum())
    return [
        Finding(
            f"{differing} of {images:,} predictions of {count(nets['again'].nunique(), 'packed net')} "
            f"({'; '.join(where)}) differ from the float32 net's",
            _where(nets["machine"]),
            "holds" if differing == 0 else "does not hold",
            "; ".join(nets["records"]),
            "reproduce predict FILE --against NET --record FOLDER",
            _marks(nets["note"]),
            f"{differing} of {images:,} predictions differ",
        )
    ]


def _where(machines: Iterable[str]) -> str:
    return "; ".join(sorted(set(machines)))


def _marks(remarks: Iterable[str]) -> str:
    """The remarks on some records, each once."""
    return "; ".join(sorted({part for remark in remarks for part in remark.split("; ") if part}))


# --- memory and energy ----------------------------------------------------------------------------------------


def _memory(evidence: Evidence, claim: dict[str, Any]) -> list[Finding]:
    nets = energy.files(evidence)
    nets = nets.drop_duplicates("again")  # one file, whatever kernels ran it
    if nets.empty:
        return []
    low, high = nets["times"].min(), nets["times"].max()
    return [
        Finding(
            f"{low:.1f} to {high:.1f} times less: {count(len(nets), 'real file')}, with thresholds and all, "
            "against the weights in float32",
            _where(nets["machine"]),
            at_least(low, claim["value"]),
            "; ".join(nets["records"]),
            "reproduce freeze RUN",
            _marks(nets["note"]),
            f"{low:.1f} to {high:.1f} times less",
        )
    ]


def _modelled(
    column: str, what: str, constructed: bool = False
) -> Callable[[Evidence, dict[str, Any]], list[Finding]]:
    """Judge the model's figures; `constructed`: they are put in, and nothing comes out that could be otherwise."""

    def judge(_: Evidence, claim: dict[str, Any]) -> list[Finding]:
        frame = energy.frame()
        binary = frame[frame["variant"] == "binary"]
        whole = frame[frame["variant"] == "float"].set_index("net")
        times = [whole.loc[n, column] / v for n, v in zip(binary["net"], binary[column], strict=True)]
        words = f"{at_least(min(times), claim['value'])} in the model"
        if constructed:
            words = "true by construction of the model"
        between = " to ".join(dict.fromkeys(f"{edge:.1f}" for edge in (min(times), max(times))))
        return [
            Finding(
                f"{between} times {what} for four nets, by the model of Tables 2 and 3",
                "a model, not a measurement",
                words,
                brief=f"{between} times",
            )
        ]

    return judge


# --- filters --------------------------------------------------------------------------------------------------


COUNTS = (("mean", "all layers"), ("mean_rest", "without the first layer"), ("weighted", "op-weighted"))


def _filters(
    words: Callable[[dict[str, float], float], str], number: Callable[[float], float], digits: int = 1
) -> Callable[[Evidence, dict[str, Any]], list[Finding]]:
    """Judge the CIFAR-10 BNN's averages by both rules; `number` turns a share (percent) into what is claimed."""

    def judge(evidence: Evidence, claim: dict[str, Any]) -> list[Finding]:
        frame = filters.summary(evidence)
        frame = frame[frame["cell"].str.contains("bnn") & frame["cell"].str.endswith("cifar10")]
        found = []
        for (cell, scale), lines in frame.groupby(["cell", "scale"], sort=False):
            of = {
                f"{line['rule']}, {name}": number(line[key])
                for _, line in lines.iterrows()
                for key, name in COUNTS
                if not pd.isna(line[key])
            }
            verdict = words(of, claim["value"])
            if scale != "paper":
                verdict = f"{table1.OFF_SCALE[str(scale)]}: not the paper's net"
            group = main(r for r in evidence.runs if (r.cell, r.scale) == (cell, scale))
            seeds = len({r.seed for r in group})
            found.append(
                Finding(
                    f"{'; '.join(f'{v:.{digits}f} ({k})' for k, v in of.items())}; random signs would give "
                    f"{' and '.join(f'{number(v):.{digits}f}' for v in lines['random'])} (all layers)",
                    f"{cell}, {scale} scale, counted in {lines['seeds'].iloc[0]} of {seeds} seeds",
                    verdict,
                    lines["records"].iloc[0],
                    lines["again"].iloc[0],
                    _marks(lines["note"]),
                    f"{min(of.values()):.{digits}f} to {max(of.values()):.{digits}f}, by count "
                    f"({str(cell).rpartition('/')[2]}, {scale} scale)",
                )
            )
        return found

    return judge


NO_COUNT = "does not hold by any count tried"


def _about(of: dict[str, float], printed: float) -> str:
    """Words for a share: within NEAR_SHARE points of the printed one, by the count nearest to it."""
    near = min(of, key=lambda count: abs(of[count] - printed))
    good = sum(abs(value - printed) <= NEAR_SHARE for value in of.values())
    return f"holds by {near} ({good} of {len(of)} counts)" if good else NO_COUNT


def _reached(of: dict[str, float], printed: float) -> str:
    """Words for "so much or more": by the count that gives the most."""
    good = sum(value >= printed for value in of.values())
    return f"holds by {max(of, key=lambda count: of[count])} ({good} of {len(of)} counts)" if good else NO_COUNT


# --- words of the paper ---------------------------------------------------------------------------------------


FLOAT = "No regularization"  # the paper's row of its own nets without binarization


def _nearly(evidence: Evidence, _: dict[str, Any]) -> list[Finding]:
    """BNN cells at the paper's scale against the same nets without binarization, data set by data set.

    A data set counts by its better BNN cell: the claim holds on it if one comes near, and does not if none does.
    """
    near: dict[str, list[bool | None]] = {}
    measured, used = [], []
    for cell in evidence.cells:
        experiment = cell.experiment
        if not cell.name.startswith("table1/") or not experiment.row.startswith("BNN") or not experiment.margin:
            continue
        group = [r for r in evidence.runs if (r.cell, r.scale) == (cell.name, "paper")]
        for order in sorted({r.data.order for r in group}):
            ours = main(r for r in group if r.data.order == order)
            other, value, name = _without_binarization(evidence, experiment.dataset, order)
            errors = [r.result.test_error for r in ours if r.result]
            found = comes_near(
                errors, [r.result.test_error for r in other if r.result] or value, experiment.margin
            )
            near.setdefault(experiment.dataset, []).append(found)
            words = {True: "near", False: "not near", None: "cannot be told"}[found]
            against = f"{np.mean(errors):.2f} % against {value:.2f} % ({name})"
            measured.append(f"{experiment.row}, {experiment.dataset}: {against}, {words}")
            used += [*ours, *other]
    if not near:
        return []
    said = [True if any(v) else False if all(f is False for f in v) else None for v in near.values()]
    counts = (
        ("does not hold", said.count(False)),
        ("holds", said.count(True)),
        ("cannot be told", said.count(None)),
    )
    first, *rest = [f"{words} on {many}" for words, many in counts if many]
    return [
        Finding(
            "; ".join(measured),
            _where(r.machine["name"] for r in used),
            ", ".join([f"{first} of {len(table1.DATASETS[:3])} data sets", *rest]),
            "; ".join(dict.fromkeys(evidence.path(r) for r in used)),
            "reproduce run table1 --scale paper --seeds 3",
            marks(*used)["note"],
            "; ".join(f"{words} on {many} of 3" for words, many in counts if many),
        )
    ]


def _without_binarization(evidence: Evidence, dataset: str, order: str) -> tuple[list[Record], float, str]:
    """Our runs of the paper's float row, where there are FEWEST of the same image order, and their mean; else none
    and the printed error. And which it is, in words."""
    names = {c.name for c in evidence.cells if (c.experiment.row, c.experiment.dataset) == (FLOAT, dataset)}
    group = main(
        r for r in evidence.runs if r.cell in names and (r.scale, r.data.order) == ("paper", order) and r.result
    )
    if len(group) >= FEWEST:
        return group, float(np.mean([r.result.test_error for r in group if r.result])), f"{FLOAT}, ours"
    (value,) = (e["paper"] for e in table1.printed() if (e["row"], e["dataset"]) == (FLOAT, dataset))
    return [], float(value), f"{FLOAT}, printed"


def comes_near(errors: Sequence[float], other: Sequence[float] | float, margin: float) -> bool | None:
    """Is the mean error at most `margin` points above another's (runs, or one printed figure)?

    By one-sided 95 % bounds of the difference of means; None where they lie on both sides, or with too few runs.
    """
    if len(errors) < FEWEST:
        return None
    if isinstance(other, float):
        half = float(stats.t.ppf(0.95, len(errors) - 1) * np.std(errors, ddof=1)) / math.sqrt(len(errors))
        low, high = (float(np.mean(errors)) - other + side * half for side in (-1, 1))
    else:
        low, high = compare.welch(other, errors, 0.9)
    return True if high <= margin else False if low > margin else None


def _no_mask(evidence: Evidence, _: dict[str, Any]) -> list[Finding]:
    """Planted error `no-mask` against the usual runs of `check-small`: Welch, one-sided, last validation error.

    Both by one code: of several the one with the most runs.
    """
    found = []
    for cell in sorted({r.cell for r in evidence.checks}):
        group = main(r for r in evidence.checks if r.cell == cell and r.result and r.variant in (None, "no-mask"))
        usual, without = ([r for r in group if r.variant == v] for v in (None, "no-mask"))
        if min(len(usual), len(without)) < 2:
            continue
        mine, theirs = (
            [100 * r.curve[-1].valid_wrong / r.result.valid_images for r in group if r.result]
            for group in (without, usual)
        )
        p = float(stats.ttest_ind(mine, theirs, equal_var=False, alternative="greater").pvalue)
        words = "holds" if p < SIGNIFICANT else "does not hold" if p > 1 - SIGNIFICANT else "cannot be told"
        chance = "p < 0.0001" if p < 0.0001 else f"p = {p:.4f}"
        paths = [f"calibration/{r.stem}.json" for r in usual] + [f"mutants/{r.stem}.json" for r in without]
        found.append(
            Finding(
                f"{np.mean(mine):.1f} % validation error without it, {np.mean(theirs):.1f} % with it ({chance}, "
                f"{len(without)} and {len(usual)} seeds)",
                f"{cell}, small scale",
                f"{words} for a small net",
                "; ".join(f"{evidence.name}/check/{path}" for path in paths),
                "make check-small-mutants",
                marks(*usual, *without)["note"],
                f"{np.mean(mine):.1f} % without, {np.mean(theirs):.1f} % with ({cell})",
            )
        )
    return found


def _ablation(name: str, holds: Sequence[str]) -> Callable[[Evidence, dict[str, Any]], list[Finding]]:
    """Judge a claim by an ablation's comparisons: it holds where one's verdict is among `holds`."""

    def judge(evidence: Evidence, _: dict[str, Any]) -> list[Finding]:
        frame = ablations.frame(evidence)
        found = []
        for line in frame[(frame["ablation"] == name) & frame["difference"].notna()].to_dict("records"):
            verdict = line["verdict"]
            words = (
                "cannot be told"
                if verdict == "cannot be told"
                else "holds"
                if verdict in holds
                else "does not hold"
            )
            said = f"{line['difference']:+.2f} points ({line['low']:+.2f} to {line['high']:+.2f})"
            found.append(
                Finding(
                    f"{said} of test error, {line['arm']} against {line['against']}, {line['seeds']} pairs",
                    f"{line['cell']}, {line['scale']} scale",
                    f"{words} for a small net",
                    line["records"],
                    line["again"],
                    line["note"],
                    f"{line['difference']:+.2f} points ({line['arm']})",
                )
            )
        return found

    return judge


def _mask(evidence: Evidence, claim: dict[str, Any]) -> list[Finding]:
    """The ablation where it was run, else the planted error."""
    return _ablation("mask", ("worse",))(evidence, claim) or _no_mask(evidence, claim)


# --- arithmetic -----------------------------------------------------------------------------------------------


def _arithmetic(value: float, how: str) -> Callable[[Evidence, dict[str, Any]], list[Finding]]:
    def judge(_: Evidence, claim: dict[str, Any]) -> list[Finding]:
        good = abs(value / claim["value"] - 1) < 0.02  # printed with two digits
        words = "holds (arithmetic)" if good else "does not hold"
        return [Finding(f"{how} = {value:.3g}", "arithmetic", words, brief=f"{value:.3g}")]

    return judge


JUDGES: dict[str, Callable[[Evidence, dict[str, Any]], list[Finding]]] = {
    "xnor against baseline": _speed("product of two", "naive", claimed="product of two 8192×8192 matrices"),
    "xnor against cublas": _speed("product of two 8192", "torch float32", "oneDNN float32"),
    "mlp against baseline": _speed("MNIST MLP, 10000", "naive"),
    "error lost": _same_predictions,
    "weight memory": _memory,
    "memory accesses": _modelled("accesses", "fewer 64-bit reads of weights", constructed=True),
    "energy": _modelled("total_uj", "less energy"),
    "power efficiency": _modelled("total_uj", "less energy"),
    "distinct filters": _arithmetic(2**9, "2^(3·3)"),
    "unique filters": _filters(_about, lambda share: share),
    "fewer operations": _filters(_reached, lambda share: 100 / share, 2),
    "less time": _filters(_reached, lambda share: 100 - share),
    "swar": _arithmetic(32 / (1 + 4 + 1), "32 / (1 + 4 + 1)"),
    "state of the art": _nearly,
    "no mask": _mask,
    "shift-based": _ablation("shift-based", ("no loss within the margin", "better")),
}
CONVNET = "reproduce run table1/bnn-theano-cifar10 --scale paper --seeds 3"
HOW = {  # to measure what has no evidence yet
    **dict.fromkeys(("xnor against baseline", "xnor against cublas", "mlp against baseline"), speed.AGAIN),
    **dict.fromkeys(("unique filters", "fewer operations", "less time"), CONVNET),
    "error lost": "reproduce predict FILE --against NET --record FOLDER",
    "weight memory": "reproduce freeze RUN",
    "state of the art": "reproduce run table1 --scale paper --seeds 3",
    "no mask": "reproduce run ablations/mask",
    "shift-based": "reproduce run ablations/shift-based",
}
COLUMNS = "id claim printed brief measured where verdict source dirty note records again".split()


def printed() -> tuple[dict[str, Any], ...]:
    """The paper's claims: id, claim, value, unit, where."""
    return tuple(the_paper()["claims"])


@once
def frame(evidence: Evidence) -> pd.DataFrame:
    """Every claim, one line per finding; a claim with no evidence is `not measured`."""
    lines = []
    for claim in printed():
        judge = JUDGES.get(claim["id"])
        findings = judge(evidence, claim) if judge else []
        said = claim["unit"] if claim["value"] is None else f"{claim['value']:g} {claim['unit']}"
        for found in findings or [Finding("", "", NOT_MEASURED, again=HOW.get(claim["id"], ""))]:
            line = {"id": claim["id"], "claim": claim["claim"], "printed": said, "source": claim["where"]}
            line |= {
                "brief": found.brief,
                "measured": found.measured,
                "where": found.where,
                "verdict": found.verdict,
            }
            line |= {"dirty": bool(found.note), "note": found.note}
            lines.append(line | {"records": found.records, "again": found.again})
    return pd.DataFrame(lines, columns=COLUMNS)


def section() -> Section:
    """The rules of the verdicts, which the first screen shows."""
    text = (
        "What the paper claims in figures or words, what was measured here, where, and whether it holds. The "
        "verdicts are computed. A timed factor holds if its whole 95 % interval reaches the printed one, does not "
        "hold if all of it stays below, else it cannot be told; a single timing has no interval, and is called "
        "one; times scaled up from fewer images, smaller matrices than the paper's and another machine are named. "
        f"On a GPU the kernel of the paper's kind is judged ({PAPERS_KIND}: XNOR and bit counts, without tensor "
        "cores); a faster one is named beside it. "
        f"A counted factor holds from the printed one on and nearly holds from {100 * NEARLY:.0f} % of it. The "
        "paper does not say how it counted filters, so each count tried is shown (two rules; all layers, all but "
        f"the first, weighted by operations): a share holds if one is within {NEAR_SHARE:g} points, “times "
        "fewer” and “percent less” if one is as large or larger, and the verdict names it. Arithmetic is "
        "checked as such, and what a model has put in is not called measured. The ImageNet nets, an FPGA and the "
        "shift-based rules by themselves are not measured here.",
        "“Nearly state-of-the-art” is held against the paper's own nets without binarization (its row "
        f"“{FLOAT}”: our runs where there are {FEWEST} or more, else the printed error). A BNN cell at the "
        "paper's scale comes near if its mean error lies at most the cell's margin above that, by the upper "
        "one-sided 95 % bound of the difference; it does not if the lower bound lies further above, else it "
        "cannot be told. A data set counts by its better BNN cell.",
    )
    return Section("claims", "Claims: the rules of their verdicts", text, ())
