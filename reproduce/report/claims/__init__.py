"""The claims table: what the paper says in figures or words, what the records say to it, and a verdict by rule.

Each claim of `experiments/paper.yaml` is judged by the function that carries its id; a claim without one is
`not measured`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pandas as pd

from reproduce.report.claims import of_accuracy, of_filters, of_size, of_speed
from reproduce.report.claims.finding import NEARLY, Finding, Judge
from reproduce.report.claims.of_accuracy import FLOAT
from reproduce.report.claims.of_filters import NEAR_SHARE
from reproduce.report.claims.of_speed import PAPERS_KIND
from reproduce.report.evidence import Evidence, once, the_paper
from reproduce.report.html.parts import Section
from reproduce.verdict import FEWEST

NOT_MEASURED = "not measured"
JUDGES: dict[str, Judge] = {
    "xnor against baseline": of_speed.faster(
        "product of two", "naive", claimed="product of two 8192×8192 matrices"
    ),
    "xnor against cublas": of_speed.faster("product of two 8192", "torch float32", "oneDNN float32"),
    "mlp against baseline": of_speed.faster("MNIST MLP, 10000", "naive"),
    "error lost": of_accuracy.same_predictions,
    "weight memory": of_size.memory,
    "memory accesses": of_size.modelled("accesses", "fewer 64-bit reads of weights", constructed=True),
    "energy": of_size.modelled("total_uj", "less energy"),
    "power efficiency": of_size.modelled("total_uj", "less energy"),
    "distinct filters": of_size.arithmetic(2**9, "2^(3·3)"),
    "unique filters": of_filters.counted(of_filters.about, lambda share: share),
    "fewer operations": of_filters.counted(of_filters.reached, lambda share: 100 / share, 2),
    "less time": of_filters.counted(of_filters.reached, lambda share: 100 - share),
    "swar": of_size.arithmetic(32 / (1 + 4 + 1), "32 / (1 + 4 + 1)"),
    "state of the art": of_accuracy.nearly,
    "no mask": of_accuracy.ablation("mask", ("worse",)),
    "shift-based": of_accuracy.ablation("shift-based", ("no loss within the margin", "better")),
}
CONVNET = "reproduce run table1/bnn-theano-cifar10 --scale paper --seeds 3"
HOW = {  # to measure what has no evidence yet
    **dict.fromkeys(("xnor against baseline", "xnor against cublas", "mlp against baseline"), "make bench-cpu"),
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
            lines.append(line | asdict(found) | {"dirty": bool(found.note)})
    return pd.DataFrame(lines, columns=COLUMNS)


def section() -> Section:
    """The rules of the verdicts, which the first screen shows."""
    text = (
        "What the paper claims in figures or words, what was measured here, where, and whether it holds. The "
        "verdicts are computed. A timed factor holds if its whole 95 % interval is at or above the printed "
        "factor, and "
        "does not hold if the whole interval is below it; otherwise it cannot be told. A factor timed once has no "
        "interval, and the verdict says so; times scaled up from fewer images, smaller matrices than the paper's "
        "and another machine are named. "
        f"On a GPU the kernel of the paper's kind is judged ({PAPERS_KIND}: XNOR and bit counts, without tensor "
        "cores); a faster one is named beside it. "
        f"A counted factor holds from the printed one on and nearly holds from {100 * NEARLY:.0f} % of it. The "
        "paper does not say how it averaged its counts of filters, so each count tried is shown (two rules; all "
        "layers, all but "
        f"the first, weighted by operations): a share holds if one is within {NEAR_SHARE:g} points, “times "
        "fewer” and “percent less” if one is as large or larger, and the verdict names it. Arithmetic is "
        "checked as such, and a figure that follows from a model's own assumptions is marked so. The ImageNet "
        "nets and an FPGA are not measured here.",
        "“Nearly state-of-the-art” is tested against float nets, Table 1's row "
        f"“{FLOAT}” (BinaryConnect's code, on MNIST with narrower layers than the BNNs'): our own runs if there "
        f"are at least {FEWEST}, else the printed error. A BNN cell at the paper's scale is near if the upper "
        "one-sided 95 % bound of its difference from the float net is within the cell's margin, and not near if "
        "the lower bound is above the margin; otherwise it cannot be told. The better BNN cell counts for each "
        "data set.",
    )
    return Section("claims", "Claims: the rules of their verdicts", text, ())
