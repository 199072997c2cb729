"""Table 1 from records, and that the committed table follows from the committed records."""

import io

import pandas as pd
import pytest
from made import made_cell, made_record, made_run

from reproduce import data, report, runs, spec, verdict, yamlfile
from reproduce.report import evidence, exports, table1


def cell_with_paper():
    cell = made_cell()
    experiment = cell.experiment.model_copy(
        update={"published": spec.Published(value=0.96, source="Table 1"), "margin": 0.19}
    )
    return cell.model_copy(update={"experiment": experiment})


def records(scale, errors, **rest):
    return [made_record(made_run(seed=i, scale=scale, **rest), error=e) for i, e in enumerate(errors)]


def test_columns_and_the_lines_of_a_cell():
    cell = cell_with_paper()
    frame = table1.frame(records("paper", [0.95, 0.97, 0.96]) + records("small", [3.0]), [cell], quoted=False)
    assert list(frame.columns[:10]) == [
        *("row", "dataset", "paper", "scale", "seeds", "mean", "low", "high", "verdict", "machine")
    ]
    paper, small = (line for _, line in frame.iterrows())
    summary = verdict.summarize([0.95, 0.97, 0.96])
    assert (paper["scale"], paper["seeds"], paper["verdict"]) == ("paper", 3, "reproduced")
    assert paper["mean"] == pytest.approx(0.96) and paper["low"] == pytest.approx(summary.low)
    assert (small["scale"], small["seeds"], small["verdict"]) == ("small", 1, "small scale")
    assert pd.isna(small["low"])


def test_small_scale_is_never_judged_however_good_or_many():
    frame = table1.frame(records("small", [0.96] * 6), [cell_with_paper()], quoted=False)
    assert set(frame["verdict"]) == {"not run", "small scale"}


def test_runs_of_another_image_order_stand_apart():
    cell = cell_with_paper()
    mixed = records("paper", [0.9, 1.0]) + records("paper", [1.1], order="q" * 64)
    frame = table1.frame(mixed, [cell], quoted=False)
    assert sorted(frame["seeds"]) == [1, 2]
    assert all("image order" in m for m in frame["machine"])


def test_records_of_other_settings_failures_and_mutants_do_not_count():
    cell = cell_with_paper()
    said = []
    other = made_record(made_run(scale="paper", train={"epochs": 9}))
    mutant = made_record(made_run(scale="paper", variant="no-mask"))
    failed = made_record(made_run(scale="paper", seed=5), status="failed")
    assert evidence.usable([other, mutant, failed], [cell], said.append) == []
    assert len(said) == 1 and "1 record" in said[0]


def test_of_two_records_of_one_seed_the_later_counts():
    early = made_record(made_run(scale="paper"), error=5.0)
    late = made_record(made_run(scale="paper"), error=1.0, started="2026-02-01T00:00:00+00:00")
    (kept,) = evidence.usable([late, early], [cell_with_paper()])
    assert kept.result.test_error == 1.0


@pytest.mark.parametrize(
    ("dirty", "digest", "words"),
    [
        (False, None, None),
        (True, None, "code differs from its revision"),
        (None, None, "revision not known"),
        (False, "e" * 64, "data differ from the known ones"),
    ],
)
def test_dirty_code_and_other_data_are_marked_in_every_table(dirty, digest, words):
    found = []
    for record in records("paper", [1.0], digest=digest or data.DIGESTS["mnist"]):
        found.append(record.model_copy(update={"code": record.code | {"dirty": dirty}}))
    frame = table1.frame(found, [cell_with_paper()], quoted=False)
    (line,) = (line for _, line in frame.iterrows() if line["seeds"])
    assert line["dirty"] == (words is not None) and line["note"] == (words or "")
    for text, mark in ((exports.markdown(frame), "1.00\\*"), (exports.latex(frame), "$1.00$ (1)*")):
        assert (mark in text) == (words is not None)
    if words:
        assert words in exports.markdown(frame)
        assert table1.with_note(frame)[-1].key == "note"


def test_readme_block_is_replaced_between_its_markers():
    frame = table1.frame(records("paper", [1.0]), [cell_with_paper()])
    text = f"before\n{exports.BEGIN}\nold\n{exports.END}\nafter\n"
    new = exports.into_readme(text, frame)
    assert new.startswith("before\n") and new.endswith("\nafter\n") and "old" not in new
    assert exports.into_readme(new, frame) == new
    with pytest.raises(ValueError, match="markers"):
        exports.into_readme("no markers", frame)


def committed():
    return table1.frame(report.gather(runs.PUBLISHED, report.cells()).runs, report.cells())


def test_committed_table_and_readme_follow_from_the_committed_records():
    frame = committed()
    folder = runs.PUBLISHED / "report"
    assert (folder / "table1.csv").read_text() == exports.csv(frame)
    assert (folder / "table1.md").read_text() == f"# Table 1\n\n{exports.markdown(frame)}"
    readme = (yamlfile.ROOT / "README.md").read_text()
    assert exports.into_readme(readme, frame) == readme


def test_committed_csv_has_the_contract_columns():
    frame = pd.read_csv(io.StringIO((runs.PUBLISHED / "report" / "table1.csv").read_text()))
    assert list(frame.columns) == table1.COLUMNS
    assert set(frame.loc[frame["verdict"] != "quoted", "row"]) == set(table1.ROWS)
    assert len(frame[frame["verdict"] == "quoted"]) == 11 and set(frame["verdict"]) >= {"quoted", "small scale"}
    assert set(frame["dataset"]) <= set(table1.DATASETS)
    assert set(frame["scale"]) <= set(table1.SCALES)


def test_committed_records_are_sound_clean_and_of_todays_settings():
    found, problems = runs.read_all(runs.PUBLISHED / "runs")
    assert problems == []
    assert len(evidence.usable(found, spec.cells())) == len(found)
    assert not any(r.code["dirty"] for r in found)


def test_every_cell_is_there_at_small_scale_and_bnn_cells_with_three_seeds():
    frame = committed()
    small = frame[frame["scale"] == "small"]
    assert len(small) == 12
    assert (small[small["row"].str.startswith("BNN")]["seeds"] >= 3).all()
    theano = small[(small["row"] == "BNN (Theano)") & (small["dataset"] == "MNIST")]
    assert theano["mean"].item() <= 2.2
    assert set(small["verdict"]) == {"small scale"}
