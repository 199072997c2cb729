"""gpu-evidence.sh: order, limits and files with an interpreter that only logs its calls; one real run."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from sample import sample

from reproduce import yamlfile
from reproduce.nets import ways

SCRIPT = yamlfile.ROOT / "gpu-evidence.sh"
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
STEM = "table1-bnn-theano-mnist-paper-seed100-abc"
MOST = 16 * 2**20  # bytes of a file
NOTES = r"""#!/usr/bin/env bash
echo "$* | ${REPRODUCE_WITHOUT-unset} | ${PYTHONPATH-}" >> "$NOTED"
case "$*" in *"${HANGS:-nothing hangs}"*) sleep 60 ;; esac
case "$*" in *"${FAILS:-nothing fails}"*) echo "$PRINTS" && exit "${CODE:-1}" ;; esac
case "$2 $3 $4" in
  "pip install"*) exec "$REAL" "$@" ;;
  "reproduce gpu trials") echo "fp16 graph" > "$5/without.txt"; echo "cuda-wgmma cuda-naive" > "$5/backends.txt" ;;
  "reproduce gpu curves") echo "run,epoch" > "$5" ;;
  "reproduce bench"*) echo "{}" > "${@: -1}/gpu-1.json" ;;
  "reproduce run"*) mkdir -p "$RESULTS/runs" && echo "{}" > "$RESULTS/runs/${4/\//-}-paper-seed${10}-abc.json" ;;
  "reproduce freeze"*) mkdir -p "$RESULTS/packed" && echo bits > "$RESULTS/packed/$(basename "$4" .json).bnn" ;;
