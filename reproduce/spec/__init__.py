"""Experiment files: what one cell of the paper is and how to measure it, typed and checked.

`load(path)` reads one file; `cells(…)` finds many, by name or by path. Anything wrong is a `SpecError` with a line
for each problem: the file, the key and, for a misspelt name, the nearest valid one. What settings there are:
`settings`, whose names stand here too.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError, model_validator

from reproduce import extensions
from reproduce.datasets import DATASETS
from reproduce.spec.settings import *  # noqa: F403  what is named `spec.…` elsewhere
from reproduce.spec.settings import NETS, Data, Net, Positive, Scale, Settings, Strict, Text, Train
from reproduce.yamlfile import CHECKOUT, PACKAGE, ROOT, merged, problems, read_yaml, refusal, shown
from reproduce.yamlfile import SpecError as SpecError

EXPERIMENTS = (ROOT if CHECKOUT else PACKAGE) / "experiments"
PARTS = ("data", "net", "train")


def _about(data: Data) -> str:
    """Title of the data set that an experiment is about."""
    found = DATASETS[data.name]
    return found.part_of or found.title


# --- the experiment file --------------------------------------------------------------------------------------


class Published(Strict):
    value: Annotated[float, Field(ge=0, le=100)]
    """Test error in percent, as the paper prints it."""
    plus_minus: Positive | None = None
    source: Text


class Check(Strict):
    """How `make check-small` uses the cell: the seed it trains, the seeds its band comes from, what must fail."""

    seed: Annotated[int, Field(ge=0)]
    calibration: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=5)]
    mutants: dict[Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")], dict[str, Any]]
    """Named overrides: an error planted on purpose, which `make check-small-mutants` trains."""

    @model_validator(mode="after")
    def _apart(self) -> Check:
        if len(set(self.calibration)) != len(self.calibration):
            raise ValueError("calibration: a seed is given twice")
        if self.seed in self.calibration:
            raise ValueError("seed: must not be one of the calibration's")
        return self


class Experiment(Strict):
    row: Text
    dataset: Text
    """Title of the data set; of one that is a part of another, the other's."""
    published: Published | None = None
    margin: Positive | None = None
    """Declared before running: binomial 95 % half-width of the published figure, in points."""
    follows: Text
    """Where paper and code differ: which is followed and why."""
    scale: Scale
    data: Data
    net: Annotated[Net, *NETS.tagged]
    train: Train
    small: dict[str, Any] | None = None
    """Overrides that give the CPU scale."""
    check: Check | None = None

    @model_validator(mode="after")
    def _possible(self) -> Experiment:
        if (self.published is None) != (self.margin is None):
            raise ValueError("margin: goes with published, and published with margin")
        if self.small is not None and self.scale == "small":
            raise ValueError("small: the settings are of small scale already")
        if _about(self.data) != self.dataset:
            raise ValueError(f"dataset: {self.dataset} does not fit data.name {self.data.name}")
        return self


class Cell(Strict):
    """One experiment file, validated at every scale it has."""

    name: str
    path: Path | None = None
    """Where its file is."""
    experiment: Experiment
    scales: dict[Scale, Settings]
    mutants: dict[str, Settings]

    @property
    def group(self) -> str:
        """The folder that its file lies in."""
        return self.name.split("/")[0]

    def at(self, scale: Scale) -> Settings | None:
        return self.scales.get(scale)

    def dataset_at(self, scale: Scale) -> str:
        """Title of the data set that a scale really uses, for tables: a part of SVHN is never called SVHN."""
        return self.scales[scale].dataset.title


# --- reading --------------------------------------------------------------------------------------------------


def name_of(path: Path) -> str:
    """The name of a file's cell: its folder's and its own."""
    return "/".join(path.resolve().with_suffix("").parts[-2:])


