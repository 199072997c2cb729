"""The comparison of both modes of products: pairs, intervals, and runs that form no pair."""

import numpy as np
import pytest
from made import made_record, made_run
from scipy import stats

from reproduce.campaign import compare_products
from reproduce.records import sealed
from reproduce.records.compared_products import Products


def test_the_interval_is_that_of_a_paired_t_test():
    rng = np.random.default_rng(0)
    first, second = rng.normal(2, 0.1, 8), rng.normal(1.9, 0.1, 8)
    found = compare_products.difference(first.tolist(), second.tolist())
    test = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert found["mean"] == pytest.approx(first.mean() - second.mean())
    assert (found["low"], found["high"]) == pytest.approx((test.low, test.high))
    with pytest.raises(ValueError, match="two pairs"):
        compare_products.difference([1.0], [1.0])


def made(mode, seeds, errors):
    """Runs of one cell in a mode, from seeds and numbers of wrong images of 200."""
    found = []
    for seed, error in zip(seeds, errors, strict=True):
        record = made_record(made_run(seed=seed), error=error)
        found.append(record.model_copy(update={"code": record.code | {"mode": mode}}))
    return found


def test_runs_are_compared_by_seed_and_others_are_refused():
    fixed, plain = made("fixed16", (0, 1, 2), (2.0, 3.0, 4.0)), made("torch", (2, 1, 0), (3.0, 3.0, 3.0))
    found = compare_products.compared(fixed, plain)
    assert found["seeds"] == [0, 1, 2]
    assert found["modes"]["fixed16"]["test_error"] == [2.0, 3.0, 4.0]
    assert found["difference"]["mean"] == pytest.approx(0.0)
    assert found["difference"]["high"] == pytest.approx(stats.t.ppf(0.975, 2) / np.sqrt(3))
    assert found["last_difference"]["high"] == pytest.approx(0.9 * found["difference"]["high"])
    with pytest.raises(ValueError, match="no pair"):
        compare_products.compared(fixed, made("torch", (0, 1, 3), (2.0, 3.0, 4.0)))
    with pytest.raises(ValueError):
        compare_products.compared(fixed, plain[:2])


def test_the_record_is_written_and_sealed(monkeypatch, tmp_path, capsys):
    runs_of = {"fixed16": made("fixed16", (0, 1), (2.0, 4.0)), "float32": made("torch", (0, 1), (1.0, 1.0))}
    monkeypatch.setattr(compare_products, "train", lambda mode, *_, **__: runs_of[mode])
    target = compare_products.main((runs_of["fixed16"][0].cell,), 2, tmp_path)
    record = sealed.read(target)
    assert isinstance(record, Products)
    assert record.cells[0].difference.mean == pytest.approx(2.0)
    assert "+2.000" in capsys.readouterr().out


def test_groups_and_patterns_stand_for_their_cells_and_a_wrong_name_ends_the_program():
    assert compare_products.named(()) == compare_products.CELLS
    assert compare_products.named(("table1/bnn-*-mnist",)) == (
        "table1/bnn-theano-mnist",
        "table1/bnn-torch7-mnist",
    )
    with pytest.raises(SystemExit, match="no cell 'table1/bnn-theano-mnits'; did you mean"):
        compare_products.named(("table1/bnn-theano-mnits",))
