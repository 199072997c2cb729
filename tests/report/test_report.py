"""Table 1 from records, and that the committed table follows from the committed records."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from made import made_cell, made_record, made_run
from typer.testing import CliRunner

from reproduce import report, spec, verdict, yamlfile
from reproduce.cli import app as cli
from reproduce.datasets import DATASETS
from reproduce.records import machine, read_records, runs
from reproduce.report import evidence, exports
from reproduce.report.html import head
from reproduce.report.sections import table1


def cell_with_paper():
    cell = made_cell()
    told = {"published": spec.Published(value=0.96, source="Table 1"), "margin": 0.19}
    experiment = cell.experiment.model_copy(update=told)
    return cell.model_copy(update={"experiment": experiment})


def records(scale, errors, **rest):
    return [made_record(made_run(seed=i, scale=scale, **rest), error=e) for i, e in enumerate(errors)]


def test_the_columns_and_rows_of_a_cell():
    cell = cell_with_paper()
    frame = table1.frame(records("paper", [0.95, 0.97, 0.96]) + records("small", [3.0]), [cell], quoted=False)
    names = "row dataset paper scale seeds mean low high verdict machine"
    assert list(frame.columns[:10]) == names.split()
    paper, small = (line for _, line in frame.iterrows())
    summary = verdict.summarize([0.95, 0.97, 0.96], 10_000)
    assert (paper["scale"], paper["seeds"], paper["verdict"]) == ("paper", 3, "reproduced")
    assert paper["mean"] == pytest.approx(0.96) and paper["low"] == pytest.approx(summary.low)
    assert (small["scale"], small["seeds"], small["verdict"]) == ("small", 1, "small scale")
    assert pd.isna(small["low"])


def test_the_verdict_knows_which_images_each_run_got_wrong():
    """0.22 points above the paper: beyond the noise of runs that agree on nearly all images, else within it."""
    wrong = np.zeros((3, 10_000), dtype=bool)
    for run, row in enumerate(wrong):
        row[:117] = row[200 + run] = True
    agreeing = [made_record(made_run(seed=seed, scale="paper"), wrong=wrong[seed]) for seed in range(3)]
    assert {r.result.test_error for r in agreeing} == {1.18}
    judged = [
        table1.judged(cell_with_paper(), "paper", group) for group in (agreeing, records("paper", [1.18] * 3))
    ]
    assert judged == ["not reproduced", "inconclusive"]


def test_small_scale_is_never_judged_however_good_or_many():
    frame = table1.frame(records("small", [0.96] * 6), [cell_with_paper()], quoted=False)
    assert set(frame["verdict"]) == {"not run", "small scale"}


def test_runs_of_another_image_order_have_rows_of_their_own():
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
    assert said == [
        "1 record(s) of other settings than today's experiment files",
        "1 record(s) of errors planted on purpose",
    ]


@pytest.mark.parametrize(
    ("dirty", "digest", "words"),
    [
        (False, None, None),
        (True, None, "code had uncommitted changes"),
        (None, None, "code revision unknown"),
        (False, "e" * 64, "data differ from the known ones"),
    ],
)
def test_dirty_code_and_other_data_are_marked_in_every_table(dirty, digest, words):
    found = []
    for record in records("paper", [1.0], digest=digest or DATASETS["mnist"].digest):
        found.append(record.model_copy(update={"code": record.code | {"dirty": dirty}}))
    frame = table1.frame(found, [cell_with_paper()], quoted=False)
    (line,) = (line for _, line in frame.iterrows() if line["seeds"])
    assert line["dirty"] == (words is not None) and line["note"] == (words or "")
    for text, mark in ((exports.markdown(frame), "1.00\\*"), (exports.latex(frame), "$1.00$ (1)*")):
        assert (mark in text) == (words is not None)
    if words:
        assert words in exports.markdown(frame)
        assert table1.with_note(frame)[-1].key == "note"


def on(record, name="one", **machine):
    return record.model_copy(update={"machine": record.machine | {"name": name} | machine})


@pytest.mark.parametrize(
    ("threads", "words"),
    [
        ([(2, 2), (2, 2)], "one"),
        ([(1, 1), (1, 1)], "one (1 thread)"),
        ([(1, 1), (2, 2)], "one (1 or 2 threads)"),
        ([(1, 2)], "one"),  # two threads of the kernels
    ],
)
def test_threads_are_named_if_a_run_did_not_use_all_cores(threads, words):
    both = zip(records("paper", [1.0] * len(threads)), threads, strict=True)
    found = [on(r, cores=2, threads=torchs, kernel_threads=kernels) for r, (torchs, kernels) in both]
    assert table1.machines(found) == words
    assert table1.machines([on(r, cores=2, threads=1, gpu="a GPU") for r in found]) == "one"


@pytest.mark.parametrize(
    ("seeds", "commands"),
    [
        ([0, 1, 2], ["--seeds 3"]),
        ([3], ["--seeds 1 --first-seed 3"]),
        ([7, 0], ["--seeds 1", "--seeds 1 --first-seed 7"]),
        ([5, 0, 1, 4, 9], ["--seeds 2", "--seeds 2 --first-seed 4", "--seeds 1 --first-seed 9"]),
        ([], ["--seeds 3"]),
    ],
)
def test_the_shown_command_trains_exactly_these_seeds(seeds, commands):
    group = [made_record(made_run(seed=s, scale="paper")) for s in seeds]
    expected = " && ".join(f"reproduce run table1/made --scale paper {words}" for words in commands)
    assert table1.again("table1/made", "paper", group) == expected


def test_every_small_cell_says_how_many_images_it_took():
    cells = report.cells()
    digest = {c.name: c.scales["small"].digest() for c in cells if "small" in c.scales}
    cell = "table1/bnn-theano-cifar10"
    found = [made_record(cell=cell, settings_digest=digest[cell])]
    (line,) = table1.frame(found, cells, quoted=False).query("scale == 'small'").to_dict("records")
    assert line["images"] == "45,000 / 5,000 / 10,000"
    text = exports.markdown(table1.frame(found, cells))
    assert "| BNN (Theano) | CIFAR-10 | 45,000 / 5,000 / 10,000 |" in text
    assert "| images: train / valid / test |" in text


def test_readme_block_is_replaced_between_its_markers():
    text = f"before\n{exports.BEGIN}\nold\n{exports.END}\nafter\n"
    new = exports.into_readme(text, "new\n")
    assert new.startswith("before\n") and new.endswith("\nafter\n") and "old" not in new
    assert exports.into_readme(new, "new\n") == new and "\nnew\n" in new
    with pytest.raises(ValueError, match="markers"):
        exports.into_readme("no markers", "new\n")


def committed():
    return table1.frame(report.gather(runs.PUBLISHED, report.cells()).runs, report.cells())


def test_committed_report_and_readme_follow_from_the_committed_records():
    """Compares the files that are the same on every machine; page and pictures depend on the drawing libraries."""
    found = report.gather(runs.PUBLISHED, report.cells())
    parts = [*report.sections(found), report.sources(found)]
    expected = report.tables(found, parts)
    folder = runs.PUBLISHED / "report"
    for name, text in expected.items():
        assert (folder / name).read_text(encoding="utf-8") == text, f"{name}: run `make report`"
    assert {p.name for p in folder.glob("data/*")} == {n.removeprefix("data/") for n in expected if "/" in n}
    readme = (yamlfile.ROOT / "README.md").read_text()
    assert exports.into_readme(readme, head.markdown(found)) == readme


@pytest.mark.exhaustive
def test_another_process_of_a_user_with_a_matplotlibrc_makes_the_same_bytes_and_names_no_machine_folder(tmp_path):
    """The user's matplotlibrc is ignored: TeX for all text would need LaTeX, another backend a window."""
    lines = ("text.usetex: True", "backend: module://nothing", "font.size: 30", "savefig.bbox: tight")
    (tmp_path / "matplotlibrc").write_text("\n".join(lines))
    shutil.copytree(runs.PUBLISHED, tmp_path / "store", ignore=shutil.ignore_patterns("report"))
    theirs = {"MATPLOTLIBRC": str(tmp_path), "PYTHONHASHSEED": "2", "TZ": "UTC-2"}
    theirs["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # `!reproduce …` in a notebook inherits it
    words = ["report", "--results", str(tmp_path / "store"), "--to"]
    command = [sys.executable, "-m", "reproduce", *words, str(tmp_path / "second")]
    done = subprocess.run(command, capture_output=True, cwd=yamlfile.ROOT, env=os.environ | theirs, timeout=200)
    assert done.returncode == 0 and b"Traceback" not in done.stdout + done.stderr, done.stderr
    assert CliRunner().invoke(cli.app, [*words, str(tmp_path / "first")]).exit_code == 0
    first, second = (
        {p.relative_to(f): p.read_bytes() for p in f.rglob("*.*")}
        for f in (tmp_path / "first", tmp_path / "second")
    )
    assert first == second and {"index.html", "figure1.svg", "figure3.svg"} <= {p.name for p in first}
    for name, content in first.items():
        assert str(yamlfile.ROOT).encode() not in content and str(tmp_path).encode() not in content, name
        assert machine.code()["revision"].encode() not in content, name


def short_cell():
    cell = cell_with_paper()
    experiment = cell.experiment.model_copy(update={"scale": "short"})
    settings = {"short": cell.scales["paper"]}
    return cell.model_copy(update={"name": "short/made", "experiment": experiment, "scales": settings})


def test_a_short_schedule_has_its_own_table_and_is_not_the_papers_cell():
    run = made_run(scale="paper")
    found = [made_record(run, error=0.96, cell="short/made", scale="short", seed=i) for i in range(3)]
    frame = table1.frame(found, [cell_with_paper(), short_cell()], quoted=False)
    by_scale = {line["scale"]: line for _, line in frame.iterrows()}
    assert by_scale["short"]["verdict"] == "short schedule" and by_scale["short"]["seeds"] == 3
    assert by_scale["paper"]["verdict"] == "not run" and by_scale["paper"]["seeds"] == 0
    text = exports.markdown(frame)
    assert text.index("At the paper's scale") < text.index("The paper's net, short schedule")
    assert "(3)" not in exports.latex(frame)


def test_quoted_rows_are_the_papers_other_rows_and_never_judged():
    frame = table1.frame([], report.cells())
    quoted = frame[frame["quoted"].astype(bool)]
    assert set(quoted["verdict"]) == {"quoted"} and len(quoted) == 11
    assert set(quoted["row"]) & set(table1.ROWS) == set()
    maxout = quoted[quoted["row"] == "Maxout Networks"].set_index("dataset")["paper"]
    assert dict(maxout) == {"MNIST": 0.94, "SVHN": 2.47, "CIFAR-10": 11.68}
    assert len(frame[frame["scale"] == "paper"]) == len(quoted) + 12


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_latex_is_compiled_whatever_the_names(tmp_path):
    row = r"a|b & c % d_e # $f$ {g} <h> [i] \j ~ ^ ü"
    found = [
        r.model_copy(update={"machine": r.machine | {"name": row}}) for r in records("paper", [0.95, 0.97, 0.96])
    ]
    cell = cell_with_paper()
    cell = cell.model_copy(update={"experiment": cell.experiment.model_copy(update={"row": row})})
    table = exports.latex(table1.frame(found, [cell]))
    assert r"\%" in table and r"\&" in table
    begin = r"\documentclass{article}\usepackage{booktabs}\begin{document}"
    whole = f"{begin}\n{table}\n" + r"\end{document}"
    (tmp_path / "table.tex").write_text(whole, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "table.pdf").stat().st_size > 1000


def test_latex_is_whole_and_escaped():
    text = exports.latex(table1.frame(records("paper", [0.95, 0.97, 0.96]), [cell_with_paper()]))
    lines = text.splitlines()
    assert lines[2].startswith("\\begin{tabular}{lrrrrrr}") and lines[-1] == "\\end{tabular}"
    rows = [line for line in lines if line.count(" & ") and "multicolumn" not in line]
    assert all(line.count(" & ") == 6 for line in rows) and len(rows) == 9
    (theano,) = (line for line in rows if line.startswith("BNN (Theano)"))
    summary = verdict.summarize([0.95, 0.97, 0.96], 10_000)
    assert f"$0.96$ & $0.96 \\pm {(summary.high - summary.low) / 2:.2f}$ (3)" in theano
    assert exports.in_latex("a_b & 5 % of {x} ~ \\y^2 #1 $") == (
        "a\\_b \\& 5 \\% of \\{x\\} \\textasciitilde{} \\textbackslash{}y\\textasciicircum{}2 \\#1 \\$"
    )


def test_committed_records_are_sound_clean_and_of_todays_settings():
    found, problems = read_records(runs.PUBLISHED / "runs")
    assert problems == []
    today = {(c.name, scale): s.digest() for c in spec.cells() for scale, s in c.scales.items()}
    # judged runs have today's settings; small runs may have older ones, which the report skips and names
    assert all(r.settings_digest == today[r.cell, r.scale] for r in found if r.scale != "small")
    assert not any(r.code["dirty"] for r in found)


def test_every_cell_has_committed_small_runs_and_bnn_cells_have_three_seeds():
    """Counted over rows, because runs by different code may have separate rows."""
    frame = committed()
    small = frame[frame["scale"] == "small"]
    seeds = small.groupby(["row", "dataset"])["seeds"].sum()
    assert len(seeds) == 12 and (seeds[[row.startswith("BNN") for row, _ in seeds.index]] >= 3).all()
    theano = small[(small["row"] == "BNN (Theano)") & (small["dataset"] == "MNIST")]
    assert (theano["mean"] <= 2.2).all()
    assert set(small["verdict"]) == {"small scale"}


def test_a_machines_name_is_no_markup_in_the_markdown():
    frame = table1.frame([on(made_record(), "<script>|&")], [made_cell()], quoted=False)
    text = exports.markdown(frame)
    assert "&lt;script&gt;\\|&amp;" in text and "<script" not in text
