"""Experiment files: what one cell of the paper is and how to measure it, typed and checked.

`load(path)` reads one file; `cells(…)` finds many, by name or by path. Anything wrong is a `SpecError` with a line
for each problem: the file, the key and, for a misspelt name, the nearest valid one. What settings there are:
`settings`, whose names stand here too.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from reproduce import extensions
from reproduce.datasets import DATASETS
from reproduce.spec.settings import *  # noqa: F403  what is named `spec.…` elsewhere
from reproduce.spec.settings import NETS, Count, Data, Net, Positive, Scale, Settings, Strict, Text, Train
from reproduce.yamlfile import CHECKOUT, PACKAGE, ROOT, did_you_mean, merged, problems, read_yaml, refusal, shown
from reproduce.yamlfile import SpecError as SpecError

EXPERIMENTS = (ROOT if CHECKOUT else PACKAGE) / "experiments"
PARTS = ("data", "net", "train")


@cache
def the_paper() -> dict[str, Any]:
    """The paper's numbers: the content of `experiments/paper.yaml`."""
    return read_yaml(EXPERIMENTS / "paper.yaml")


def _about(data: Data) -> str:
    """Title of the data set that an experiment is about."""
    found = DATASETS[data.name]
    return found.part_of or found.title


# --- the experiment file --------------------------------------------------------------------------------------


Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]


class Published(Strict):
    value: Annotated[float, Field(ge=0, le=100)]
    """Test error in percent, as the paper prints it."""
    plus_minus: Positive | None = None
    source: Text


class Check(Strict):
    """The cell's part in `make check-small`: the seed it trains, the seeds of its band, the mutants."""

    seed: Annotated[int, Field(ge=0)]
    calibration: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=5)]
    mutants: dict[Name, dict[str, Any]]
    """Named overrides: an error planted on purpose, which `make check-small-mutants` trains."""


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
    seeds: Count = 1
    """How many seeds `reproduce run` trains by default."""

    @model_validator(mode="after")
    def _possible(self) -> Experiment:
        if (self.published is None) != (self.margin is None):
            raise ValueError("margin: goes with published, and published with margin")
        if self.small is not None and self.scale == "small":
            raise ValueError("small: the settings are of small scale already")
        if _about(self.data) != self.dataset:
            raise ValueError(f"dataset: {self.dataset} does not fit data.name {self.data.name}")
        return self


class Arm(Strict):
    """One way of training in an ablation: overrides of its settings, and its own learning rate."""

    against: Name | None = None
    """The arm it is compared with, by default the first. None for the first, and for one that names itself."""
    rates: Annotated[list[Positive], Field(min_length=2)] | None = None
    """The rates that were tried for it, if not the ablation's."""
    rate: Positive
    """The rate at the start: the best on validation images of those tried (`reproduce tune`)."""
    data: dict[str, Any] = Field(default={})
    net: dict[str, Any] = Field(default={})
    train: dict[str, Any] = Field(default={})


class Ablation(Strict):
    """A file of arms that answer one question; all was declared before they were run."""

    claim: Text
    """The paper's claim, or the question where the paper has none."""
    source: Text
    """Where the paper says so."""
    effect: Positive
    """The smallest loss that counts, in points of test error; a smaller one is "no loss"."""
    seeds: Annotated[int, Field(ge=3, le=1000)]
    seeds_at_first: Annotated[int, Field(ge=3)] | None = None
    """The number declared at first, where it was raised after runs had begun; the report judges by both."""
    rates: Annotated[list[Positive], Field(min_length=2)]
    """The rates at the start that are tried for each arm."""
    base: Text
    """The cell whose settings the arms have, except for their overrides.

    Its path without .yaml, from the parent of this file's folder or from the project's experiments.
    """
    products: Literal["float32"] | None = None
    """How all arms are trained on a CPU, where the engine cannot make the steps of one (`step.why_autograd`)."""
    common: dict[str, Any] = Field(default={})
    """Overrides of all arms."""
    arms: Annotated[dict[Name, Arm], Field(min_length=2)]

    @model_validator(mode="after")
    def _pairs(self) -> Ablation:
        for name, arm in self.arms.items():
            if arm.against is not None and arm.against not in self.arms:
                raise ValueError(f"arms.{name}.against: no arm {arm.against!r}")
            if arm.rate not in self.tried(name):
                raise ValueError(f"arms.{name}.rate: {arm.rate:g} is none of the rates")
        return self

    def against(self, name: str) -> str | None:
        """The arm that an arm is compared with; None if with none."""
        other = self.arms[name].against or next(iter(self.arms))
        return None if other == name else other

    def tried(self, name: str) -> list[float]:
        """The rates that are tried for an arm."""
        return self.arms[name].rates or self.rates


