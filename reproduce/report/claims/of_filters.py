"""Claims of repeated filters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from reproduce.report.claims.finding import Finding, Judge, each_once
from reproduce.report.evidence import Evidence
from reproduce.report.rows import main
from reproduce.report.sections import filters, table1

NEAR_SHARE = 5.0  # points between a printed share of filters and ours that still count as the same
COUNTS = (("mean", "all layers"), ("mean_rest", "without the first layer"), ("weighted", "op-weighted"))


def counted(
    words: Callable[[dict[str, float], float], str], number: Callable[[float], float], digits: int = 1
) -> Judge:
    """Judge the averages of the project's BNNs on CIFAR-10, each at its largest scale.

    Small nets count only if no other was run. `number` turns a share (percent) into what is claimed.
    """

    def judge(evidence: Evidence, claim: dict[str, Any]) -> list[Finding]:
        frame = filters.summary(evidence)
        frame = frame[frame["cell"].str.fullmatch(r"(table1|short)/bnn.*cifar10")]
        if not (frame["scale"] == "small").all():
            frame = frame[frame["scale"] != "small"]
        found = []
        for _, of_net in frame.groupby(frame["cell"].str.split("/").str[-1], sort=False):
            cell, scale = of_net[["cell", "scale"]].iloc[0]  # the largest scale comes first
            lines = of_net[(of_net["cell"] == cell) & (of_net["scale"] == scale)]
            of = {
                f"{line['rule']}, {name}": number(line[key])
                for _, line in lines.iterrows()
                for key, name in COUNTS
                if not pd.isna(line[key])
            }
            verdict = words(of, claim["value"])
            if scale != "paper":
                other = "net" if scale == "small" else "training"
                verdict = f"{table1.OFF_SCALE[str(scale)]}: not the paper's {other}"
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
                    each_once(lines["note"]),
                    f"{min(of.values()):.{digits}f} to {max(of.values()):.{digits}f} {claim['unit'].split()[0]}, "
                    f"depending on how filters are counted ({str(cell).rpartition('/')[2]}, {scale} scale)",
                )
            )
        return found

    return judge


NO_COUNT = "does not hold by any count tried"


def about(of: dict[str, float], printed: float) -> str:
    """The verdict on a share: it holds within NEAR_SHARE points of the printed one, by the nearest count."""
    near = min(of, key=lambda count: abs(of[count] - printed))
    good = sum(abs(value - printed) <= NEAR_SHARE for value in of.values())
    return _by_counts(good, len(of), near)


def reached(of: dict[str, float], printed: float) -> str:
    """The verdict on a least value: it holds if a count reaches it; the largest count is named."""
    good = sum(value >= printed for value in of.values())
    return _by_counts(good, len(of), max(of, key=lambda count: of[count]))


def _by_counts(good: int, tried: int, best: str) -> str:
    if not good:
        return NO_COUNT
    return "holds by all counts" if good == tried else f"holds by some counts ({good} of {tried}), best by {best}"
