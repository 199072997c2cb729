"""The simulations of the verdict's rule: they use that rule, and the page gives their figures."""

import csv
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reproduce import verdict
from reproduce import verdict_simulation as simulation
from reproduce.report.sections import rule

VERDICTS = ("reproduced", "better than the paper", "not reproduced", "inconclusive")


def bits(n, disagreeing, images=10_000):
    """n runs of which only one is wrong on this many images."""
    wrong = np.zeros((n, images), bool)
    wrong[0, :disagreeing] = True
    return wrong


CASE = simulation.Case(2000, 5.0, 0.4, 0.5)


def test_simulated_runs_have_the_requested_error_spread_and_share():
    drawn = simulation.draw(CASE, 3000)
    assert drawn.errors.mean() == pytest.approx(5.0, rel=0.02)
    assert drawn.errors.std(1, ddof=1).mean() == pytest.approx(0.4, rel=0.1)
    for variance in drawn.image_variance.values():
        assert variance.mean() == pytest.approx(0.5 * 0.4**2, rel=0.03)


def test_errors_within_a_run_are_correlated_only_if_the_spread_requires_it():
    alone = simulation.draw(CASE._replace(share=1.0, spread=0.25), 2000)
    assert np.sqrt(alone.errors.var(1, ddof=1).mean()) == pytest.approx(0.25, rel=0.05)
    assert np.sqrt(alone.image_variance[3].mean()) == pytest.approx(0.25, rel=0.05)
    most = simulation.draw(CASE._replace(share=1.0, spread=2.0), 2000)  # more than independent images can make
    assert most.image_variance[5].mean() == pytest.approx(simulation.MOST * 5 * 95 / 2000, rel=0.05)


def test_the_simulated_rule_is_the_verdicts_and_the_older_one_uses_seeds_alone():
    rng = np.random.default_rng(3)
    drawn = simulation.draw(CASE, 200)
    for n in simulation.SEEDS:
        for shift in (-1.5, 0, 2):
            for name, counted in ((simulation.NOW, True), ("images not known", False)):
                tried = simulation.judged(simulation.RULES[name], CASE, drawn, n, shift)
                found = np.select(tried, VERDICTS[:3], VERDICTS[3])
                for i in rng.choice(200, 60, replace=False):
                    errors = drawn.errors[i, :n]
                    paper = drawn.errors[i, -1] - shift * 1.959963984540054 * math.sqrt(5 * 95 / 2000)
                    margin = 1.959963984540054 * math.sqrt(paper * (100 - paper) / 2000)
                    # if one run alone is wrong on this many images, the image variance is the same
                    alone = round(drawn.image_variance[n][i] * 2000**2 * n / 100**2)
                    wrong = bits(n, alone, 2000) if counted else None
                    assert found[i] == verdict.verdict(errors, paper, margin, 2000, wrong)


@pytest.mark.parametrize("case", [simulation.CASES[4], simulation.CASES[27]])
def test_the_committed_table_is_the_output_of_its_command(case):
    table = pd.read_csv(simulation.TABLE)
    assert len(table) == len(simulation.CASES) * len(simulation.SEEDS) * len(simulation.RULES)
    again = pd.DataFrame(simulation.lines(case))
    kept = table[(table[list(case._fields)] == pd.Series(case._asdict())).all(axis=1)].reset_index(drop=True)
    assert list(kept["rule"]) == list(again["rule"]) and list(kept["seeds"]) == list(again["seeds"])
    assert np.abs(kept[list(simulation.SHARES)] - again[list(simulation.SHARES)]).to_numpy().max() < 0.2


def test_the_error_rates_of_the_rule_are_as_stated_image_by_image():
    """Except where the spread is half of the error: there the errors are skewed."""
    table = pd.read_csv(simulation.TABLE)
    usual = table[(table["rule"] == simulation.NOW) & (table["spread"] <= table["error"] / 4)]
    assert set(usual["seeds"]) == {3, 5} and set(usual["images"]) == {10_000, 26_032}
    assert usual["spread"].min() == 0.005 and usual["spread"].max() == 0.5
    assert usual["false_not"].max() <= 5 and usual["false_better"].max() <= 5
    assert usual.loc[usual["spread"] >= 0.05, "lost"].max() <= 5
    others = {rule: of for rule, of in table[table["spread"] <= table["error"] / 4].groupby("rule")}
    assert others["pooled, 4 degrees"]["false_not"].max() > 5  # therefore the estimates are not pooled
    larger = others["larger variance"]
    assert larger.loc[larger["spread"] >= 0.05, "lost"].max() > 5  # therefore √v has two degrees of freedom more


@pytest.mark.parametrize("n", [3, 5])
def test_reproduced_one_margin_away_is_as_frequent_as_for_normal_errors(n):
    """Of seeds alone: the paper's figure is one more normal number, at one margin from our true mean."""
    rng, margin = np.random.default_rng(n), 0.2
    runs = rng.normal(0, 0.02, (100_000, n + 1))
    d = runs[:, :n].mean(1) - runs[:, n] - margin
    half = stats.t.ppf(0.95, n - 1) * runs[:, :n].std(1, ddof=1) / math.sqrt(n)
    normal = 100 * np.mean(np.abs(d) + half < margin)
    table = pd.read_csv(simulation.TABLE)
    here = table[(table["rule"] == simulation.BEFORE) & (table["seeds"] == n) & (table["spread"] == 0.05)]
    assert here["false_equal"].to_numpy() == pytest.approx(normal, abs=3)


def test_the_page_gives_the_worst_cases_of_the_committed_table():
    with open(simulation.TABLE, encoding="utf-8") as file:
        every = [line for line in csv.DictReader(file) if line["rule"] == simulation.NOW]
    table = [line for line in every if 0.9 < float(line["real_spread"]) / float(line["spread"]) < 1.1]
    usual = [line for line in table if float(line["spread"]) <= float(line["error"]) / 4]
    text = rule.section().text[1]
    assert (
        f"{(len(every) - len(table)) // 2} of the cases, whose errors scattered less than stated, are left" in text
    )
    for key, before, after in (
        ("false_not", "“not reproduced” is wrongly said in at most ", " % and"),
        ("false_better", "“better” in at most ", " % of cases;"),
    ):
        assert f"{before}{max(float(line[key]) for line in usual):.1f}{after}" in text
    most = {n: max(float(line["false_equal"]) for line in table if line["seeds"] == n) for n in ("3", "5")}
    said = f"at most {most['3']:.0f} % of cases with 3 and {most['5']:.0f} % of cases with 5 seeds"
    assert f"“reproduced” is wrongly said in {said}" in text
    worst = rule.tried().set_index(["rule", "spread", "seeds"])
    of_five = [float(line["false_not"]) for line in usual if line["seeds"] == "5"]
    assert worst.loc[(simulation.NOW, "usual", 5), "false_not"] == max(of_five)
    assert worst.loc[(simulation.NOW, "usual", 5), "cases"] == len(of_five)
