"""`reproduce submit` on a SLURM cluster of two nodes on this machine: one dies, and each run is trained once."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "cluster"))

import slurm  # from tests/cluster

from reproduce import yamlfile
from reproduce.datasets import fetch
from reproduce.records import read_records

SEEDS = 4
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(slurm.missing() is not None, reason=f"SLURM: {slurm.missing()}"),
    pytest.mark.skipif(not (fetch.folder() / "mnist.npz").exists(), reason="MNIST is not in the data folder"),
]


def test_a_node_dies_and_every_run_is_made_once(tmp_path):
    pytest.importorskip("submitit")
    store = tmp_path / "store"
    words = ["submit", "check/mlp", "--scale", "small", "--seeds", str(SEEDS), "--device", "cpu", "--cpus", "1"]
    words += ["--results", str(store), "--data", str(fetch.folder()), "--time-limit", "20s"]
    with slurm.cluster(tmp_path / "slurm", nodes=2) as cluster:

        def submit():
            command = [sys.executable, "-m", "reproduce", *words]
            own = cluster.environment | {"OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, env=own, capture_output=True, text=True, cwd=yamlfile.ROOT)
            assert done.returncode == 0, done.stderr
            return done.stdout

        def jobs():
            """The line of `scontrol` for each task: index in the array -> fields."""
            found = {}
            for line in cluster.ask("scontrol", "--oneliner", "show", "job").splitlines():
                fields = dict(re.findall(r"(\w+)=(\S*)", line))
                if fields.get("ArrayTaskId", "").isdigit():
                    found[int(fields["ArrayTaskId"])] = fields
            return found

        out = submit()
        assert f"{SEEDS} of {SEEDS} run(s) submitted" in out
        victim = None
        end = time.monotonic() + 800
        while time.monotonic() < end:
            now = jobs()
            states = [fields["JobState"] for fields in now.values()]
            if victim is None:
                running = {k: f for k, f in now.items() if f["JobState"] == "RUNNING"}
                training = [k for k, f in running.items() if f.get("BatchHost") == "node2"]
                if training and "[1/1]" in log(store, training[0]):
                    victim = training[0]
                    cluster.kill_node("node2")
            elif len(states) == SEEDS and set(states) == {"COMPLETED"}:
                break
            time.sleep(0.5)
        assert victim is not None
        assert len(now) == SEEDS and {f["JobState"] for f in now.values()} == {"COMPLETED"}, now
        assert int(now[victim]["Restarts"]) >= 1 and now[victim]["BatchHost"] == "node1"
        assert "down" in cluster.ask("sinfo", "-h", "-n", "node2", "-o", "%t")
        assert "are in" in submit()  # nothing is left to submit
    records, problems = read_records(store / "runs")
    assert not problems and sorted(r.seed for r in records) == list(range(SEEDS))
    logs = [log(store, k) for k in range(SEEDS)]
    for text in logs:
        assert len(re.findall(r"^    test error", text, re.M)) == 1  # trained to the end once
    assert any("stands at epoch" in log(store, k, "err") for k in range(SEEDS))  # time limits passed, too


def log(store, place, kind="out"):
    return "".join(path.read_text() for path in (store / "cluster").glob(f"*_{place}_0_log.{kind}"))