class Cell(Strict):
    """One experiment file, or one arm of an ablation, validated at every scale it has."""

    name: str
    path: Path | None = None
    """Where its file is."""
    experiment: Experiment
    scales: dict[Scale, Settings]
    mutants: dict[str, Settings]
    ablation: Ablation | None = None
    """The file that it is an arm of, the last part of its name."""
    tried: dict[float, Settings] = Field(default={})
    """An arm's settings with each of the rates that are tried for it."""

    @property
    def arm(self) -> str:
        return self.name.split("/")[-1]

    @property
    def group(self) -> str:
        """The folder of its file."""
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


def load(path: Path, content: dict[str, Any] | None = None) -> Cell:
    """Read (if its content is not given) and check one experiment file, at every scale.

    Raises SpecError with all its problems.
    """
    content = read_yaml(path) if content is None else content
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
        """`over` merged with an override, and the resulting settings; None if they are not valid."""
        for key in override if isinstance(override, dict) else []:
            if key not in PARTS:
                hint = did_you_mean(key, PARTS, f"; valid names: {', '.join(PARTS)}")
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


def load_all(path: Path) -> list[Cell]:
    """The cells of a file: that of an experiment, or the arms of an ablation. Raises SpecError as `load` does."""
    content = read_yaml(path)
    if "arms" not in content:
        return [load(path, content)]
    try:
        ablation = Ablation.model_validate(content)
    except ValidationError as error:
        raise refusal(path, problems(error, Ablation, content)) from None
    folders = [path.resolve().parent.parent, EXPERIMENTS]
    base = next((b for folder in folders if (b := folder / f"{ablation.base}.yaml").is_file()), None)
    if base is None:
        raise refusal(path, [f"base: no cell {ablation.base!r} in {' or '.join(map(shown, folders))}"])
    under = load(base).experiment
    plain = merged(under.model_dump(mode="json", include=set(PARTS)), ablation.common)
    cells, found = [], []
    for name in ablation.arms:
        tree = merged(plain, ablation.arms[name].model_dump(include=set(PARTS)))
        try:
            Settings.model_validate(tree)
            tried = {r: Settings.model_validate(with_rate(tree, r)) for r in ablation.tried(name)}
        except ValidationError as error:
            found += problems(error, Settings, tree, f"arms.{name}.", ablation.arms[name].model_dump())
            continue
        settings = tried[ablation.arms[name].rate]
        experiment = Experiment(
            row=f"{path.stem}: {name}",
            dataset=_about(settings.data),
            follows=ablation.claim,
            scale="small",
            seeds=ablation.seeds,
            **{part: getattr(settings, part) for part in PARTS},
        )
        cell = Cell(
            name=f"{name_of(path)}/{name}",
            path=path,
            experiment=experiment,
            scales={"small": settings},
            mutants={},
            ablation=ablation,
            tried=tried,
        )
        cells.append(cell)
    if found:
        raise refusal(path, found)
    return cells


def with_rate(tree: dict[str, Any], start: float) -> dict[str, Any]:
    """Settings whose rate starts at `start` and, if it has an end, ends lower by the same factor as before."""
    rate = tree["train"]["rate"]
    scaled = {"end": rate["end"] * start / rate["start"]} if {"start", "end"} <= rate.keys() else {}
    changed = {"start": start} | scaled
    return {**tree, "train": {**tree["train"], "rate": {**rate, **changed}}}


