"""Runs a part of the tests with the oldest versions that pyproject.toml allows, in an environment of its own.

    python tests/supply/oldest.py [FOLDER]    (default: .venv-oldest; gigabytes, kept for the next time)

`make test` uses the newest versions; CI runs both. Exit code 1: a test failed; 3: the oldest versions cannot be
installed here.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTING = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis")
TESTS = [
    *("test_spec", "test_spec_mutants", "test_data", "test_preprocess", "test_nets", "test_optim", "test_train"),
    *("test_runs", "test_campaign", "test_foreign_files", "test_packed", "test_freeze", "test_verdict"),
    *("test_report", "test_report_cli", "test_report_evidence", "test_report_figures", "test_rows"),
    *("test_charts", "test_page", "test_terminal"),
]


def oldest(project: dict) -> list[str]:
    """Every dependency of the program and of its tests that has a lower bound, at that bound."""
    found = []
    for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        bound = re.fullmatch(r"([\w.-]+)>=([\w.]+)(?:\s*;.*)?", line)
        if bound and (line in project["dependencies"] or bound[1] in TESTING):
            found.append(f"{bound[1]}=={bound[2]}")
    return found


def main() -> int:
    """Creates the environment, installs the packages, runs the tests."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".venv-oldest"
    pins = oldest(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    if subprocess.run([str(python), "-m", "pip", "install", "--quiet", *pins]).returncode:
        print(f"the oldest versions cannot be installed here: {' '.join(pins)}")
        return 3
    print(f"oldest: {' '.join(pins)}", flush=True)
    tests = [str(path) for name in TESTS for path in (ROOT / "tests").rglob(f"{name}.py")]
    options = ("-q", "-n", "logical", "--maxprocesses", "8", "--dist", "worksteal", "-p", "no:cacheprovider")
    # the other tests of kernels make the same calls; these two folders add sizes and instruction sets
    without = ("--ignore", "tests/kernels/cpu", "--ignore", "tests/kernels/cuda")
    command = [str(python), "-m", "pytest", *options, *tests, "tests/kernels", *without]
    return int(subprocess.run(command, cwd=ROOT).returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
