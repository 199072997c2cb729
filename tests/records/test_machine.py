"""What a record says of its code without a repository, and the message for a missing package."""

import shutil
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
        told = machine._told_revision()["revision"]
    machine._revision.cache_clear()
    assert machine.code()["revision"] == told and len(told) == 40


def test_code_is_dirty_if_a_file_that_makes_numbers_differs_from_the_commit(no_repository, tmp_path):
    def git(*words):
        name = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *name, *words], check=True, capture_output=True)

    def found():
        machine._revision.cache_clear()
        return machine.code()["dirty"]

    if shutil.which("git") is None:
        pytest.skip("no git")
    no_repository.setattr(machine, "CHECKOUT", True)
    paths = [tmp_path / name for name in ("reproduce/a.py", "kernels/a.c", "experiments/a.yaml", "pyproject.toml")]
    for path in [*paths, tmp_path / "README.md"]:
        path.parent.mkdir(exist_ok=True)
        path.write_text("1")
    git("init", "-q"), git("add", "."), git("commit", "-q", "-m", "x")
    assert found() is False
    (tmp_path / "README.md").write_text("2")
    assert found() is False
    for path in paths:
        path.write_text("2")
        assert found() is True, path
        path.write_text("1")


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
