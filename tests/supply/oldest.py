"""Runs a part of the tests with the oldest versions that pyproject.toml allows, in an environment of its own.

    python tests/supply/oldest.py [FOLDER]             (default: .venv-oldest; gigabytes, kept for the next time)
    python tests/supply/oldest.py --light [FOLDER]     (default: .oldest; torch and Lightning as installed)

The newest versions are what `make test` runs with; CI does the light one, too. Exit code 1: a test failed; 3: the
versions cannot be had here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTING = ("pytest", "pytest-timeout", "hypothesis")
HEAVY = ("torch", "torchvision", "lightning")
LIGHT_TESTS = [
    *(
        "test_spec",
        "test_spec_mutants",
        "test_data",
        "test_runs",
        "test_preprocess",
        "test_verdict",
        "test_terminal",
    ),
    *("test_foreign_files", "test_report", "test_report_cli", "test_report_evidence", "test_report_figures"),
    *("test_report_simulation", "test_charts", "test_page", "test_freeze"),
]
TESTS = [
    *("test_spec", "test_data", "test_preprocess", "test_nets", "test_optim", "test_train", "test_runs"),
    *("test_campaign", "test_packed", "test_freeze", "test_report", "test_report_cli", "test_verdict"),
]


def oldest(project: dict) -> list[str]:
    """Every dependency with a lower bound, at that bound: of the program and of what runs its tests."""
    found = []
    for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        bound = re.fullmatch(r"([\w.-]+)>=([\w.]+)(?:\s*;.*)?", line)
        if bound and (line in project["dependencies"] or bound[1] in TESTING):
            found.append(f"{bound[1]}=={bound[2]}")
    return found


def light(folder: Path, pins: list[str]) -> int:
    """Run tests with the light packages at their oldest, in a folder that goes before what is installed."""
    pins = [pin for pin in pins if pin.split("==")[0] not in (*HEAVY, *TESTING)]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", str(folder), *pins]
    if subprocess.run(install).returncode:
        print(f"the oldest versions cannot be installed here: {' '.join(pins)}")
        return 3
    environment = os.environ | {"PYTHONPATH": str(folder.resolve())}
    found = {
        name: subprocess.run(
            [sys.executable, "-c", f"from importlib.metadata import version; print(version({name!r}))"],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for name in (pin.split("==")[0] for pin in pins)
    }
    print(f"oldest: {' '.join('=='.join(pair) for pair in found.items())}", flush=True)
    tests = [f"tests/{name}.py" for name in LIGHT_TESTS]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    return int(subprocess.run(command, cwd=ROOT, env=environment).returncode != 0)


def main() -> int:
    """Make the environment, install, test."""
    if sys.argv[1:2] == ["--light"]:
        folder = Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / ".oldest"
        return light(folder, oldest(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]))
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".venv-oldest"
    pins = oldest(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    if subprocess.run([str(python), "-m", "pip", "install", "--quiet", *pins]).returncode:
        print(f"the oldest versions cannot be installed here: {' '.join(pins)}")
        return 3
    print(f"oldest: {' '.join(pins)}", flush=True)
    tests = [f"tests/{name}.py" for name in TESTS]
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "tests/kernels"]
    return int(subprocess.run(command, cwd=ROOT).returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
