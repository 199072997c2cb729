"""The claims table: what the paper says in figures or words, what the records say to it, and a verdict by rule.

Each claim of `experiments/paper.yaml` is judged by the function that carries its id; claims without one can only
be `quoted`. The verdict's words follow from the evidence by the rules of WORDS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from reproduce import paper
from reproduce.report import energy, filters, speed, table1
from reproduce.report.evidence import Bench, Evidence, Timing, note, notes
from reproduce.report.parts import Column, Section, Table

NOT_MEASURED = "not measured"
NEARLY = 0.9  # of a printed factor; from there on it is nearly reached
NEAR_SHARE = 5.0  # points between a printed share of filters and ours that still count as the same
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Finding:
    """What was measured of a claim, where, the verdict in words, and the records behind it."""

    measured: str
    where: str
    verdict: str
    records: str = ""
    again: str = ""
    dirty: bool = False


def factor(value: float, low: float | None, high: float | None, printed: float) -> str:
    """Words for "so many times": by the interval where there is one, else by the value.

    holds: all of it at or above the printed factor; does not hold: all of it below; else cannot be told.
    """
    low, high = (value if edge is None else edge for edge in (low, high))
    if low >= printed:
        return "holds"
    return "does not hold" if high < printed else "cannot be told"


def at_least(value: float, printed: float) -> str:
    """Words for a factor that is counted, not timed: holds, nearly holds (from NEARLY of it), does not hold."""
    share = value / printed
    return "holds" if share >= 1 else "nearly holds" if share >= NEARLY else "does not hold"


# --- speed ----------------------------------------------------------------------------------------------------


def _ratios(evidence: Evidence, what: str, other: str) -> Iterator[tuple[Bench, Timing, Any]]:
    """Per machine: the XNOR row that does what the paper's did, and its ratio to `other`, at the largest size."""
    for bench in speed.latest(evidence.benches):
        rows = [
            (row, ratio)
            for row in bench.rows
            if speed.named(row).startswith(what) and speed.family(row.candidate) == "xnor"
            for name, ratio in row.times_faster_than.items()
            if name.startswith(other)
        ]
        wanted = [r for r in rows if any(p in r[0].candidate for p in speed.PREFERRED)] or rows
        if wanted:
            yield bench, *wanted[-1]


def _speed(what: str, other: str) -> Callable[[Evidence, dict[str, Any]], list[Finding]]:
    def judge(evidence: Evidence, claim: dict[str, Any]) -> list[Finding]:
        found = []
        for bench, row, ratio in _ratios(evidence, what, other):
            between = " (timed once)" if ratio.low is None else f" ({ratio.low:.1f} to {ratio.high:.1f})"
            kind = "a CPU" if bench.kind == "cpu" else "another GPU"
            words = factor(ratio.ratio, ratio.low, ratio.high, claim["value"])
            found.append(
                Finding(
                    f"{ratio.ratio:.1f} times{between}: {row.candidate} against {other}, {speed.named(row)}",
                    bench.machine.name,
                    f"{words} here, on {kind} (the paper's was a {speed.PAPER_MACHINE})",
                    bench.path,
                    speed.AGAIN,
                    bool(note(bench)),
                )
            )
        return found

    return judge


def _same_predictions(evidence: Evidence, _: dict[str, Any]) -> list[Finding]:
    nets = energy.files(evidence)
    nets = nets[nets["differing"].notna()]
    if nets.empty:
        return []
    differing, images = int(nets["differing"].sum()), int(nets["images"].sum())
    return [
        Finding(
            f"{differing} of {images:,} predictions of {len(nets)} packed nets differ from the float32 net's",
            _where(nets["machine"]),
            "holds" if differing == 0 else "does not hold",
            "; ".join(nets["records"]),
            "reproduce predict FILE --against NET --record FOLDER",
            bool(nets["dirty"].any()),
        )
    ]


def _where(machines: pd.Series) -> str:
    return "; ".join(sorted(set(machines)))


# --- memory and energy ----------------------------------------------------------------------------------------


def _memory(evidence: Evidence, claim: dict[str, Any]) -> list[Finding]:
    nets = energy.files(evidence)
    if nets.empty:
        return []
    low, high = nets["times"].min(), nets["times"].max()
    return [
        Finding(
            f"{low:.1f} to {high:.1f} times less: {len(nets)} real files, with thresholds and all, against the "
            "weights in float32",
            _where(nets["machine"]),
            at_least(low, claim["value"]),
            "; ".join(nets["records"]),
            "reproduce freeze RUN",
            bool(nets["dirty"].any()),
        )
    ]


