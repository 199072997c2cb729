"""The package as a wheel, used in a folder outside a checkout."""

import os
import subprocess
import sys

import numpy as np
import pytest
from made import made_images

from reproduce import yamlfile


@pytest.mark.slow
def test_a_wheel_lists_runs_and_reports_in_another_folder(tmp_path):
    """The wheel is built from the checkout and unpacked elsewhere; results are written to the working folder."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "-q", "--no-deps", "-w", str(tmp_path / "wheel"), str(yamlfile.ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip("hatchling cannot be had here")
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    subprocess.run([*pip, "install", "-q", "--no-deps", "--target", tmp_path / "there", wheel], check=True)
    work = tmp_path / "work"
    (work / "data").mkdir(parents=True)
    example = tmp_path / "there" / "reproduce" / "experiments" / "examples" / "fashion"
    arrays = {}
    for seed, (part, n) in enumerate({"train": 60000, "test": 10000}.items()):
        arrays[f"x_{part}"], arrays[f"y_{part}"] = made_images(n, seed=seed)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "there"), "PYTHONSAFEPATH": "1"}

    def called(*words):
        command = [sys.executable, "-m", "reproduce", *map(str, words)]
        out = subprocess.run(command, capture_output=True, text=True, cwd=work, env=environment, timeout=280)
        assert out.returncode == 0, out.stderr
        return out.stdout

    from reproduce.datasets import data

    np.savez(work / "data" / "fashion.npz", **arrays, digest=np.array(data.content_digest(arrays)))
    short = (example.with_suffix(".yaml")).read_text()
    for old, new in (("epochs: 20", "epochs: 1"), ("train: 50000", "train: 2000"), ("[512, 512, 512]", "[64]")):
        assert old in short
        short = short.replace(old, new)
    (work / "mine").mkdir()
    (work / "mine" / "short.yaml").write_text(short)
    use = ("--use", example.with_suffix(".py"))
    assert "table1/bnn-theano-mnist" in called("list")
    assert "mine/short" in called("list", "--experiments", "mine", *use)
    called("run", "mine/short.yaml", "--data", "data", "--device", "cpu", *use)
    assert len(list((work / "results" / "local" / "runs").glob("mine-short-*.json"))) == 1
    called("report", "--experiments", "mine", *use)
    page = (work / "results" / "local" / "report" / "index.html").read_text(encoding="utf-8")
    assert "Group: mine" in page
