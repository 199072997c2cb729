"""Without cells, bands or runs a command does not succeed: it says what is missing, and makes no folder."""

import pytest
from test_campaign import command, experiments

from reproduce import yamlfile
from reproduce.campaign import small_check
from reproduce.records import runs

COMMANDS = [["list"], ["run"], ["submit"], ["check"], ["check", "--mutants"], ["check", "--calibrate"], ["report"]]


def everything(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """As after `pip install .`: there are no experiments and no results beside the package."""
    place = tmp_path / "site-packages"
    (place / "reproduce").mkdir(parents=True)
    monkeypatch.setattr(yamlfile, "ROOT", place)
    monkeypatch.setattr(runs, "LOCAL", place / "results" / "local")
    monkeypatch.setattr(runs, "PUBLISHED", place / "results")
    monkeypatch.setattr(small_check, "COMMITTED", place / "results" / "check")
    monkeypatch.setattr(small_check, "OWN_STORE", place / "results" / "check-local")
    return place


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_without_experiments_every_command_says_so(installed, tmp_path, monkeypatch, capsys, words):
    assert command(monkeypatch, tmp_path, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("reproduce: no experiment files in ") and error.count("\n") == 1
    assert everything(installed) == ["reproduce"]


def test_publish_outside_a_checkout_makes_no_folder_there(installed, tmp_path, monkeypatch, capsys):
    store = tmp_path / "mine" / "runs"
    store.mkdir(parents=True)
    assert command(monkeypatch, tmp_path, "publish") == 2
    assert "no runs in" in capsys.readouterr().err
    (store / "one.json").write_text("{}")
    assert command(monkeypatch, tmp_path, "publish", "--results", str(tmp_path / "mine")) == 2
    assert "no experiment files in" in capsys.readouterr().err
    assert everything(installed) == ["reproduce"]


@pytest.mark.parametrize("words", [["bench"], ["bench", "--layers"], ["bench", "--train"]], ids=" ".join)
def test_a_benchmark_outside_a_checkout_measures_nothing_before_it_knows_a_folder(
    installed, tmp_path, monkeypatch, capsys, words
):
    assert command(monkeypatch, tmp_path, *words, "--quick") == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "(--to)" in said.err
    assert everything(installed) == ["reproduce"]


@pytest.mark.parametrize("words", [["check"], ["check", "--mutants"], ["check", "--calibrate"]], ids=" ".join)
def test_a_check_of_no_cell_does_not_pass(installed, tmp_path, monkeypatch, capsys, words):
    experiments(tmp_path / "experiments")  # a cell that is no part of the check
    assert command(monkeypatch, tmp_path, *words) == 2
    said = capsys.readouterr()
    assert "passed" not in said.out and "no experiment file has a `check:` section" in said.err
    assert everything(installed) == ["reproduce"]


def test_a_check_without_committed_runs_has_no_bands_and_does_not_pass(installed, tmp_path, monkeypatch, capsys):
    check_of = {"seed": 0, "calibration": [1, 2, 3, 4, 5], "mutants": {}}
    experiments(tmp_path / "experiments", group="check")
    path = tmp_path / "experiments" / "check" / "made.yaml"
    content = yamlfile.read_yaml(path) | {"check": check_of}
    path.write_text(yamlfile.yaml.safe_dump(content))
    assert command(monkeypatch, tmp_path, "check") == 3
    assert "calibration runs of seeds [1, 2, 3, 4, 5] wanted, [] are committed" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["run", "--scale", "paper"], ["submit", "--scale", "paper"]], ids=" ".join)
def test_a_scale_that_no_cell_has(tmp_path, data_folder, monkeypatch, capsys, words):
    experiments(tmp_path / "experiments")
    store = ["--results", str(tmp_path / "r"), "--data", str(data_folder)]
    assert command(monkeypatch, tmp_path, *words, *store) == 2
    assert "no cell with a paper scale" in capsys.readouterr().err and not (tmp_path / "r").exists()


@pytest.mark.parametrize("stores", [1, 2])
def test_a_report_of_no_records(tmp_path, monkeypatch, capsys, stores):
    experiments(tmp_path / "experiments")
    (tmp_path / "empty").mkdir()
    assert command(monkeypatch, tmp_path, "report", *["--results", str(tmp_path / "empty")] * stores) == 2
    assert "no records in" in capsys.readouterr().err and everything(tmp_path / "empty") == []


def test_publishing_no_runs(tmp_path, monkeypatch, capsys):
    experiments(tmp_path / "experiments")
    (tmp_path / "empty").mkdir()
    words = ["publish", "--results", str(tmp_path / "empty"), "--to", str(tmp_path / "target")]
    assert command(monkeypatch, tmp_path, *words) == 2
    assert "no runs in" in capsys.readouterr().err and not (tmp_path / "target").exists()
