"""A report's folder: other files stay, those of an earlier report are removed, a foreign folder is refused."""

import pytest
from sample import sample
from test_campaign import command, experiments
from test_report_cli import records, reproduce
from test_report_evidence import store_of

from reproduce import files
from reproduce.records import runs
from reproduce.report import folder


@pytest.fixture
def store(tmp_path):
    return store_of(tmp_path / "mine", records([2.0, 2.1, 2.2]))


def of_others(place):
    """A folder of somebody else, with page, picture, data and note; path -> text."""
    made = {"index.html": "my page", "holiday.svg": "<svg/>", "data/mydata.csv": "1,2", "notes/todo.txt": "rest"}
    for name, text in made.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return made


@pytest.mark.parametrize("stores", sample([1, 2]))
def test_a_folder_with_other_files_is_refused_and_not_changed(store, tmp_path, stores):
    target = tmp_path / "theirs"
    made = of_others(target)
    done = reproduce("report", *["--results", store] * stores, "--to", target)
    assert isinstance(done.exception, files.Foreign)
    line = str(done.exception)
    assert "(data/mydata.csv, holiday.svg, index.html and 1 more)" in line and "--force" in line
    assert {p.relative_to(target).as_posix(): p.read_text() for p in target.rglob("*.*")} == made


def test_the_command_says_so_in_a_line_with_code_2(store, tmp_path, monkeypatch, capsys):
    experiments(tmp_path / "experiments")
    of_others(tmp_path / "theirs")
    words = ["report", "--results", str(store), "--to", str(tmp_path / "theirs")]
    assert command(monkeypatch, tmp_path, *words) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_with_force_only_files_of_the_same_names_are_replaced(store, tmp_path):
    target = tmp_path / "theirs"
    made = of_others(target)
    assert reproduce("report", "--results", store, "--to", target, "--force").exit_code == 0
    assert (target / "index.html").read_text().startswith("<!doctype html>")
    for name in set(made) - {"index.html"}:
        assert (target / name).read_text() == made[name]


def test_a_report_replaces_an_earlier_report_and_the_files_of_run(store):
    folder.add({"table1.md": "old"}, store / "report")
    for _ in range(2):
        assert reproduce("report", "--results", store).exit_code == 0
    listed = set((store / "report" / folder.LIST).read_text().splitlines())
    there = {p.relative_to(store / "report").as_posix() for p in (store / "report").rglob("*.*")}
    assert listed == there - {folder.LIST} and {"index.html", "table1.md", "figure1.svg"} <= listed


def test_a_run_does_not_replace_a_foreign_table_and_says_so(tmp_path, data_folder, monkeypatch, capsys):
    experiments(tmp_path / "experiments")
    theirs = tmp_path / "r" / "report" / "table1.md"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("my table")
    words = ["run", "--scale", "small", "--data", str(data_folder), "--results", str(tmp_path / "r")]
    assert command(monkeypatch, tmp_path, *words) == 0
    out = capsys.readouterr().out
    assert "Table 1 was not written:" in out and "a table1.md that no report wrote" in out
    assert [p.name for p in theirs.parent.iterdir()] == ["table1.md"] and theirs.read_text() == "my table"


def test_files_that_the_report_no_longer_has_are_removed_and_no_others(tmp_path):
    place = tmp_path / "report"
    folder.write({"data/old.csv": "a", "old.svg": "b", "index.html": "c"}, place)
    (place / "mine.svg").write_text("mine")
    (place / ".hidden").write_text("")
    new = {"data/new.csv": "a", "index.html": "d"}
    with pytest.raises(files.Foreign, match=r"\(mine.svg\)"):
        folder.write(new, place)
    folder.write(new, place, force=True)
    there = {p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file()}
    assert there == {"data/new.csv", "index.html", "mine.svg", ".hidden", folder.LIST}


def test_a_list_cannot_name_files_elsewhere(tmp_path):
    place = tmp_path / "report"
    place.mkdir()
    (tmp_path / "precious.txt").write_text("")
    (place / folder.LIST).write_text("../precious.txt\n")
    folder.write({"index.html": ""}, place)
    assert (tmp_path / "precious.txt").exists()


def test_the_committed_report_is_listed():
    """Otherwise `make report` would treat it as a folder of somebody else."""
    place = runs.PUBLISHED / "report"
    listed = set((place / folder.LIST).read_text(encoding="utf-8").splitlines())
    assert {p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file()} == listed | {folder.LIST}
