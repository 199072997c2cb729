"""What a command inherits from its caller: idle threads, ASCII terminals, no home, another `kernels`."""

import os
import re
import shutil
import subprocess
import sys
from unittest.mock import patch

import pytest
from made import raising
from test_campaign import command, experiments

from reproduce import __main__ as begin
from reproduce import spec, yamlfile
from reproduce.campaign import small_check
from reproduce.cli import app as cli
from reproduce.datasets import data, fetch
from reproduce.nets import products

NO_HOME = """
import pwd, sys
def unknown(*_): raise KeyError("uid not found")
pwd.getpwuid = unknown
from reproduce.__main__ import main
given = sys.argv[1:]
for words in given[: given.index("then")], given[given.index("then") + 1 :]:
    sys.argv = ["reproduce", *words]
    try:
        main()
    except SystemExit as end:
        print("code", end.code, flush=True)
"""


def reproduce(*words, without=(), program=("-m", "reproduce"), cwd=yamlfile.ROOT, **environment):
    """Runs the command in its own process; returns exit code and output."""
    kept = {k: v for k, v in os.environ.items() if k not in without}
    command = [sys.executable, *program, *map(str, words)]
    done = subprocess.run(command, capture_output=True, cwd=cwd, env={**kept, **environment}, timeout=200)
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace")


EXHAUSTIVE = pytest.mark.exhaustive
CELL = "table1/float-mnist"


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("latin-1", marks=EXHAUSTIVE)])
@pytest.mark.parametrize(
    "words",
    [["run", "--help"], *(pytest.param(w, marks=EXHAUSTIVE) for w in (["list", CELL], ["bench", "--help"]))],
)
def test_any_terminal_can_be_written_to(words, encoding):
    code, said = reproduce(*words, PYTHONIOENCODING=encoding)
    assert code == 0 and "UnicodeEncodeError" not in said, said