esac
"""


@pytest.fixture
def evidence(tmp_path):
    """evidence(*runs, **environment) -> exit code, output, calls of the interpreter."""
    python, noted = tmp_path / "python", tmp_path / "noted"
    python.write_text(NOTES)
    python.chmod(0o755)

    def run(*runs, **environment):
        noted.write_text("")
        own = {"PYTHON": python, "NOTED": noted, "RESULTS": tmp_path / "store", "OUT": tmp_path / "out"}
        own |= {"REAL": sys.executable, "PRINTS": "a reason", "PATH": os.environ["PATH"]}
        done = subprocess.run(
            [SCRIPT, *runs], capture_output=True, text=True, timeout=120,
            env={k: str(v) for k, v in (own | environment).items()},
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr, noted.read_text().splitlines()

    run.store, run.out = tmp_path / "store", tmp_path / "out"
    return run


def kinds(asked):
    return [re.match(r"-m (?:pytest|reproduce (?:gpu )?)?(\S*)", line)[1] or "pytest" for line in asked]


def limits(said):
    return dict(re.findall(r"^== (\S+), at most (\d+) s$", said, re.M))


def test_its_steps_in_their_order_and_within_their_limits(evidence):
    code, said, asked = evidence()
    assert code == 0, said
    before = ["versions", "trials", "preflight", "bench", "run", "curves", "freeze", "predict", "predict"]
    assert kinds(asked)[:9] == before and all(" -m gpu " in line for line in asked[9:])
    given = limits(said)
    assert [given[k] for k in ("trials", "preflight-table1-bnn-theano-mnist", "figure3")] == ["80", "40", "120"]
    assert int(given["training-table1-bnn-theano-mnist:100"]) > 540  # no step takes time here: nearly all is left
    train = asked[4]
    assert "table1/bnn-theano-mnist --device cuda --scale paper --first-seed 100 --seeds 1" in train
    assert "/gpu-evidence table1/bnn-theano-mnist --device cuda" in asked[1]
    assert re.search(r"--time-limit 5\d\ds --checkpoint-every 1h", train)
    assert [re.search(r"--backend (\S+)", line)[1] for line in asked[7:9]] == ["cuda-wgmma", "cuda-naive"]
    assert "--gpu" in asked[3] and "--broken" in asked[3]
    assert all("-o timeout=60 -o timeout_method=thread tests/" in line for line in asked[9:])


def test_a_part_that_fails_its_trial_is_left_out_of_all_later_steps_except_the_tests(evidence):
    _, _, asked = evidence()
    assert [line.split(" | ")[1] for line in asked[:9]] == ["unset"] * 2 + ["fp16 graph"] * 7
    assert {line.split(" | ")[1] for line in asked[9:]} == {"unset"}


def test_the_second_call_goes_on_with_the_training(evidence):
    code, said, asked = evidence(FAILS="reproduce run", CODE="75")
    assert code == 75 and kinds(asked) == ["versions", "trials", "preflight", "bench", "run", "curves"]
    assert "not done: training-table1-bnn-theano-mnist:100" in said
    code, _, asked = evidence()
    assert code == 0 and kinds(asked)[:5] == ["run", "curves", "freeze", "predict", "predict"]
    assert asked[0].split(" | ")[1] == "fp16 graph"  # or it would be another run
    code, _, asked = evidence()
    assert code == 0 and kinds(asked) == ["curves"]


def test_named_runs_are_trained_first_each_once_and_real_activations_are_not_packed(evidence):
    cells = [f"table1/{name}-mnist" for name in ("bnn-theano", "bnn-theano", "binaryconnect", "float")]
    named = [f"{cell}:{seed}" for cell, seed in zip(cells, (0, 1, 0, 2), strict=True)]
    code, said, asked = evidence(*named)
    assert code == 0, said
    after = ["curves", "freeze", "freeze", "bench", *["predict"] * 3, "preflight", "pytest"]
    assert kinds(asked)[:15] == ["versions", "trials", *["run"] * 4, *after]
    trained = [re.search(r"run (\S+) .*--first-seed (\d+) --seeds 1 ", line).groups() for line in asked[2:6]]
    assert [":".join(each) for each in trained] == named
    assert " ".join(cells) in asked[1] and "bnn-theano" in asked[13]
    with tarfile.open(evidence.out / "records.tar.gz") as tar:
        assert sum("/runs/" in name and name.endswith(".json") for name in tar.getnames()) == 4
    assert len(list(evidence.out.glob("*.bnn"))) == 2
    assert "--scale paper" in asked[2]
    code, said, asked = evidence(*named, "short/float-cifar10:0")
    assert kinds(asked)[0] == "run" and "short/float-cifar10 --device cuda --scale short" in asked[0]
    code, said, asked = evidence(*named, "table1/float-mnist:7", SLICE="50")
    assert code == 75 and kinds(asked) == ["curves"] and "not done: training-table1-float-mnist:7" in said


@pytest.mark.parametrize(
    ("fails", "named"),
    sample([("reproduce run", "training"), ("gpu trials", "trials"), ("gpu preflight", "preflight"),
            (" bench ", "figure3"), ("gpu curves", "curves"), (" predict ", "predict"), ("-m pytest", "tests")]),
)  # fmt: skip
def test_a_failed_step_does_not_end_the_script(evidence, fails, named):
    code, said, asked = evidence(FAILS=fails)
    assert code == 1 and "a reason" in said and f"gpu-evidence: failed: {named}" in said
    assert "run" in kinds(asked) and any("-m gpu" in line for line in asked)
    again, said, asked = evidence()
    retried = named in ("training", "curves")
    assert again == (0 if retried else 1) and (named in said.splitlines()[-1]) == (not retried), said


@pytest.mark.exhaustive
def test_trials_that_never_began_leave_every_part_out(evidence):
    _, _, asked = evidence(FAILS="gpu trials")
    assert asked[2].split(" | ")[1] == " ".join(ways.PARTS)
    assert not any("predict" in line for line in asked)


@pytest.mark.exhaustive
def test_a_step_that_hangs_is_cut_and_its_successors_still_deliver(evidence):
    code, said, asked = evidence(HANGS="gpu preflight", SLICE="24")
    assert code == 75 and re.search(r"== preflight\S+ exit code 124 after \d+ s", said)
    assert kinds(asked) == ["versions", "trials", "preflight"] and "figure3 training" in said
    assert (evidence.out / "log.txt").read_text().count("exit code 124") == 1
    _, said, asked = evidence()  # it had less time than its limit, so it is tried again
    assert kinds(asked)[:3] == ["preflight", "bench", "run"]


@pytest.mark.parametrize("run", ["table1/float-mnist", "table1/flaot-mnist:0", "--help", "a:b:0", "check/mlp:0"])
def test_a_wrong_run_ends_it_before_anything_is_tried(evidence, run):
    code, said, asked = evidence("table1/float-mnist:0", run)
    assert code == 2 and f"unknown run '{run}'" in said and not asked and not evidence.store.exists()


def test_missing_data_end_it_before_anything_is_tried(evidence, tmp_path):
    code, said, asked = evidence(REPRODUCE_DATA=tmp_path)
    assert code == 2 and "no data set" in said and not asked


@pytest.mark.exhaustive
def test_cells_of_one_name_are_two_runs_and_a_folder_may_have_a_blank(evidence, tmp_path):
    named = [f"{folder}/bnn-theano-mnist:0" for folder in ("table1", "short")]
    code, said, asked = evidence(*named, RESULTS=tmp_path / "a store")
    assert code == 0 and kinds(asked).count("run") == 2, said
    assert (evidence.out / "records.tar.gz").exists() and any(str(tmp_path / "a store") in line for line in asked)
    with tarfile.open(evidence.out / "records.tar.gz") as tar:
        assert any("/runs/table1-bnn-theano-mnist-" in name for name in tar.getnames())


@pytest.mark.exhaustive
def test_a_missing_package_ends_it_at_once(evidence):
    code, said, asked = evidence(FAILS="gpu versions", CODE="2", PRINTS="reproduce: pydantic is missing")
    assert code == 2 and kinds(asked) == ["versions"] and "reproduce: pydantic is missing" in said
    assert evidence()[0] == 0  # once it is there


@pytest.mark.exhaustive
def test_out_holds_few_small_files(evidence):
    (evidence.store / "runs").mkdir(parents=True)
    (evidence.store / "runs" / "table1-bnn-theano-mnist-paper-seed1-abc.json").touch()  # of an earlier call
    assert evidence()[0] == 0
    found = {path.name for path in evidence.out.iterdir()}
    assert found == {"log.txt", "records.tar.gz", "curves.csv", f"{STEM}.bnn"}
    with tarfile.open(evidence.out / "records.tar.gz") as tar:
        names = {name.removeprefix("./") for name in tar.getnames() if name.endswith(".json")}
    assert names == {"kernels/gpu-1.json", f"runs/{STEM}.json"}
    for number in range(9):
        (evidence.store / "packed" / f"table1-bnn-theano-mnist-paper-seed100-{number}.bnn").write_bytes(bytes(100))
    with (evidence.store / "packed" / "table1-bnn-theano-mnist-paper-seed100-z.bnn").open("wb") as file:
        file.truncate(MOST + 1)
    with (evidence.store / "gpu-evidence" / "log.txt").open("a") as file:
        file.write(f"{'long ' * 20}\n" * 200_000)
    assert evidence()[0] == 0
    sizes = [path.stat().st_size for path in evidence.out.iterdir()]
    assert len(sizes) == 8 and max(sizes) <= MOST
    assert (evidence.out / "log.txt").read_text().rstrip().splitlines()[-1].startswith("== curves: exit code 0")


@pytest.mark.exhaustive
def test_a_variable_chooses_the_other_net(evidence):
    code, _, asked = evidence(NET="cifar10")
    assert code == 0
    for line in asked[2], asked[4]:
        assert "table1/bnn-theano-cifar10" in line and "mnist" not in line


@pytest.mark.exhaustive
def test_wheels_from_a_folder_are_installed_without_a_network(evidence, tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "carried-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carried.py", "THERE = True\n")
        info = "carried-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: carried\nVersion: 1.0\n")
        tags = "Generator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\n{tags}")
        wheel.writestr(f"{info}/RECORD", f"carried.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    code, said, asked = evidence(WHEELS=wheels)
    assert code == 0, said
    paths = {line.split(" | ")[2] for line in asked[1:]}
    assert len(paths) == 1
    subprocess.run([sys.executable, "-c", "import carried"], check=True, env={"PYTHONPATH": paths.pop()})
    assert not any("pip" in line for line in evidence(WHEELS=wheels)[2])


@pytest.mark.exhaustive
def test_it_names_every_file_with_tests_for_a_gpu():
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-m", "gpu", "tests"]
    out = subprocess.run(command, capture_output=True, text=True, cwd=yamlfile.ROOT, timeout=240).stdout
    files = {line.split("::")[0] for line in out.splitlines() if "::" in line}
    listed = re.search(r'gpu_tests="(.*?)"', SCRIPT.read_text(), re.S)[1].split()
    assert files == set(listed) and listed == sorted(listed)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_rehearsal(tmp_path):
    """Runs every step on a CPU, within three minutes."""
    folders = {"RESULTS": str(tmp_path / "store"), "OUT": str(tmp_path / "out")}
    own = {"REHEARSE": "1", "PYTHON": sys.executable, **folders}
    done = subprocess.run([SCRIPT], capture_output=True, text=True, timeout=180, env={**os.environ, **own})
    said = done.stdout
    for name in ("versions", "trials", "preflight-check-mlp", "figure3"):
        assert f"== {name}: exit code 0" in said, said
    assert "passed: bf16, fp16, tf32, graph" in said and "left out: updates: " in said
    assert said.count(" ms a step over 50 steps") == 2 and "training will " in said
    with tarfile.open(tmp_path / "out" / "records.tar.gz") as tar:
        assert any(re.search(r"kernels/\S*quick-\S+\.json$", name) for name in tar.getnames())
    if "== training-check-mlp:100: exit code 3" in said:
        pytest.skip("the rest wants MNIST")
    assert done.returncode == 0 and "on 0 of 10,000 images" in said, said
    assert len((tmp_path / "out" / "curves.csv").read_text().splitlines()) == 7
    assert len(list((tmp_path / "out").glob("check-mlp-small-seed100-*.bnn"))) == 1
