"""The pool of threads of the CPU kernels: every task runs once for any callers, without data races."""

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[3] / "kernels" / "cpu" / "csrc"
BUILD = ("-pthread", "-g", f"-I{SOURCES}", str(Path(__file__).parent / "pool_driver.c"), str(SOURCES / "pool.c"))
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


def built(folder, *options):
    done = subprocess.run(["cc", *options, *BUILD, "-o", str(folder / "driver")], capture_output=True, text=True)
    if done.returncode and "-fsanitize=thread" in options:
        pytest.skip(f"no thread sanitizer here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return str(folder / "driver")


@needs_compiler
def test_every_task_is_run_once_by_three_callers_and_after_a_fork(tmp_path):
    """More jobs than job numbers (65,535), so that numbers repeat."""
    assert subprocess.run([built(tmp_path, "-O2"), "100000", "fork"], timeout=120).returncode == 0


@needs_compiler
def test_no_data_race(tmp_path):
    done = subprocess.run([built(tmp_path, "-O1", "-fsanitize=thread"), "5000"], capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING: ThreadSanitizer" not in done.stderr, done.stderr[:2000]