def _modelled(column: str, what: str) -> Callable[[Evidence, dict[str, Any]], list[Finding]]:
    def judge(_: Evidence, claim: dict[str, Any]) -> list[Finding]:
        frame = energy.frame()
        binary = frame[frame["variant"] == "binary"]
        whole = frame[frame["variant"] == "float"].set_index("net")
        times = [whole.loc[n, column] / v for n, v in zip(binary["net"], binary[column], strict=True)]
        words = at_least(min(times), claim["value"])
        between = " to ".join(dict.fromkeys(f"{edge:.1f}" for edge in (min(times), max(times))))
        return [
            Finding(
                f"{between} times {what} for four nets, by the model of Tables 2 and 3",
                "a model, not a measurement",
                f"{words} in the model",
            )
        ]

    return judge


# --- filters --------------------------------------------------------------------------------------------------


def _filters(
    words: Callable[[float], str], number: Callable[[float], float]
) -> Callable[[Evidence, dict[str, Any]], list[Finding]]:
    """Judge the CIFAR-10 BNN's op-weighted and plain averages by both rules; `number` turns a share (percent)
    into what the claim counts."""

    def judge(evidence: Evidence, claim: dict[str, Any]) -> list[Finding]:
        frame = filters.summary(evidence)
        frame = frame[frame["cell"].str.contains("bnn") & frame["cell"].str.endswith("cifar10")]
        found = []
        for (cell, scale), lines in frame.groupby(["cell", "scale"], sort=False):
            of = {
                f"{line['rule']}, {name}": number(line[key])
                for _, line in lines.iterrows()
                for key, name in (("mean", "all layers"), ("weighted", "op-weighted"))
            }
            near = min(of, key=lambda k: abs(of[k] - claim["value"]))
            verdict = words(of[near] - claim["value"])
            if scale != "paper":
                verdict = f"{table1.OFF_SCALE[str(scale)]}: not the paper's net"
            found.append(
                Finding(
                    f"{'; '.join(f'{v:.1f} ({k})' for k, v in of.items())}; nearest: {near}; random signs would "
                    f"give {' and '.join(f'{number(v):.1f}' for v in lines['random'])} (all layers)",
                    f"{cell}, {scale} scale",
                    verdict,
                    lines["records"].iloc[0],
                    lines["again"].iloc[0],
                    bool(lines["dirty"].any()),
                )
            )
        return found

    return judge


def _share_words(difference: float) -> str:
    return "holds by that count" if abs(difference) <= NEAR_SHARE else "does not hold by any count tried"


def _times_words(difference: float) -> str:
    return "holds by that count" if difference >= 0 else "does not hold by any count tried"


# --- words of the paper ---------------------------------------------------------------------------------------


def _nearly(evidence: Evidence, _: dict[str, Any]) -> list[Finding]:
    """BNN cells at the paper's scale: the claim holds on a data set if one of them is reproduced or better."""
    frame = table1.frame(evidence.runs, evidence.cells, evidence.name)
    ours = frame[(frame["scale"] == "paper") & frame["row"].str.startswith("BNN") & (frame["seeds"] > 0)]
    if ours.empty:
        return []
    good = ours[ours["verdict"].isin(["reproduced", "better than the paper"])]
    sets = len(table1.DATASETS[:3])
    count = good["dataset"].nunique()
    return [
        Finding(
            "; ".join(
                f"{r}, {d}: {m:.2f} %, {v}" for r, d, m, v in ours[["row", "dataset", "mean", "verdict"]].values
            ),
            _where(ours["machine"]),
            f"holds on {count} of {sets} data sets" if count else "cannot be told",
            "; ".join(ours["records"]),
            "reproduce run table1 --scale paper --seeds 3",
            bool(ours["dirty"].any()),
        )
    ]


def _no_mask(evidence: Evidence, _: dict[str, Any]) -> list[Finding]:
    """Planted error `no-mask` against the usual runs of `check-small`: Welch, one-sided, last validation error."""
    found = []
    for cell in sorted({r.cell for r in evidence.checks}):
        usual, without = (
            [r for r in evidence.checks if r.cell == cell and r.result and r.variant == v]
            for v in (None, "no-mask")
        )
        if min(len(usual), len(without)) < 2:
            continue
        mine, theirs = (
            [100 * r.curve[-1].valid_wrong / r.result.valid_images for r in group if r.result]
            for group in (without, usual)
        )
        p = float(stats.ttest_ind(mine, theirs, equal_var=False, alternative="greater").pvalue)
        chance = "p < 0.0001" if p < 0.0001 else f"p = {p:.4f}"
        paths = [f"calibration/{r.stem}.json" for r in usual] + [f"mutants/{r.stem}.json" for r in without]
        found.append(
            Finding(
                f"{np.mean(mine):.1f} % validation error without it, {np.mean(theirs):.1f} % with it ({chance}, "
                f"{len(without)} and {len(usual)} seeds)",
                f"{cell}, small scale",
                f"{'holds' if p < SIGNIFICANT else 'cannot be told'} for a small net",
                "; ".join(f"{evidence.name}/check/{path}" for path in paths),
                "make check-small-mutants",
                any(notes(r) for r in [*usual, *without]),
            )
        )
    return found


