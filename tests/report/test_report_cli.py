"""`reproduce report`, `list` and `publish` on the command line."""

import pandas as pd
import pytest
from made import made_record, raising
from test_report_evidence import broken, put, store_of
from typer.testing import CliRunner

from reproduce import report, spec
from reproduce.cli import app as cli
from reproduce.records import runs

CELL = "table1/bnn-theano-mnist"


def reproduce(*words):
    return CliRunner().invoke(cli.app, [str(w) for w in words])


def records(errors, **change):
    """Small-scale records of a real cell with today's settings."""
    digest = spec.cells([CELL])[0].scales["small"].digest()
    found = []
    for seed, error in enumerate(errors):
        record = made_record(error=error, cell=CELL, seed=seed, settings_digest=digest, **change)
        found.append(record.model_copy(update={"key": f"{seed}{record.key[1:]}"}))
    return found


@pytest.fixture
def store(tmp_path):
    return store_of(tmp_path / "mine", records([2.0, 2.1, 2.2]))


def test_the_report_of_a_store_is_written_into_it_and_links_to_its_runs(store):
    put(store / "runs", "cut.json", "{")
    done = reproduce("report", "--results", store)
    assert done.exit_code == 0 and "left out: cut.json" in done.output
    page = (store / "report" / "index.html").read_text()
    record = next(p for p in (store / "runs").glob("table1*"))
    assert f'href="../runs/{record.name}"' in page and "cut.json" in page
    frame = pd.read_csv(store / "report" / "table1.csv")
    (line,) = frame[frame["scale"] == "small"].to_dict("records")
    assert (line["seeds"], line["mean"]) == (3, 2.1)


def test_open_shows_the_page(store, monkeypatch):
    shown = []
    monkeypatch.setattr(cli.typer, "launch", shown.append)
    assert reproduce("report", "--results", store, "--open").exit_code == 0
    assert shown == [str(store / "report" / "index.html")]


def test_a_report_in_another_folder_links_to_the_runs(store, tmp_path, monkeypatch):
    monkeypatch.setattr(cli.typer, "launch", raising(AssertionError("opened without --open")))
    target = tmp_path / "elsewhere" / "deep"
    assert reproduce("report", "--results", store, "--to", target).exit_code == 0
    assert 'href="../../mine/runs/' in (target / "index.html").read_text()
    assert not (store / "report").exists()


def test_two_stores_are_compared(store, tmp_path):
    later = "2026-02-01T00:00:00+00:00"
    other = store_of(tmp_path / "far" / "theirs", records([3.0, 3.1, 3.2], started=later))
    done = reproduce("report", "--results", store, "--results", other)
    assert done.exit_code == 0, done.output
    (line,) = pd.read_csv(store / "compare" / "data" / "compare.csv").to_dict("records")
    assert line["difference"] == pytest.approx(1.0) and line["verdict"] == "different"
    assert (line["first"], line["second"]) == ("mine", "far/theirs")
    page = (store / "compare" / "index.html").read_text()
    assert 'href="../runs/' in page and 'href="../../far/theirs/runs/' in page


def test_two_cells_of_a_store_are_compared(store):
    done = reproduce("report", "--results", store, "--cell", CELL, "--cell", "table1/float-mnist")
    assert done.exit_code == 0, done.output
    page = (store / "compare" / "index.html").read_text()
    assert "Cells compared" in page and "No scale and image order" in page  # the store has one of them
    for words in (("--cell", CELL), ("--cell", CELL, "--cell", CELL), ("--cell", "table1")):
        done = reproduce("report", "--results", store, *words)
        assert done.exit_code == 2 and "--cell names two cells of one store" in done.output


def test_links_between_stores_do_not_depend_on_the_working_folder(store, tmp_path, monkeypatch):
    other = store_of(tmp_path / "far" / "theirs", records([3.0]))
    monkeypatch.chdir(store)
    assert reproduce("report", "--results", other, "--results", store).exit_code == 0
    assert 'href="../../../mine/runs/' in (other / "compare" / "index.html").read_text()


def test_a_missing_store_is_one_line_and_exit_code_2(tmp_path):
    done = reproduce("report", "--results", tmp_path / "none")
    assert done.exit_code == 2 and "no store" in done.output


def test_list_shows_every_cells_state(store, monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "PUBLISHED", tmp_path / "published")
    (store / "work").mkdir(exist_ok=True)
    (store / "work" / f"{CELL.replace('/', '-')}-paper-seed0-abc.ckpt").write_text("")
    digest = spec.cells([CELL])[0].scales["small"].digest()
    runs.Store(store).write(broken(seed=9).model_copy(update={"cell": CELL, "settings_digest": digest}))
    done = reproduce("list", CELL, "--results", store)
    assert done.exit_code == 0
    paper, small = (line for line in done.output.splitlines() if CELL in line)
    assert "0.96" in paper and "not run" in paper
    assert "paper-seed0-abc.ckpt: not a checkpoint that can be read" in done.output
    assert "2.10 (1.6" in small and "small scale; 1 broke off" in small


def test_publish_to_a_given_target_changes_nothing_else(store, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "refresh", raising(AssertionError("the project's own report would be written")))
    done = reproduce("publish", "--results", store, "--to", tmp_path / "target")
    assert done.exit_code == 0 and "3 record(s) copied" in done.output
    assert len(list((tmp_path / "target" / "runs").iterdir())) == 3
