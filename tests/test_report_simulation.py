"""The simulation of the verdict's rule: the vectorised rule is the rule, and its figures are what they are said "
"to be."""

import re

import numpy as np
import pytest
from made import made_record, made_run
from scipy import stats
from test_report_figures import evidence_of

from reproduce import report, verdict
from reproduce.report import simulation
from reproduce.report.simulation import NOT_REPRODUCED, REPRODUCED, VERDICTS, shares


@pytest.mark.parametrize("n", range(1, 11))
def test_vectorised_rule_equals_the_verdict_on_random_cells(n):
    rng = np.random.default_rng(n)
    cells = 400
    paper = rng.uniform(0.5, 12, cells)
    margin = 0.3
    spread, shift = rng.uniform(0.01, 1, cells), rng.choice([-1, 0, 0, 1], cells)
    errors = paper[:, None] + shift[:, None] + spread[:, None] * rng.standard_normal((cells, n))
    found = [VERDICTS[i] for i in simulation.verdicts(errors, paper, margin)]
    assert found == [verdict.verdict(e, p, margin) for e, p in zip(errors, paper, strict=True)]
    if n > 3:
        assert set(found) == set(VERDICTS)


def test_variants_differ_from_the_rule_only_where_they_say():
    rng = np.random.default_rng(0)
    errors, paper = 1 + 0.3 * rng.standard_normal((5000, 4)), np.ones(5000) + rng.choice([0, 0.5, 1], 5000)
    mean, s = errors.mean(1) - paper, errors.std(1, ddof=1)
    plain, beyond, predicted = (simulation.verdicts(errors, paper, 0.6, rule) for rule in simulation.RULES)
    assert (np.abs(mean[plain != beyond]) <= 0.6).all() and (plain != beyond).any()
    assert (beyond[plain != beyond] == simulation.INCONCLUSIVE).all()
    by_draw = np.abs(mean) + stats.t.ppf(0.95, 3) * s * np.sqrt(1.25) < 0.6
    assert ((predicted == REPRODUCED) == by_draw).all() and (predicted != plain).any()


def test_shares_agree_with_another_draw_and_the_scalar_rule():
    rng = np.random.default_rng(5)
    trials = 3000
    found = [verdict.verdict(rng.normal(1, 0.5, 5), rng.normal(0, 0.5), 1.0) for _ in range(trials)]
    expected = shares(5, 0.5, 1)
    for name, share in zip(VERDICTS, expected, strict=True):
        assert found.count(name) / trials == pytest.approx(share, abs=0.03)


def test_the_promises_hold_where_the_table_says_so():
    table = simulation.promises()
    rule = table[table["rule"] == simulation.RULES[0]]
    assert (rule["false_alarm"] <= 5).all()
    assert (rule.loc[rule["spread"] <= 0.5, "found"] >= 95).all()
    assert (rule.loc[rule["spread"] >= 1, "found"] < 95).all()
    assert set(rule["kept"]) == {"both", "only equality"}
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
