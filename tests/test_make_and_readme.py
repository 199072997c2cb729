"""The make targets, and the statements of README about them."""

import itertools
import os
import re
import shutil
import subprocess
import tomllib

import pytest
import yaml

from reproduce import yamlfile

MAKE = shutil.which("make")
VERBS = "reproduce-table1 bench-cpu bench-train bench-layers bench-gpu test test-all check-small".split()
VERBS += "check-small-mutants lint report publish export-proofs data".split()


# variables of a make that runs these tests must not reach the make under test
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "PYTHON")}


def dry_run(*words):
    kept = {"capture_output": True, "text": True, "cwd": yamlfile.ROOT, "timeout": 60, "env": ENVIRONMENT}
    done = subprocess.run([MAKE, "-n", *words], **kept)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(MAKE is None, reason="make is not installed")
@pytest.mark.parametrize("verb", VERBS)
def test_a_given_interpreter_is_used_as_it_is_and_nothing_is_installed(verb):
    out = dry_run(verb, "PYTHON=some-python")
    assert "some-python -m " in out
    assert ".venv" not in out and "pip" not in out


@pytest.mark.skipif(MAKE is None, reason="make is not installed")
def test_without_one_the_environment_is_made_first():
    out = dry_run("test", "--always-make")
    assert out.index("-m venv .venv") < out.index("pip install") < out.index("-m pytest")


@pytest.mark.skipif(MAKE is None, reason="make is not installed")
def test_help_names_every_command():
    done = subprocess.run([MAKE, "help"], capture_output=True, text=True, cwd=yamlfile.ROOT, timeout=60)
    for verb in VERBS:
        assert f"make {verb} " in done.stdout


def test_the_citation_has_this_version_and_the_project_as_author():
    cited = yaml.safe_load((yamlfile.ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((yamlfile.ROOT / "pyproject.toml").read_text())["project"]
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    assert cited["authors"] == [{"name": project["name"]}]


def test_ci_runs_the_commands_of_the_readme():
    readme = (yamlfile.ROOT / "README.md").read_text()
    first = re.search(r"```\n(.*?)```", readme, re.S).group(1)
    commands = [line.split("#")[0].strip() for line in first.splitlines()]
    assert commands == ["make reproduce-table1", "make test"]
    ci = (yamlfile.ROOT / ".ci" / "run").read_text()
    for verb in ("make test-all", "make lint", "make check-small"):
        assert f"\n{verb}\n" in ci


def test_test_all_runs_every_test_once_except_slow_and_gpu_tests():
    make = (yamlfile.ROOT / "Makefile").read_text()
    options = tomllib.loads((yamlfile.ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    calls = re.search(r"^test-all: .*\n((\t.*\n)+)", make, re.M).group(1)
    expressions = re.findall(r'-m "(.*)"', calls)
    default = re.search(r"-m '(.*)'", options["addopts"]).group(1)
    names = [line.split(":")[0] for line in options["markers"]]
    assert len(expressions) == 2 and len(names) == 4
    for values in itertools.product([False, True], repeat=len(names)):
        marked = dict(zip(names, values, strict=True))
        wanted = not marked["slow"] and not marked["gpu"]
        assert [bool(eval(text, {}, marked)) for text in expressions].count(True) == wanted
        assert eval(default, {}, marked) == (not any(values))
