"""gpu-campaign.sh: its order, its slices, what it does again and what not; with an interpreter that only notes."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from reproduce import yamlfile

SCRIPT = yamlfile.ROOT / "gpu-campaign.sh"
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
NOTES = """#!/usr/bin/env bash
if [ "$1" = -c ]; then exit "${NO_GPU:-0}"; fi
echo "$*" >> "$NOTED"
case "$*" in *"${FAILS:-none}"*) exit "${CODE:-1}" ;; esac
if [ "$3" = freeze ]; then mkdir -p "$RESULTS/packed" && touch "$RESULTS/packed/$(basename "$4" .json).bnn"; fi
"""


@pytest.fixture
def campaign(tmp_path):
    """campaign(*steps, **environment) -> exit code, stderr, what the interpreter was asked for."""
    python, noted, store = tmp_path / "python", tmp_path / "noted", tmp_path / "store"
    python.write_text(NOTES)
    python.chmod(0o755)
    (store / "runs").mkdir(parents=True)
    for name in ("bnn-theano-mnist-paper-seed0-abc", "bnn-theano-cifar10-paper-seed0-def"):
        (store / "runs" / f"table1-{name}.json").touch()

    def run(*steps, **environment):
        noted.write_text("")
        names = ("PATH", "HOME")
        own = {"PYTHON": python, "NOTED": noted, "RESULTS": store, "KEPT": tmp_path / "kept"}
        done = subprocess.run(
            [SCRIPT, *steps], capture_output=True, text=True, timeout=60,
            env={k: os.environ[k] for k in names} | {k: str(v) for k, v in (own | environment).items()},
        )  # fmt: skip
        return done.returncode, done.stderr, noted.read_text().splitlines()

    run.store = store
    return run


def test_the_steps_follow_each_other_and_are_not_done_twice(campaign):
    code, _, asked = campaign()
    assert code == 0
    kinds = [re.match(r"-m (pytest|reproduce \w+)", line)[1] for line in asked]
    net = ["reproduce freeze", *["reproduce predict"] * 4]
    assert kinds == ["pytest", "reproduce bench", "reproduce run", "reproduce run", *net, *net]
    assert "--gpu" in asked[1] and asked[2].endswith("--plan") and "--time-limit 5" in asked[3]
    assert "--seeds 5" in asked[3] and "--scale paper --device cuda" in asked[3]
    order = re.findall(r"table1/(\S+)", asked[3])
    assert order == [
        *("bnn-theano-mnist", "bnn-theano-cifar10", "bnn-torch7-mnist", "bnn-torch7-cifar10"),
        *("float-mnist", "float-cifar10", "binaryconnect-mnist", "binaryconnect-cifar10"),
    ]
    backends = re.findall(r"--backend (\S+)", "\n".join(asked))
    assert backends == ["cuda-wgmma", "cuda-bmma", "cuda-xnor", "cuda-naive"] * 2
    assert campaign() == (0, "", [])


def test_time_that_is_up_is_75_and_the_next_call_goes_on(campaign):
    code, _, asked = campaign(FAILS="--time-limit", CODE="75")
    assert code == 75 and asked[-1].count("--time-limit") == 1 and len(asked) == 4
    code, _, asked = campaign()
    assert code == 0 and "--time-limit" in asked[0] and len(asked) == 11


def test_a_step_that_outlives_the_slice_is_cut_and_comes_again(campaign):
    python = campaign.store.parent / "python"
    python.write_text(NOTES + 'case "$*" in *"reproduce bench"*) sleep 30 ;; esac\n')
    code, _, asked = campaign(SLICE="3")
    assert code == 75 and len(asked) == 2
    code, said, asked = campaign(SLICE="3")  # with the whole of a slice, too
    assert code == 1 and len(asked) == 1 and "bench takes more than a whole slice of 3 s, or hangs: " in said
    python.write_text(NOTES)
    assert campaign("bench")[0] == 0


def test_a_failure_ends_it_and_names_the_log(campaign):
    code, said, asked = campaign(FAILS="pytest", CODE="1")
    assert code == 1 and len(asked) == 1 and "tests failed with exit code 1: " in said and "tests.txt" in said
    assert campaign("bench")[0] == 0  # a person may go on with another step
    code, _, asked = campaign()
    assert code == 0 and "pytest" in asked[0] and not any(" bench " in line for line in asked)


def test_without_a_gpu_nothing_passes_for_done(campaign):
    code, said, asked = campaign(NO_GPU="1")
    assert code == 2 and "without a GPU" in said and not asked
    assert not list((campaign.store / "gpu-campaign").glob("*.done"))


def test_an_unknown_step_and_a_missing_run_are_said(campaign):
    code, said, asked = campaign("tests", "tidy")
    assert code == 2 and "no step 'tidy'" in said and not asked
    code, said, asked = campaign("nets", NETS="bnn-torch7-mnist")
    assert code == 1 and "no run of bnn-torch7-mnist at paper scale" in said and not asked


def test_the_rehearsal_asks_for_nothing_of_a_gpu(campaign):
    for path in (campaign.store / "runs").iterdir():
        path.rename(path.with_name(path.name.replace("-paper-", "-small-")))
    code, _, asked = campaign(REHEARSE="1")
    assert code == 0 and "bench --quick" in asked[1] and "--scale small --device cpu --seeds 1" in asked[3]
    assert re.findall(r"--backend (\S+)", "\n".join(asked)) == ["cpu"] * 2


def test_it_names_every_file_with_tests_for_a_gpu():
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-m", "gpu", "tests"]
    out = subprocess.run(command, capture_output=True, text=True, cwd=yamlfile.ROOT, timeout=120).stdout
    files = {line.split("::")[0] for line in out.splitlines() if "::" in line}
    listed = re.search(r'gpu_tests="(.*?)"', SCRIPT.read_text(), re.S)[1].split()
    assert files == set(listed) and listed == sorted(listed)
