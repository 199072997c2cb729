"""experiments/paper.yaml against facts on the paper that are known independently."""

import yaml

from reproduce import spec
from reproduce.report import claims

PAPER = yaml.safe_load((spec.EXPERIMENTS / "paper.yaml").read_text(encoding="utf-8"))


def test_ratios_in_the_text_follow_from_the_bars():
    matmul, mlp, error = PAPER["figure3"]["bars"]
    claims = {c["claim"]: c["value"] for c in PAPER["claims"]}
    slack = matmul["plus_minus"] / matmul["xnor"]
    for other, words in (("baseline", "the unoptimized baseline"), ("cublas", "cuBLAS")):
        claimed = claims[f"XNOR kernel against {words} on 8192 matrices"]
        assert abs(matmul[other] / matmul["xnor"] / claimed - 1) < slack
    claimed = claims["MNIST MLP with the XNOR kernel against the baseline"]
    assert round(mlp["baseline"] / mlp["xnor"]) == claimed == 7
    assert error["baseline"] == error["xnor"]


def test_figure1_has_a_range_for_every_epoch_and_the_baseline_learns_fastest():
    figure = PAPER["figure1"]
    for curve in figure["curves"]:
        assert len(curve["low"]) == len(curve["high"]) == len(figure["epochs"])
        both = zip(curve["low"], curve["high"], strict=True)
        assert all(low <= high for low, high in both if None not in (low, high))
    baseline, theano, torch7 = figure["curves"]
    at60 = figure["epochs"].index(60)
    assert baseline["high"][at60] < torch7["low"][at60] < theano["low"][at60]


def test_energy_tables_are_complete():
    assert [r["multiply"] for r in PAPER["table2"]["rows"]] == [0.2, 3.1, 1.1, 3.7]
    assert [r["add"] for r in PAPER["table2"]["rows"]] == [0.03, 0.1, 0.4, 0.9]
    bounds = [(row["low"], row["high"]) for row in PAPER["table3"]["rows"]]
    assert bounds == [(10, 10), (20, 20), (100, 100), (1300, 2600)]


def test_no_row_and_no_claim_stands_twice():
    for key, of in (("row", PAPER["table1"]["rows"]), ("what", PAPER["figure3"]["bars"]), ("id", PAPER["claims"])):
        names = [one[key] for one in of]
        assert len(set(names)) == len(names) > 2
    assert claims.JUDGES.keys() <= {claim["id"] for claim in PAPER["claims"]}