@EXHAUSTIVE
def test_without_a_home_folder_data_says_what_to_set_and_a_given_folder_is_enough(tmp_path, quick):
    without = ("HOME", "XDG_CACHE_HOME", "REPRODUCE_DATA")
    words = ["run", "table1/float-mnist", "--scale", "small", "--data", tmp_path, "--results", tmp_path / "r"]
    # without a home there is no cache, and each process compiles its kernels
    offline = {"CC": quick, "HTTPS_PROXY": "http://127.0.0.1:9", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
    both = ["data", "mnist", "then", *words]  # in one process, which imports everything once
    _, said = reproduce(*both, without=without, program=("-c", NO_HOME), **offline)
    assert re.findall(r"^code (\d+)$", said, re.M) == ["1", "3"] and "Traceback" not in said, said
    assert said.count("give --data FOLDER or set REPRODUCE_DATA") == 1 and "mnist is missing" in said, said


def test_blank_variables_of_ours_count_as_unset(monkeypatch, tmp_path):
    monkeypatch.setenv("REPRODUCE_PRODUCTS", "")
    assert products.mode() in ("fixed16", "torch")
    monkeypatch.setenv("REPRODUCE_DATA", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fetch.folder() == tmp_path / "bnn-reproduce"


@pytest.mark.parametrize("words", [["run", "--scale", "small"], ["run", "--scale", "small", "--plan"], ["check"]])
@pytest.mark.parametrize(
    ("name", "value"), [("KERNELS_ISA", "AVX2"), ("KERNELS_THREADS", "abc"), ("REPRODUCE_PRODUCTS", "numpy")]
)
def test_a_wrong_value_is_one_line_that_names_the_variable(tmp_path, monkeypatch, capsys, name, value, words):
    """It is refused before any data set is looked for: there is none."""
    experiments(tmp_path / "experiments")
    shutil.copytree(spec.EXPERIMENTS / "check", tmp_path / "experiments" / "check")
    monkeypatch.setattr(small_check, "OWN_STORE", tmp_path / "check-local")
    monkeypatch.setenv(name, value)
    given = [] if words == ["check"] else ["table1", "--results", str(tmp_path / "r")]
    code = command(monkeypatch, tmp_path, *words, *given, "--data", str(tmp_path))
    error = capsys.readouterr().err
    assert code == 2 and error.count("\n") == 1 and name in error and value in error, error


# --- another package named kernels ----------------------------------------------------------------------------

OTHER = {"another package": "import huggingface_hub\n\ndef get_kernel(name): ...\n", "a module of ours": "x = 1\n"}


@pytest.mark.parametrize("what", OTHER)
def test_another_package_named_kernels_is_a_line_and_code_2(tmp_path, what):
    if what == "another package":
        (tmp_path / "kernels").mkdir()
        (tmp_path / "kernels" / "__init__.py").write_text(OTHER[what])
    else:
        (tmp_path / "kernels.py").write_text(OTHER[what])
    before = os.pathsep.join([str(tmp_path), str(yamlfile.ROOT)])
    code, said = reproduce("list", cwd=tmp_path, PYTHONPATH=before)
    assert code == 2 and said.count("\n") == 1, said
    assert str(tmp_path / "kernels") in said and "pip uninstall kernels" in said


def test_the_remains_of_the_other_uninstalled_package_are_reported(tmp_path):
    """Both packages had the file `kernels/__init__.py`, and it was removed with the other one. An editable install
    of this checkout would still be found after the folder, so the command is started without it."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        f"sys.path[:] = [place for place in sys.path if place != {str(yamlfile.ROOT)!r}]\n"
        "sys.meta_path[:] = [finder for finder in sys.meta_path if 'editable' not in finder.__module__]\n"
    )
    (tmp_path / "reproduce").symlink_to(yamlfile.ROOT / "reproduce")
    code, said = reproduce("list", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert code == 2 and said.count("\n") == 1 and "what is left of `kernels`" in said, said


def test_our_own_kernels_are_recognised():
    assert begin.foreign_kernels() is None
    assert "PyPI" in (yamlfile.ROOT / "README.md").read_text()


def test_a_missing_data_folder_is_one_line(tmp_path, monkeypatch, capsys):
    experiments(tmp_path / "experiments")
    monkeypatch.setattr(fetch, "folder", raising(data.DataError("no data folder")))
    assert command(monkeypatch, tmp_path, "submit", "--scale", "small") == 3
    assert capsys.readouterr().err == "reproduce: no data folder\n"


def test_idle_threads_of_torch_soon_sleep():
    """As torch's OpenMP library prints it."""
    tell = {"OMP_DISPLAY_ENV": "verbose", "without": ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    _, plain = reproduce(program=("-c", "import torch"), **tell, GOMP_SPINCOUNT="3")
    if "GOMP_SPINCOUNT = '3'" not in plain:
        pytest.skip("torch has another OpenMP library here")
    _, output = reproduce("list", CELL, **tell)
    assert "GOMP_SPINCOUNT = '2000'" in output


@pytest.mark.parametrize(
    ("words", "given", "count"),
    [
        (["list"], {}, "2000"),
        (["list"], {"GOMP_SPINCOUNT": "7"}, "7"),
        (["list"], {"OMP_WAIT_POLICY": "PASSIVE"}, None),
        (["bench", "--layers"], {}, None),
    ],
)
def test_idle_threads_sleep_as_the_caller_says(monkeypatch, words, given, count):
    """The variable when the command is called. `bench` leaves the libraries it compares with as they are."""
    kept = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    seen = []
    monkeypatch.setattr(sys, "argv", ["reproduce", *words])
    monkeypatch.setattr(cli, "main", lambda: seen.append(os.environ.get("GOMP_SPINCOUNT")))
    with patch.dict(os.environ, kept | given, clear=True):
        begin.main()
    assert seen == [count]