def load(path: Path) -> Cell:
    """Read and check one experiment file, at every scale. Raises SpecError with all its problems."""
    content = read_yaml(path)
    found: list[str] = []

    def checked(model: type[BaseModel], tree: Any, prefix: str = "", override: Any = None) -> Any:
        try:
            return model.model_validate(tree)
        except ValidationError as error:
            told = problems(error, model, tree, prefix, override)
            found.extend(line for line in told if line.removeprefix(prefix) not in found)
        except RecursionError:
            found.append("nested too deeply")
        return None

    def overridden(override: Any, over: dict[str, Any], prefix: str) -> tuple[dict[str, Any], Settings | None]:
        """`over` with an override laid over it, and the settings that this makes."""
        for key in override if isinstance(override, dict) else []:
            if key not in PARTS:
                near = difflib.get_close_matches(key, PARTS, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; valid names: {', '.join(PARTS)}"
                found.append(f"{prefix}{key}: unknown key{hint}")
                return over, None
        if (tree := merged(over, override)) == over:
            found.append(f"{prefix.rstrip('.')}: changes nothing")
        return tree, checked(Settings, tree, prefix, override)

    experiment: Experiment | None = checked(Experiment, content)
    base = {key: content[key] for key in PARTS if key in content}
    scales: dict[Any, Any] = {}
    mutants: dict[str, Any] = {}
    if len(base) == len(PARTS):
        own = checked(Settings, base)
        if experiment is not None:
            scales[experiment.scale] = own
        small, check = base, content.get("check")
        if isinstance(content.get("small"), dict):
            small, scales["small"] = overridden(content["small"], base, "small.")
            if experiment and scales["small"] and _about(scales["small"].data) != experiment.dataset:
                found.append(f"small.data.name: not {experiment.dataset}")
        planted = check.get("mutants") if isinstance(check, dict) else None
        for name, override in planted.items() if isinstance(planted, dict) else ():
            _, mutants[name] = overridden(override, small, f"check.mutants.{name}.")
    if found or experiment is None:
        raise refusal(path, found)
    return Cell(name=name_of(path), path=path, experiment=experiment, scales=scales, mutants=mutants)


def _tell(problem: str) -> None:
    print(f"reproduce: left out: {problem}", file=sys.stderr)


def cells(
    patterns: list[str] | None = None, folder: Path = EXPERIMENTS, *, tell: Callable[[str], None] = _tell
) -> list[Cell]:
    """The cells of `folder`, in the files' order, or those that `patterns` name: files, folders, cells, groups.

    A broken file is named and left out; SpecError if it was asked for by itself, or no other file is left.
    """
    chosen: dict[str, Path] = {}
    asked = set()
    matched = [_matching(pattern, folder) for pattern in patterns or []] or [_files(folder)]
    for found in matched:
        for path in found:
            if chosen.setdefault(name := name_of(path), path).resolve() != path.resolve():
                raise SpecError(f"two files have the name {name}: {shown(chosen[name])} and {shown(path)}")
        if patterns and len(found) == 1:
            asked.add(name_of(found[0]))
    if not chosen:
        raise SpecError(f"no experiment files in {folder}")
    loaded, broken = [], []
    for name, path in chosen.items():
        try:
            loaded.append(load(path))
        except SpecError as error:
            if name in asked:
                raise
            broken.append(str(error))
    if not loaded:
        raise SpecError("\n".join(broken))
    for problem in broken:
        tell(problem)
    return loaded


def _matching(pattern: str, folder: Path) -> list[Path]:
    """The files that a pattern names: a file or folder by its path, else cells and groups of `folder`."""
    path = Path(pattern)
    if path.suffix == ".yaml" and path.is_file():
        return [path]
    names = {name_of(p): p for p in _files(folder)}
    wanted = pattern.strip("/").removesuffix(".yaml").removeprefix("experiments/")
    hits = [
        p
        for name, p in names.items()
        if Path(wanted).parts  # not "", "/", "."
        and (name == wanted or name.startswith(f"{wanted}/") or Path(name).match(wanted))
    ]
    if not hits and Path(wanted).parts and path.is_dir():
        hits = _files(path)
    elif not hits:
        near = difflib.get_close_matches(pattern, [*names, *{n.split("/")[0] for n in names}], n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise SpecError(f"no cell {pattern!r}{hint} (`reproduce list` shows them), and no such file or folder")
    return hits


def _files(folder: Path) -> list[Path]:
    """The experiment files in a folder and in the folders in it, without the paper's numbers (paper.yaml).

    A file with a module of its own beside it (x.py beside x.yaml or x-y.yaml) is one only while that is in use.
    """
    found = sorted([*folder.glob("*.yaml"), *folder.glob("*/*.yaml")])
    own = {p: p.with_name(f"{p.stem.partition('-')[0]}.py") for p in found if p.name != "paper.yaml"}
    return [p for p, module in own.items() if not module.exists() or extensions.used(module)]