# --- arithmetic -----------------------------------------------------------------------------------------------


def _arithmetic(value: float, how: str) -> Callable[[Evidence, dict[str, Any]], list[Finding]]:
    def judge(_: Evidence, claim: dict[str, Any]) -> list[Finding]:
        good = abs(value / claim["value"] - 1) < 0.02  # printed with two digits
        return [Finding(f"{how} = {value:.3g}", "arithmetic", "holds (arithmetic)" if good else "does not hold")]

    return judge


JUDGES: dict[str, Callable[[Evidence, dict[str, Any]], list[Finding]]] = {
    "xnor against baseline": _speed("product of two", "naive"),
    "xnor against cublas": _speed("product of two 8192", "torch float32"),
    "mlp against baseline": _speed("MNIST MLP, 10000", "naive"),
    "error lost": _same_predictions,
    "weight memory": _memory,
    "memory accesses": _modelled("accesses", "fewer 64-bit reads of weights"),
    "energy": _modelled("total_uj", "less energy"),
    "power efficiency": _modelled("total_uj", "less energy"),
    "distinct filters": _arithmetic(2**9, "2^(3·3)"),
    "unique filters": _filters(_share_words, lambda share: share),
    "fewer operations": _filters(_times_words, lambda share: 100 / share),
    "less time": _filters(_share_words, lambda share: 100 - share),
    "swar": _arithmetic(32 / (1 + 4 + 1), "32 / (1 + 4 + 1)"),
    "state of the art": _nearly,
    "no mask": _no_mask,
}
CONVNET = "reproduce run table1/bnn-theano-cifar10 --scale paper --seeds 3"
HOW = {  # to measure what has no evidence yet
    **dict.fromkeys(("xnor against baseline", "xnor against cublas", "mlp against baseline"), speed.AGAIN),
    **dict.fromkeys(("unique filters", "fewer operations", "less time"), CONVNET),
    "error lost": "reproduce predict FILE --against NET --record FOLDER",
    "weight memory": "reproduce freeze RUN",
    "state of the art": "reproduce run table1 --scale paper --seeds 3",
    "no mask": "make check-small-mutants",
}
COLUMNS = ["claim", "printed", "measured", "where", "verdict", "source", "dirty", "note", "records", "again"]


@cache
def printed() -> tuple[dict[str, Any], ...]:
    """The paper's claims: id, claim, value, unit, where."""
    return tuple(paper.read()["claims"])


def frame(evidence: Evidence) -> pd.DataFrame:
    """Every claim, one line per finding; a claim with no evidence is `not measured`."""
    lines = []
    for claim in printed():
        judge = JUDGES.get(claim["id"])
        findings = judge(evidence, claim) if judge else []
        said = claim["unit"] if claim["value"] is None else f"{claim['value']:g} {claim['unit']}"
        for found in findings or [Finding("", "", NOT_MEASURED, again=HOW.get(claim["id"], ""))]:
            line = {"claim": claim["claim"], "printed": said, "source": claim["where"]}
            line |= {"measured": found.measured, "where": found.where, "verdict": found.verdict}
            line |= {"dirty": found.dirty, "note": "rests on a marked record" if found.dirty else ""}
            lines.append(line | {"records": found.records, "again": found.again})
    return pd.DataFrame(lines, columns=COLUMNS)


def section(evidence: Evidence) -> Section:
    """The table and the rules of its verdicts."""
    found = frame(evidence)
    text = (
        "What the paper claims in figures or words, what was measured here, where, and whether it holds. The "
        "verdicts are computed. A timed factor holds if its whole 95 % interval reaches the printed one, does not "
        "hold if all of it stays below, else it cannot be told; another machine than the paper's says so. A "
        f"counted factor holds from the printed one on and nearly holds from {100 * NEARLY:.0f} % of it. A share "
        f"of filters holds if ours is within {NEAR_SHARE:g} points by some rule of counting, which is named. "
        "“Nearly state-of-the-art” holds on a data set if a BNN cell of Table 1 is reproduced or better. "
        "Arithmetic is checked as such. The ImageNet nets, an FPGA and the shift-based rules by themselves are "
        "not measured here.",
    )
    columns = (
        *(Column("claim", "claim"), Column("printed", "printed"), Column("measured", "measured here")),
        *(Column("where", "where"), Column("verdict", "verdict")),
    )
    return Section(
        "claims",
        "Claims",
        text,
        (Table("claims", "Claims of the paper.", found, table1.with_note(found, *columns)),),
    )
