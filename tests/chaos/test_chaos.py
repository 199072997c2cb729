"""A short run of the harness; `make chaos N=200` is the long one."""

import subprocess
import sys
from pathlib import Path

import pytest

from reproduce import files, yamlfile
from reproduce.records import runs

HARNESS = Path(__file__).parent / "harness.py"


@pytest.mark.timed
@pytest.mark.timeout(900)
def test_a_killed_campaign_ends_as_an_undisturbed_one(tmp_path):
    command = [sys.executable, str(HARNESS), "--kills", "10", "--seed", "7", "--record", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (record,) = tmp_path.glob("*.json")
    found = files.read_sealed(record)
    assert found["found"]["SIGKILL"]["signals"] == 10
    assert found["found"]["SIGTERM"]["longest_end_seconds"] < 5


def newest(kind):
    return files.read_sealed(sorted((runs.PUBLISHED / "reliability").glob(f"{kind}-*.json"))[-1])


def test_the_page_says_what_the_committed_records_say():
    page = (yamlfile.ROOT / "RELIABILITY.md").read_text()
    chaos, fuzz = newest("chaos"), newest("fuzz")
    assert not chaos["code"]["dirty"] and not fuzz["code"]["dirty"]
    kills, eight = chaos["found"]["SIGKILL"], chaos["found"]["eight processes"]
    assert kills["signals"] >= 200 and eight["trained"] == eight["runs"] == 6
    assert f"{kills['signals']} kills in {kills['campaigns']} sets of runs, each started again" in page
    assert f"({kills['calls']} starts)" in page
    stopped = [chaos["found"][name] for name in ("SIGTERM", "SIGINT")]
    longest = max(figures["longest_end_seconds"] for figures in stopped)
    assert f"{sum(f['signals'] for f in stopped)} signals: the longest end took {longest:.2f} s" in page
    for what, least in (("mutants of experiment files", 5000), ("damaged records", 2000)):
        assert fuzz["found"][what]["tried"] >= least
        assert f"{fuzz['found'][what]['tried']:,}" in page
    for what, figures in fuzz["found"].items():
        if what == "damaged packed nets":  # every byte of one is now changed by test_packed.py
            continue
        for key in ("refused", "refused_in_a_line", "load_as_stated"):
            assert f"{figures.get(key, figures['tried']):,}" in page
    assert len(page.splitlines()) < 40
