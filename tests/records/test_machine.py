"""What a record says of its code without a repository, and the message for a missing package."""

import subprocess
import sys

import pytest
from sample import sample

from reproduce import yamlfile
from reproduce.records import machine


@pytest.fixture
def no_repository(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    yield monkeypatch
    machine._revision.cache_clear()


@pytest.mark.parametrize(
    ("told", "revision", "dirty"),
    [(None, None, None), ("", None, None), ("a" * 40, "a" * 40, False), ("0f" * 20 + "-dirty", "0f" * 20, True)],
)
def test_without_a_repository_the_revision_comes_from_the_environment(no_repository, told, revision, dirty):
    if told is None:
        no_repository.delenv("REPRODUCE_REVISION", raising=False)
    else:
        no_repository.setenv("REPRODUCE_REVISION", told)
    machine._revision.cache_clear()
    found = machine.code()
    assert (found["revision"], found["dirty"]) == (revision, dirty)


def test_another_revision_is_refused(no_repository):
    no_repository.setenv("REPRODUCE_REVISION", "main")
    machine._revision.cache_clear()
    with pytest.raises(ValueError, match="REPRODUCE_REVISION is 40 hexadecimal digits"):
        machine.code()


def test_the_revision_is_what_git_prints():
    """The command of machine.code's docstring."""
    command = ["git", "-C", str(yamlfile.ROOT), *"describe --always --abbrev=40 --dirty --exclude *".split()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("no git")
    if done.returncode:
        pytest.skip("no repository")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRODUCE_REVISION", done.stdout.strip())
        assert len(machine._told_revision()["revision"]) == 40


@pytest.mark.parametrize(
    ("module", "package"), sample([("pydantic", "pydantic"), ("yaml", "pyyaml"), ("safetensors", "safetensors")])
)
def test_a_missing_package_is_one_line(module, package):
    """Also a package that a command imports later, such as safetensors."""
    code = f"import sys; sys.modules['{module}'] = None; from reproduce.__main__ import main; main()"
    command = [sys.executable, "-c", code, "gpu", "versions", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=yamlfile.ROOT)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"{module} is missing; `pip install {package}` brings it" in done.stderr
