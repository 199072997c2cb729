"""Table 1 from records, and that the committed table follows from the committed records."""

import io

import pandas as pd
import pytest
from made import made_cell, made_record, made_run

from reproduce import report, runs, spec, verdict, yamlfile


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
    frame = report.table1(records("paper", [0.95, 0.97, 0.96]) + records("small", [3.0]), [cell])
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
    frame = report.table1(records("small", [0.96] * 6), [cell_with_paper()])
    assert set(frame["verdict"]) == {"not run", "small scale"}


def test_runs_of_another_image_order_stand_apart():
    cell = cell_with_paper()
    mixed = records("paper", [0.9, 1.0]) + records("paper", [1.1], order="q" * 64)
    frame = report.table1(mixed, [cell])
    assert sorted(frame["seeds"]) == [1, 2]
    assert all("image order" in m for m in frame["machine"])


def test_records_of_other_settings_failures_and_mutants_do_not_count():
    cell = cell_with_paper()
    said = []
    other = made_record(made_run(scale="paper", train={"epochs": 9}))
    mutant = made_record(made_run(scale="paper", variant="no-mask"))
    failed = made_record(made_run(scale="paper", seed=5), status="failed")
    assert report.usable([other, mutant, failed], [cell], said.append) == []
    assert len(said) == 1 and "1 record" in said[0]


def test_of_two_records_of_one_seed_the_later_counts():
    early = made_record(made_run(scale="paper"), error=5.0)
    late = made_record(made_run(scale="paper"), error=1.0, started="2026-02-01T00:00:00+00:00")
    (kept,) = report.usable([late, early], [cell_with_paper()])
    assert kept.result.test_error == 1.0


def test_dirty_code_is_marked():
    dirty = [r.model_copy(update={"code": r.code | {"dirty": True}}) for r in records("paper", [1.0])]
    clean = [r.model_copy(update={"code": r.code | {"dirty": False}}) for r in records("paper", [1.0])]
    assert "1.00\\*" in report.markdown(report.table1(dirty, [cell_with_paper()]))
    assert "\\*" not in report.markdown(report.table1(clean, [cell_with_paper()]))


def test_readme_block_is_replaced_between_its_markers():
    frame = report.table1(records("paper", [1.0]), [cell_with_paper()])
    text = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    new = report.into_readme(text, frame)
    assert new.startswith("before\n") and new.endswith("\nafter\n") and "old" not in new
    assert report.into_readme(new, frame) == new
    with pytest.raises(ValueError, match="markers"):
        report.into_readme("no markers", frame)


def committed():
    return report.of(runs.PUBLISHED / "runs", spec.cells(["table1"]))


def test_committed_table_and_readme_follow_from_the_committed_records():
    frame = committed()
    folder = runs.PUBLISHED / "report"
    csv = frame[report.COLUMNS].to_csv(index=False, float_format="%.4f", lineterminator="\n")
    assert (folder / "table1.csv").read_text() == csv
    assert (folder / "table1.md").read_text() == f"# Table 1\n\n{report.markdown(frame)}"
    readme = (yamlfile.ROOT / "README.md").read_text()
    assert report.into_readme(readme, frame) == readme


def test_committed_csv_has_the_contract_columns():
    frame = pd.read_csv(io.StringIO((runs.PUBLISHED / "report" / "table1.csv").read_text()))
    assert list(frame.columns) == report.COLUMNS
    assert set(frame["row"]) == set(report.ROWS)
    assert set(frame["dataset"]) <= set(report.DATASETS)
    assert set(frame["scale"]) <= set(report.SCALES)


def test_committed_records_are_sound_clean_and_of_todays_settings():
    found, problems = runs.read_all(runs.PUBLISHED / "runs")
    assert problems == []
    assert len(report.usable(found, spec.cells())) == len(found)
    assert not any(r.code["dirty"] for r in found)


def test_every_cell_is_there_at_small_scale_and_bnn_cells_with_three_seeds():
    frame = committed()
    small = frame[frame["scale"] == "small"]
    assert len(small) == 12
    assert (small[small["row"].str.startswith("BNN")]["seeds"] >= 3).all()
    theano = small[(small["row"] == "BNN (Theano)") & (small["dataset"] == "MNIST")]
    assert theano["mean"].item() <= 2.2
    assert set(small["verdict"]) == {"small scale"}
