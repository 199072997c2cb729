"""Claims of how many times faster the kernels are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from reproduce.records.benchmark import Bench, Ratio, Timing, family_of
from reproduce.report import wording
from reproduce.report.claims.finding import Finding, Judge, factor
from reproduce.report.evidence import Evidence, marks
from reproduce.report.sections import speed

PAPERS_KIND = "cuda-xnor"  # the GPU kernel that computes as the paper's does
FIRST_LAYER = (
    "; here the first layer has a kernel of its own and weights are packed beforehand, in the paper the first "
    "layer is the baseline's and weights are packed at each call"
)
ON_GPU = "; images lie on the GPU beforehand, in the paper the time includes their copy"


def _ratios(evidence: Evidence, what: str, other: tuple[str, ...]) -> Iterator[tuple[Bench, Timing, str, Ratio]]:
    """The XNOR row that is timed as the paper's, and its ratio to the fastest `other`, at the largest size.

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
        wanted = [r for r in rows if any(p in r[0].candidate for p in wording.PREFERRED)] or rows
        wanted = [r for r in wanted if r[0].what == wanted[-1][0].what]
        wanted = [r for r in wanted if wording.backend(r[0].candidate) == PAPERS_KIND] or wanted
        if wanted:
            last = wanted[-1][0]
            yield bench, *min((r for r in wanted if r[0] is last), key=lambda r: r[2].ratio)


def _faster_kernel(bench: Bench, row: Timing, against: str) -> str:
    """Text that names a kernel of the same record that is faster than `row` at the same task; empty if none is."""
    alike = [
        r
        for r in bench.rows
        if (r.what, r.family) == (row.what, "xnor")
        and any(p in row.candidate and p in r.candidate for p in wording.PREFERRED)
        and against in r.times_faster_than
    ]
    best = min(alike, key=lambda r: r.seconds, default=row)
    if best.seconds >= row.seconds:
        return ""
    return f"; faster here: {best.candidate}, {best.times_faster_than[against].ratio:.1f} times"


def _faster_libraries(row: Timing) -> str:
    """Text that names the libraries that are faster than `row`, with how many times as fast it is; or empty."""
    found = [
        f"{name}, {ratio.ratio:.2f} times"
        for name, ratio in row.times_faster_than.items()
        if family_of(name) == "library" and ratio.ratio < 1
    ]
    return f"; slower than {'; '.join(found)}" if found else ""


def faster(what: str, *other: str, claimed: str = "") -> Judge:
    """Judge how many times faster the rows are whose name begins with `what`.

    `claimed`: what the paper's claim is about. If a smaller product was measured instead, the verdict says so.
    """

    def judge(evidence: Evidence, claim: dict[str, Any]) -> list[Finding]:
        found = []
        for bench, row, name, ratio in _ratios(evidence, what, other):
            between = "no interval" if ratio.low is None else f"{ratio.low:.1f} to {ratio.high:.1f}"
            kind = "a CPU" if bench.kind == "cpu" else "another GPU"
            words = factor(ratio.ratio, ratio.low, ratio.high, claim["value"])
            short = f"{ratio.ratio:.1f} times in a single timing" if ratio.low is None else f"{between} times"
            timed = {r.candidate: r for r in bench.rows if r.what == row.what}
            said = [
                f"; {key}: {', '.join(remarks.values())}"
                for key in (row.candidate, name)
                if key in timed and (remarks := speed.remarks(timed[key]))
            ]
            said += ["; random weights"] if row.random_weights else []
            said += [_faster_kernel(bench, row, name), _faster_libraries(row)]
            if "MLP" in row.what:
                said += [FIRST_LAYER, ON_GPU if bench.kind == "gpu" else ""]
            kernel = wording.backend(row.candidate)
            if name in timed and timed[name].scaled:
                words += ", scaled up from fewer images,"
                short += ", scaled up"
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
                    speed.AGAIN[bench.kind],
                    marks(bench)["note"],
                    f"{short} ({kernel}{' ' * bool(kernel)}against {re.split(r'[,(]', name)[0].strip()}), "
                    f"{wording.machine(bench.machine.name)}",
                )
            )
        return found

    return judge
