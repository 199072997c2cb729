"""The harness in short; `make chaos N=200` for long."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from reproduce import runs

HARNESS = Path(__file__).parent / "harness.py"


@pytest.mark.timeout(900)
def test_a_killed_campaign_ends_as_an_undisturbed_one(tmp_path):
    command = [sys.executable, str(HARNESS), "--kills", "10", "--seed", "7", "--record", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (record,) = tmp_path.glob("*.json")
    found, sealed = runs.read_sealed(record)
    assert sealed and found["found"]["SIGKILL"]["signals"] == 10
    assert found["found"]["SIGTERM"]["longest_end_seconds"] < 5


@pytest.mark.parametrize(
    "path", sorted((runs.PUBLISHED / "reliability").glob("chaos-*.json")), ids=lambda p: p.name
)
def test_committed_figures_are_of_200_kills(path):
    found = json.loads(path.read_text())["found"]
    assert found["SIGKILL"]["signals"] >= 200 and found["eight processes"]["trained"] == 6
