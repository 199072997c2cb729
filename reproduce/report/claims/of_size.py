"""Claims of memory and energy, and of plain arithmetic."""

from __future__ import annotations

from typing import Any

from reproduce.report.claims.finding import Finding, Judge, at_least, each_once, machines
from reproduce.report.evidence import Evidence
from reproduce.report.sections import energy
from reproduce.report.wording import count


def memory(evidence: Evidence, claim: dict[str, Any]) -> list[Finding]:
    """Judge by the files of nets of the paper's size, or of small nets if there are no others."""
    nets = energy.files(evidence)
    large = nets[nets["scale"] != "small"]
    nets = large if len(large) else nets
    nets = nets.drop_duplicates("again")  # one file, whatever kernels ran it
    if nets.empty:
        return []
    low, high = nets["times"].min(), nets["times"].max()
    return [
        Finding(
            f"{low:.1f} to {high:.1f} times less: {count(len(nets), 'real file')}, with thresholds and all, "
            "against the weights in float32",
            machines(nets["machine"]),
            at_least(low, claim["value"]),
            "; ".join(nets["records"]),
            "reproduce freeze RUN",
            each_once(nets["note"]),
            f"{low:.1f} to {high:.1f} times less",
        )
    ]


def modelled(column: str, what: str, constructed: bool = False) -> Judge:
    """Judge the model's figures. `constructed`: the figure is an assumption of the model, so it cannot fail."""

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


def arithmetic(value: float, how: str) -> Judge:
    def judge(_: Evidence, claim: dict[str, Any]) -> list[Finding]:
        good = abs(value / claim["value"] - 1) < 0.02  # printed with two digits
        words = "holds (arithmetic)" if good else "does not hold"
        return [Finding(f"{how} = {value:.3g}", "arithmetic", words, brief=f"{value:.3g}")]

    return judge