def cells(patterns: list[str] | None = None, folder: Path = EXPERIMENTS) -> list[Cell]:
    """The cells of `folder`, in the files' order, or those that `patterns` name: files, folders, cells, groups.

    A broken file is named on stderr and left out; SpecError if it was asked for by itself, or no other is left.
    """
    chosen: dict[str, Path] = {}
    arms: dict[str, set[str | None]] = {}
    asked = set()
    matched = [_matching(pattern, folder) for pattern in patterns or []] or [(_files(folder), None)]
    for found, arm in matched:
        for path in found:
            if chosen.setdefault(name := name_of(path), path).resolve() != path.resolve():
                raise SpecError(f"two files have the name {name}: {shown(chosen[name])} and {shown(path)}")
            arms.setdefault(name, set()).add(arm)
        if patterns and len(found) == 1:
            asked.add(name_of(found[0]))
    if not chosen:
        named = [Path(pattern) for pattern in patterns or () if Path(pattern).is_dir()] or [folder]
        pairs = [pair for place in named for pair in _with_modules(place).items()]
        unused = [f"{shown(path)} needs --use {shown(module)}" for path, module in pairs if module]
        raise SpecError("; ".join(unused) or f"no experiment files in {shown(named[0])}")
    loaded: list[Cell] = []
    broken = []
    for name, path in chosen.items():
        try:
            loaded += _named(load_all(path), arms[name])
        except SpecError as error:
            if name in asked:
                raise
            broken.append(str(error))
    if not loaded:
        raise SpecError("\n".join(broken))
    for problem in broken:
        print(f"reproduce: left out: {problem}", file=sys.stderr)
    return loaded


def _named(cells: list[Cell], arms: set[str | None]) -> list[Cell]:
    """The cells of a file with these arms; all cells if None is among them. SpecError for an unknown arm."""
    if None in arms:
        return cells
    there = {cell.arm: cell for cell in cells}
    for arm in sorted(filter(None, arms)):
        if arm not in there:
            raise SpecError(f"no arm {arm!r} in {shown(cells[0].path)}: {', '.join(there)}")  # type: ignore[arg-type]
    return [cell for cell in cells if cell.arm in arms]


def _matching(pattern: str, folder: Path) -> tuple[list[Path], str | None]:
    """The files that a pattern names, and the arm of one: a file or folder by its path, else in `folder`."""
    path = Path(pattern)
    if path.suffix == ".yaml" and path.is_file():
        return [path], None
    names = {name_of(p): p for p in _files(folder)}
    wanted = pattern.strip("/").removesuffix(".yaml").removeprefix("experiments/")
    hits = [
        p
        for name, p in names.items()
        if Path(wanted).parts  # not "", "/", "."
        and (name == wanted or name.startswith(f"{wanted}/") or Path(name).match(wanted))
    ]
    whole, _, arm = wanted.rpartition("/")
    if not hits and whole in names:
        return [names[whole]], arm
    if not hits and Path(wanted).parts and path.is_dir():
        hits = _files(path)
    elif not hits:
        hint = did_you_mean(pattern, [*names, *{n.split("/")[0] for n in names}], cutoff=0.4)
        raise SpecError(f"no cell {pattern!r}{hint} (`reproduce list` shows them), and no such file or folder")
    return hits, None


def _files(folder: Path) -> list[Path]:
    """The experiment files in a folder and in the folders in it, without the paper's numbers (paper.yaml).

    A file with a module of its own beside it (x.py beside x.yaml or x-y.yaml) is one only while that is in use.
    """
    return [p for p, module in _with_modules(folder).items() if module is None]


def _with_modules(folder: Path) -> dict[Path, Path | None]:
    """The experiment files in a folder and in the folders in it, each with its module if that is not in use."""
    found = {}
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*/*.yaml")]):
        module = path.with_name(f"{path.stem.partition('-')[0]}.py")
        if path.name != "paper.yaml":
            found[path] = module if module.exists() and not extensions.used(module) else None
    return found
