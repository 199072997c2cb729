"""Which test images were wrong: written, read, checked against the counted errors, compared image by image."""

import base64
import math

import numpy as np
import pandas as pd
import pytest
from made import made_record, made_run
from test_report_evidence import store_of

from reproduce import outcomes, report
from reproduce.records import read_record
from reproduce.report.sections import compare, mcnemar

CELL, OTHER = "table1/bnn-theano-mnist", "table1/float-mnist"


def made_wrong(n, share=0.1, seed=0):
    return np.random.default_rng(seed).random(n) < share


@pytest.mark.parametrize("n", [1, 7, 8, 9, 1000, 26_032])
def test_bits_are_restored_and_take_an_eighth_of_a_byte_for_each_image(n):
    wrong = made_wrong(n, 0.4, n)
    text = outcomes.pack(wrong)
    np.testing.assert_array_equal(outcomes.unpack(text, n), wrong)
    raw = base64.b64decode(text)
    assert len(raw) == math.ceil(n / 8)
    assert [bool(raw[i // 8] >> (7 - i % 8) & 1) for i in range(n)] == wrong.tolist()


def test_a_record_keeps_its_bits_and_older_ones_without_are_read(tmp_path):
    wrong = made_wrong(9_990)
    for name, record in (("told", made_record(wrong=wrong)), ("untold", made_record())):
        (path,) = (store_of(tmp_path / name, [record]) / "runs").glob("*.json")
        assert read_record(path) == record
    assert "wrong_best" not in path.read_text()
    np.testing.assert_array_equal(outcomes.unpack(made_record(wrong=wrong).result.wrong_best, 9_990), wrong)


# --- image by image -------------------------------------------------------------------------------------------


def run_of(wrong, seed=0, order="o", digest="d", cell=CELL):
    return made_record(made_run(seed=seed, order=order * 64, digest=digest * 64), wrong=wrong, cell=cell)


@pytest.mark.parametrize(("one", "two"), [(0, 0), (1, 0), (3, 9), (12, 2), (40, 41)])
def test_mcnemar_is_the_binomial_sum_written_out(one, two):
    first, second = (np.zeros(500, bool) for _ in range(2))
    first[:60] = second[:60] = True  # both wrong: no evidence for either
    first[100 : 100 + one] = second[300 : 300 + two] = True
    found = mcnemar.mcnemar(first, second)
    n, low = one + two, min(one, two)
    p = min(1, 2 * sum(math.comb(n, i) for i in range(low + 1)) / 2**n)
    assert (found.images, found.only_first, found.only_second) == (500, one, two)
    assert found.p == pytest.approx(p) and found.disagreement == pytest.approx(n / 5)


def test_runs_on_parts_of_one_test_set_are_compared_on_their_common_images():
    wrong = made_wrong(1000, 0.3)
    other = wrong[:950].copy()
    other[[3, 7]] ^= True
    found = mcnemar.image_by_image(run_of(wrong), run_of(other))
    assert found.images == 950 and found.only_first + found.only_second == 2


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (made_record(), "not known which images were wrong"),
        (run_of(made_wrong(100), order="q"), "images in another order"),
        (run_of(made_wrong(100), digest="e"), "other test images"),
    ],
)
def test_what_cannot_be_compared_says_why(second, reason):
    first = run_of(made_wrong(100))
    assert mcnemar.image_by_image(first, second) == mcnemar.image_by_image(second, first) == reason
    (line,) = mcnemar.frame([({}, [first], [second])]).to_dict("records")
    assert line["verdict"] == f"not compared: {reason}" and pd.isna(line["p"])


def test_pairs_are_of_one_seed_where_there_are_any():
    def group(*seeds):
        return [run_of(made_wrong(10), seed=seed) for seed in seeds]

    def seeds(first, second):
        return [(a.seed, b.seed) for a, b in mcnemar.pairs(group(*first), group(*second))]

    assert seeds((0, 1, 2), (2, 1, 7)) == [(1, 1), (2, 2)]
    assert seeds((2, 0, 1), (8, 7)) == [(0, 7), (1, 8)]


def test_the_frame_also_holds_the_disagreement_within_each_side():
    base = made_wrong(1000)

    def flipped(*where):
        wrong = base.copy()
        wrong[list(where)] ^= True
        return wrong

    first = [run_of(flipped(), seed=0), run_of(flipped(1, 2), seed=1), run_of(flipped(3), seed=2)]
    second = [run_of(flipped(*range(100, 120)), seed=0)]
    (line,) = mcnemar.frame([({"row": "a"}, first, second)]).to_dict("records")
    assert line["within_first"] == pytest.approx((0.2 + 0.1 + 0.3) / 3) and pd.isna(line["within_second"])
    assert line["disagreement"] == pytest.approx(2.0) and line["row"] == "a"
    assert line["verdict"] == ("different" if line["p"] < 0.05 else "no difference seen")
    (same,) = mcnemar.frame([({}, second, second)]).to_dict("records")
    assert same["verdict"] == "the same runs" and same["p"] == 1


def store(folder, cell, seed=0):
    base = made_wrong(2000, 0.05, 1)
    runs = []
    for i in range(3):
        wrong = base ^ made_wrong(2000, 0.01, 10 * seed + i)
        record = run_of(wrong, i, cell=cell)
        digest = next(c for c in report.cells() if c.name == cell).scales["small"].digest()
        change = {"settings_digest": digest, "key": f"{seed}{i}{record.key[2:]}"}
        runs.append(record.model_copy(update=change))
    return store_of(folder, runs)


def test_stores_and_cells_are_compared_image_by_image_on_the_page(tmp_path):
    stores = [store(tmp_path / "a", CELL), store(tmp_path / "b", CELL, 1)]
    both = [report.gather(folder, report.cells()) for folder in stores]
    report.compared(both, tmp_path / "page", "page")
    found = pd.read_csv(tmp_path / "page" / "data" / "compare-images.csv")
    assert list(found["seed_first"]) == list(found["seed_second"]) == [0, 1, 2]
    assert (found["disagreement"] > 0).all() and set(found["first"] + found["second"]) == {"ab"}
    assert "Image by image" in (tmp_path / "page" / "index.html").read_text()

    one = report.gather(store(stores[0], OTHER, 2), report.cells())
    cells = {cell.name: cell for cell in report.cells()}
    ((_, first, second),) = compare.of_cells(one, cells[CELL], cells[OTHER])
    assert {r.cell for r in first} == {CELL} and {r.cell for r in second} == {OTHER}
    (none,) = compare.cell_sections(both[1], cells[CELL], cells[OTHER])
    assert "No scale and image order" in none.text[0]
