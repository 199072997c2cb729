"""What a command inherits from its caller: a notebook's backend, ASCII terminals, no home, another `kernels`."""

import os
import shutil
import subprocess
import sys

import pytest
from made import raising
from test_campaign import command, experiments
from test_report_cli import records
from test_report_evidence import store_of

from reproduce import __main__ as begin
from reproduce import spec, yamlfile
from reproduce.campaign import small_check
from reproduce.datasets import data, fetch
from reproduce.nets import products

NO_HOME = """
import os, pwd, runpy, sys
def unknown(*_): raise KeyError("uid not found")
pwd.getpwuid = unknown
sys.argv = ["reproduce", *sys.argv[1:]]
runpy.run_module("reproduce", run_name="__main__", alter_sys=True)
"""


def reproduce(*words, without=(), program=("-m", "reproduce"), cwd=yamlfile.ROOT, **environment):
    """Runs the command in its own process; returns exit code and output."""
    kept = {k: v for k, v in os.environ.items() if k not in without}
    command = [sys.executable, *program, *map(str, words)]
    done = subprocess.run(command, capture_output=True, cwd=cwd, env={**kept, **environment}, timeout=200)
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace")


@pytest.fixture
def store(tmp_path):
    return store_of(tmp_path / "mine", records([2.0, 2.1, 2.2]))


BACKEND = "module://matplotlib_inline.backend_inline"  # the variable that `!reproduce …` in a notebook inherits


EXHAUSTIVE = pytest.mark.exhaustive
CELL = "table1/float-mnist"


@EXHAUSTIVE
def test_a_users_matplotlibrc_changes_no_figure(store, tmp_path):
    """The user's matplotlibrc is ignored: TeX for all text would need LaTeX, another backend a window."""
    lines = ("text.usetex: True", "backend: module://nothing", "font.size: 30", "savefig.bbox: tight")
    (tmp_path / "matplotlibrc").write_text("\n".join(lines))
    for name, environment in (("plain", {}), ("theirs", {"MATPLOTLIBRC": str(tmp_path), "MPLBACKEND": BACKEND})):
        code, said = reproduce("report", "--results", store, "--to", tmp_path / name, **environment)
        assert code == 0 and "Traceback" not in said, said
    plain, theirs = ({p.name: p.read_bytes() for p in (tmp_path / n).glob("*.svg")} for n in ("plain", "theirs"))
    assert plain == theirs and "figure3.svg" in plain


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("latin-1", marks=EXHAUSTIVE)])
@pytest.mark.parametrize(
    "words",
    [["run", "--help"], *(pytest.param(w, marks=EXHAUSTIVE) for w in (["list", CELL], ["bench", "--help"]))],
)
def test_any_terminal_can_be_written_to(words, encoding):
    code, said = reproduce(*words, PYTHONIOENCODING=encoding)
    assert code == 0 and "UnicodeEncodeError" not in said, said


@EXHAUSTIVE
def test_a_row_with_an_umlaut_on_an_ascii_terminal(tmp_path, data_folder):
    """Processes other than the first one print, too."""
    program = f"""
import sys
from reproduce import spec
from reproduce.cli import app as cli
if __name__ == "__main__":
    spec.cells.__defaults__ = (None, __import__("pathlib").Path({str(tmp_path / "experiments")!r}))
    cli.main()
"""
    path = experiments(tmp_path / "experiments") / "table1" / "made.yaml"
    path.write_text(path.read_text().replace("BNN (Theano)", "Gr\\u00f6\\u00dfe"))
    (tmp_path / "program.py").write_text(program)
    given = ["run", "--scale", "small", "--seeds", "2", "--jobs", "2", "--threads", "1"]
    given += ["--data", data_folder, "--results", tmp_path / "r"]
    environment = {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(yamlfile.ROOT)}
    code, said = reproduce(*given, program=(str(tmp_path / "program.py"),), **environment)
    assert code == 0 and "Gr\\xf6\\xdfe" in said and "UnicodeEncodeError" not in said, said


@EXHAUSTIVE
def test_without_a_home_folder_data_says_what_to_set_and_a_given_folder_is_enough(tmp_path):
    without = ("HOME", "XDG_CACHE_HOME", "REPRODUCE_DATA")
    program = ("-c", NO_HOME)
    code, said = reproduce("data", "mnist", without=without, program=program)
    assert code == 1 and "give --data FOLDER or set REPRODUCE_DATA" in said and "Traceback" not in said, said
    words = ["run", "table1/float-mnist", "--scale", "small", "--data", tmp_path, "--results", tmp_path / "r"]
    offline = {"HTTPS_PROXY": "http://127.0.0.1:9", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
    code, said = reproduce(*words, without=without, program=program, **offline)
    assert code == 3 and "mnist is missing" in said and "Traceback" not in said, said


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


@pytest.mark.parametrize(
    ("words", "given", "shown"),
    [
        (["list"], {}, "2000"),
        pytest.param(["list"], {"GOMP_SPINCOUNT": "7"}, "7", marks=EXHAUSTIVE),
        pytest.param(["list"], {"OMP_WAIT_POLICY": "PASSIVE"}, "0", marks=EXHAUSTIVE),
        pytest.param(["bench", "--layers", "--gpu"], {}, None, marks=EXHAUSTIVE),
    ],
)
def test_idle_threads_of_torch_soon_sleep_unless_the_caller_says_otherwise(words, given, shown):
    """As torch's OpenMP library prints it. `bench` leaves the libraries it compares with as they are."""
    tell = {"OMP_DISPLAY_ENV": "verbose", "without": ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    _, plain = reproduce(program=("-c", "import torch"), **tell, GOMP_SPINCOUNT="3")
    if "GOMP_SPINCOUNT = '3'" not in plain:
        pytest.skip("torch has another OpenMP library here")
    _, output = reproduce(*words, **tell, **given)
    if shown is None:
        assert "GOMP_SPINCOUNT = '2000'" not in output and "GOMP_SPINCOUNT" in output
    else:
        assert f"GOMP_SPINCOUNT = '{shown}'" in output
