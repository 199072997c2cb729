"""The simulations of the verdict's rule: what they try is the rule, and their figures are what the page says."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from made import made_record, made_run
from test_report_figures import evidence_of

from reproduce import report, verdict
from reproduce.report import simulation, trials
from reproduce.report.simulation import NOT_REPRODUCED, VERDICTS, shares


def bits(n, disagreeing, images=10_000):
    """n runs of which one alone is wrong on so many images."""
    wrong = np.zeros((n, images), bool)
    wrong[0, :disagreeing] = True
    return wrong


@pytest.mark.parametrize("n", range(1, 11))
def test_vectorised_rule_equals_the_verdict_on_random_cells(n):
    rng = np.random.default_rng(n)
    cells = 400
    paper = rng.uniform(0.5, 12, cells)
    margin = 0.3
    spread, shift = rng.uniform(0.01, 1, cells), rng.choice([-1, 0, 0, 1], cells)
    errors = paper[:, None] + shift[:, None] + spread[:, None] * rng.standard_normal((cells, n))
    wrong = bits(n, 100)
    of_images = math.sqrt(100 / n) / 100  # one run of n wrong, on 100 images of 10,000, in points
    found = [VERDICTS[i] for i in simulation.verdicts(errors, paper, margin, of_images)]
    assert found == [verdict.verdict(e, p, margin, wrong=wrong) for e, p in zip(errors, paper, strict=True)]
    if n > 3:
        assert set(found) == set(VERDICTS)


def test_shares_agree_with_another_draw_and_the_scalar_rule():
    rng = np.random.default_rng(5)
    trials = 3000
    found = [
        verdict.verdict(rng.normal(1, 0.5, 5), rng.normal(0, 0.5), 1.0, wrong=bits(5, 4500)) for _ in range(trials)
    ]
    expected = shares(5, 0.5, 1, math.sqrt(4500 / 5) / 100)
    for name, share in zip(VERDICTS, expected, strict=True):
        assert found.count(name) / trials == pytest.approx(share, abs=0.03)


def test_the_promises_hold_where_the_page_says_so():
    table = simulation.table()
    of = table[table["verdict"] == "not reproduced"]
    assert (of.loc[of["shift"] == 0, "share"] <= 5).all()
    found = of[(of["shift"] == 3) & (of["n"] == 5)]
    assert (found.loc[found["spread"] <= 0.5, "share"] >= 95).all()
    assert (found.loc[found["spread"] >= 1, "share"] < 95).all()
    for n in (3, 5, 10):
        at = simulation.widest(n)
        assert shares(n, at, 3)[NOT_REPRODUCED] >= 0.95 > shares(n, at + 0.01, 3)[NOT_REPRODUCED]


def test_what_is_said_of_large_spreads_is_the_tables():
    (said,) = re.findall(r"not another rule: (.*)\.$", simulation.section(evidence_of()).text[1])
    parts = said.split("; ")
    assert len(parts) == sum(s > simulation.widest(5) for s in simulation.SPREADS) == 2
    for part in parts:
        spread, found, open_ = map(float, re.findall(r"[\d.]+", part))
        expected = dict(zip(VERDICTS, 100 * shares(5, spread, 3), strict=True))
        assert (found, open_) == (round(expected["not reproduced"]), round(expected["inconclusive"]))


def test_spreads_of_two_image_orders_are_not_mixed():
    def made(errors, order):
        return [
            made_record(made_run(seed=i, scale="paper", order=order * 64), error=e, cell="table1/bnn-theano-mnist")
            for i, e in enumerate(errors)
        ]

    found = simulation.observed(
        evidence_of(made([1.0, 1.1, 1.2], "o") + made([5.0, 5.2, 5.4], "q"), report.cells())
    )
    assert list(found["order"]) == ["oooooo", "qqqqqq"] and list(found["spread"]) == pytest.approx([0.1, 0.2])


def test_observed_spreads_are_judged_by_the_images_where_the_records_have_them():
    cell = "table1/bnn-theano-mnist"
    runs = [made_run(seed=i, scale="paper") for i in range(3)]
    told = [made_record(run, wrong=w, cell=cell) for run, w in zip(runs, bits(3, 90), strict=True)]
    (line,) = simulation.observed(evidence_of(told, report.cells())).to_dict("records")
    assert (line["counted"], line["of_images"]) == ("images", pytest.approx(math.sqrt(90 / 3) / 100))
    untold = [*told[:2], made_record(runs[2], error=0.0, cell=cell)]
    (line,) = simulation.observed(evidence_of(untold, report.cells())).to_dict("records")
    assert (line["counted"], line["of_images"]) == ("binomial", pytest.approx(math.sqrt(0.3 * 99.7) / 100))


# --- image by image -------------------------------------------------------------------------------------------


CASE = trials.Case(2000, 5.0, 0.4, 0.5)


def test_made_runs_have_the_error_the_spread_and_the_share_that_were_asked_for():
    drawn = trials.draw(CASE, 3000)
    assert drawn.errors.mean() == pytest.approx(5.0, rel=0.02)
    assert drawn.errors.std(1, ddof=1).mean() == pytest.approx(0.4, rel=0.1)
    for variance in drawn.image_variance.values():
        assert variance.mean() == pytest.approx(0.5 * 0.4**2, rel=0.03)


def test_images_of_a_run_go_wrong_together_only_where_the_spread_asks_for_it():
    alone = trials.draw(CASE._replace(share=1.0, spread=0.25), 2000)
    assert np.sqrt(alone.errors.var(1, ddof=1).mean()) == pytest.approx(0.25, rel=0.05)
    assert np.sqrt(alone.image_variance[3].mean()) == pytest.approx(0.25, rel=0.05)
    most = trials.draw(CASE._replace(share=1.0, spread=2.0), 2000)  # more than independent images can make
    assert most.image_variance[5].mean() == pytest.approx(trials.MOST * 5 * 95 / 2000, rel=0.05)


def test_the_rule_tried_is_the_verdicts_and_the_one_before_is_that_of_the_seeds_alone():
    rng = np.random.default_rng(3)
    drawn = trials.draw(CASE, 200)
    for n in trials.SEEDS:
        for shift in (-1.5, 0, 2):
            for name, counted in ((trials.NOW, True), ("images not known", False)):
                found = np.select(
                    trials.judged(trials.RULES[name], CASE, drawn, n, shift), VERDICTS[:3], VERDICTS[3]
                )
                for i in rng.choice(200, 60, replace=False):
                    errors = drawn.errors[i, :n]
                    paper = drawn.errors[i, -1] - shift * 1.959963984540054 * math.sqrt(5 * 95 / 2000)
                    margin = 1.959963984540054 * math.sqrt(paper * (100 - paper) / 2000)
                    # one run wrong alone on so many images has the same image variance
                    alone = round(drawn.image_variance[n][i] * 2000**2 * n / 100**2)
                    wrong = bits(n, alone, 2000) if counted else None
                    assert found[i] == verdict.verdict(errors, paper, margin, 2000, wrong)


@pytest.mark.parametrize("case", [trials.CASES[4], trials.CASES[27]])
def test_the_committed_table_is_what_its_command_makes(case):
    table = pd.read_csv(trials.TABLE)
    assert len(table) == len(trials.CASES) * len(trials.SEEDS) * len(trials.RULES)
    again = pd.DataFrame(trials.lines(case))
    kept = table[(table[list(case._fields)] == pd.Series(case._asdict())).all(axis=1)].reset_index(drop=True)
    assert list(kept["rule"]) == list(again["rule"]) and list(kept["seeds"]) == list(again["seeds"])
    assert np.abs(kept[list(trials.SHARES)] - again[list(trials.SHARES)]).to_numpy().max() < 0.2


def test_the_rule_keeps_what_it_promises_image_by_image():
    """Except where the spread is half of the error: there the errors are skewed."""
    table = pd.read_csv(trials.TABLE)
    usual = table[(table["rule"] == trials.NOW) & (table["spread"] <= table["error"] / 4)]
    assert set(usual["seeds"]) == {3, 5} and set(usual["images"]) == {10_000, 26_032}
    assert usual["spread"].min() == 0.005 and usual["spread"].max() == 0.5
    assert usual["false_not"].max() <= 5 and usual["false_better"].max() <= 5
    assert usual.loc[usual["spread"] >= 0.05, "lost"].max() <= 5
    others = {rule: of for rule, of in table[table["spread"] <= table["error"] / 4].groupby("rule")}
    assert others["pooled, 4 degrees"]["false_not"].max() > 5  # which is why the estimates are not pooled
    larger = others["larger variance"]
    assert larger.loc[larger["spread"] >= 0.05, "lost"].max() > 5  # and why √v has two degrees of freedom more


def test_table_is_whole_and_every_case_sums_to_one():
    table = simulation.table()
    assert len(table) == 10 * len(simulation.SPREADS) * len(simulation.SHIFTS) * len(VERDICTS)
    assert table.groupby(["n", "spread", "shift"])["share"].sum().round(9).eq(100).all()
    few = table[table["n"] < 3]
    assert (few.loc[few["verdict"] == "inconclusive", "share"] == 100).all()


def test_shares_do_not_change_from_call_to_call():
    before = simulation.shares(4, 0.3, 2)
    simulation._draws.cache_clear()
    assert (simulation.shares(4, 0.3, 2) == before).all()
