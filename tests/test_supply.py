"""The output of `make lint` on packages, for each result of pip-audit."""

import json
import subprocess
import sys
import tomllib

import pytest

from reproduce import yamlfile

sys.path.insert(0, str(yamlfile.ROOT / "tests" / "supply"))
import audit

SOUND = {"name": "a", "version": "1", "vulns": []}


def answers(stdout="", stderr="", code=0):
    return lambda *_, **__: subprocess.CompletedProcess([], code, stdout, stderr)


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (answers("{}", "Traceback ...\nKeyError: 'x'", 1), 2, "failed, nothing was audited: KeyError"),
        (answers("", "No module named pip_audit", 1), 2, "No module named"),
        (answers("", "", 1), 2, "exit code 1"),
        (answers("", "ERROR:pip_audit._cli:Could not connect to PyPI's vulnerability feed", 1), 0, "be reached"),
        (answers(json.dumps({"dependencies": [SOUND]})), 0, "1 of 1 packages audited, 0 known"),
        (answers(json.dumps({"dependencies": [SOUND | {"vulns": [{"id": "V-1"}]}]})), 1, "a 1: V-1"),
    ],
)
def test_the_messages_for_each_result_of_pip_audit(monkeypatch, capsys, answer, code, words):
    monkeypatch.setattr(audit.subprocess, "run", answer)
    assert audit.main() == code
    assert words in capsys.readouterr().out


def test_every_dependency_has_a_lower_bound():
    project = tomllib.loads((yamlfile.ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    assert [line for line in lines if ">=" not in line] == []
