"""Experiment files: what one cell of the paper is and how to measure it, typed and checked.

`load(path)` reads `experiments/<group>/<name>.yaml`; `Experiment.at("small")` gives the settings of a scale.
Anything wrong is a `SpecError`, one line naming the file, the key and, for a misspelt name, the nearest valid one.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

Scale = Literal["paper", "short", "small"]
ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = ROOT / "experiments"

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10**7)]
Text = Annotated[str, Field(min_length=1)]


class SpecError(ValueError):
    """An experiment file that cannot be used; the message is one line for the person who wrote it."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


# --- data -----------------------------------------------------------------------------------------------------


class Range(_Strict):
    """Pixels 0..255 onto low..high."""

    step: Literal["range"]
    low: Literal[-1, 0]
    high: Literal[1]


class Standardize(_Strict):
    """(x - mean) / std, two numbers for the whole data set, of the training split."""

    step: Literal["standardize"]


class Center(_Strict):
    """Subtract each pixel's mean over the training split."""

    step: Literal["center"]


class GCN(_Strict):
    """Global contrast normalization of each image, by its norm or (`use_std`) standard deviation."""

    step: Literal["gcn"]
    scale: Positive
    use_std: bool
    sqrt_bias: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ZCA(_Strict):
    """ZCA whitening fitted on the training split: V (D + bias)^-1/2 Vᵀ (x - mean)."""

    step: Literal["zca"]
    bias: Positive


class LCN(_Strict):
    """LeCun's local contrast normalization with a Gaussian window (sigma 2) on each channel."""

    step: Literal["lcn"]
    kernel: Annotated[int, Field(ge=3, le=31, multiple_of=1)]
    threshold: Positive = 1e-4


class DivideByMax(_Strict):
    """Divide each split by its own largest value."""

    step: Literal["divide_by_max"]


Step = Annotated[Range | Standardize | Center | GCN | ZCA | LCN | DivideByMax, Field(discriminator="step")]


class Data(_Strict):
    name: Literal["mnist", "cifar10", "svhn", "svhn_test10k"]
    train: Count
    valid: Count
    test: Count
    preprocess: Annotated[list[Step], Field(min_length=1)]
    drop_incomplete: bool
    """Leave the last, incomplete batch out, in training and in evaluation (the Theano code does)."""

    @model_validator(mode="after")
    def _range_first(self) -> Data:
        kinds = [s.step for s in self.preprocess]
        if kinds[0] != "range" or "range" in kinds[1:]:
            raise ValueError("preprocess: the first step, and only the first, must be 'range'")
        return self


# --- net ------------------------------------------------------------------------------------------------------


class VanillaNorm(_Strict):
    kind: Literal["vanilla"]
    eps: Positive
    alpha: Annotated[float, Field(gt=0, le=1)]


class ShiftNorm(_Strict):
    kind: Literal["shift"]
    eps: Positive
    alpha: Annotated[float, Field(gt=0, le=1)]


Norm = Annotated[VanillaNorm | ShiftNorm, Field(discriminator="kind")]
Activation = Literal["sign", "stochastic_sign", "relu"]


class _Net(_Strict):
    weights: Literal["binary", "float"]
    activation: Activation
    ste_mask: bool = True
    norm: Norm
    output_norm: Norm
    init: Literal["uniform", "glorot"]
    bias_init: Literal["zero", "uniform"]

    @model_validator(mode="after")
    def _possible(self) -> _Net:
        if self.activation == "relu" and not self.ste_mask:
            raise ValueError("ste_mask: false needs a binary activation, not relu")
        return self


class MLPNet(_Net):
    kind: Literal["mlp"]
    hidden: Annotated[list[Count], Field(min_length=1, max_length=16)]
    dropout_in: Fraction
    dropout_hidden: Fraction


class ConvNet(_Net):
    kind: Literal["convnet"]
    channels: Annotated[list[Count], Field(min_length=1, max_length=3)]
    """Two 3×3 convolutions of so many channels a stage, then a 2×2 max pooling."""
    dense: Annotated[list[Count], Field(min_length=1, max_length=8)]


Net = Annotated[MLPNet | ConvNet, Field(discriminator="kind")]

# --- training -------------------------------------------------------------------------------------------------


class AdamRule(_Strict):
    kind: Literal["adam"]
    beta1: Fraction
    beta2: Fraction
    eps: Positive


class ShiftAdaMaxRule(_Strict):
    kind: Literal["shift_adamax"]
    beta1: Fraction
    beta2: Fraction
    eps: Positive


class ExponentialRate(_Strict):
    kind: Literal["exponential"]
    start: Positive
    end: Positive

    @model_validator(mode="after")
    def _falls(self) -> ExponentialRate:
        if self.end > self.start:
            raise ValueError("end: the rate must not rise")
        return self


class HalvingRate(_Strict):
    kind: Literal["halving"]
    start: Positive
    every: Count


class Train(_Strict):
    optimizer: Annotated[AdamRule | ShiftAdaMaxRule, Field(discriminator="kind")]
    rate: Annotated[ExponentialRate | HalvingRate, Field(discriminator="kind")]
    weight_rate: Literal["glorot", "glorot_power_of_2", "plain"]
    """Per-layer multiplier of the update: sqrt((fan_in + fan_out) / 1.5), that rounded to a power of two, or 1."""
    bias_rate: Literal["plain", "as_weight"]
    norm_rate: Literal["plain", "glorot_gamma"]
    """BN's gamma and beta: 1, or sqrt(n / 1.5) for gamma (the Torch7 MNIST script)."""
    clip: Literal["none", "weights", "all"]
    batch: Count
    epochs: Count


class Settings(_Strict):
    """Everything that decides a run's numbers, but the seed."""

    data: Data
    net: Net
    train: Train

    @model_validator(mode="after")
    def _possible(self) -> Settings:
        if self.train.batch > min(self.data.train, self.data.valid, self.data.test):
            raise ValueError("train.batch: larger than a data split")
        if (self.net.kind == "convnet") == (self.data.name == "mnist"):
            raise ValueError(f"net.kind: {self.net.kind} does not fit data.name {self.data.name}")
        return self

    def digest(self) -> str:
        """sha256 over the canonical JSON of the settings."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


# --- the experiment file --------------------------------------------------------------------------------------


class Published(_Strict):
    value: Annotated[float, Field(ge=0, le=100)]
    """Test error in percent, as the paper prints it."""
    plus_minus: Positive | None = None
    source: Text


class Check(_Strict):
    """How `make check-small` uses the cell: the seed it trains, the seeds its band comes from, what must fail."""

    seed: Annotated[int, Field(ge=0)]
    calibration: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=5)]
    mutants: dict[str, dict[str, Any]]
    """Named overrides: an error planted on purpose, which `make check-small-mutants` trains."""

    @model_validator(mode="after")
    def _apart(self) -> Check:
        if self.seed in self.calibration:
            raise ValueError("seed: must not be one of the calibration's")
        return self


class Experiment(_Strict):
    row: Text
    dataset: Literal["MNIST", "CIFAR-10", "SVHN"]
    published: Published | None = None
    margin: Positive | None = None
    """Declared before running: binomial 95 % half-width of the published figure, in points."""
    follows: Text
    """Where paper and code differ: which is followed and why."""
    scale: Scale = "paper"
    data: Data
    net: Net
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
        return self


class Cell(_Strict):
    """One experiment file, validated at every scale it has."""

    name: str
    experiment: Experiment
    scales: dict[Scale, Settings]
    mutants: dict[str, Settings]

    def at(self, scale: Scale) -> Settings | None:
        return self.scales.get(scale)

    def dataset_at(self, scale: Scale) -> str:
        """Name of the data set for tables; the 10,000 SVHN images are never called SVHN."""
        settings = self.scales[scale]
        return "SVHN-test10k" if settings.data.name == "svhn_test10k" else self.experiment.dataset


# --- reading --------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML with `1e-3` as the number it is, and without duplicate keys, anchors or merge keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "anchor", None):
            line = event.start_mark.line + 1
            raise SpecError(f"line {line}: anchors and aliases are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise SpecError(f"line {line}: key {key!r} is not a name")
            if key in seen:
                raise SpecError(f"line {line}: key {key!r} stands twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. SpecError (one line, naming the file) if it is unreadable or not a mapping."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # a SafeLoader
    except SpecError as error:
        raise SpecError(f"{shown(path)}: {error}") from None
    except OSError as error:
        raise SpecError(f"{shown(path)}: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SpecError(f"{shown(path)}: not valid YAML: {reason}") from None
    if not isinstance(content, dict):
        raise SpecError(f"{shown(path)}: the top level must be a mapping")
    return content


def shown(path: Path) -> str:
    """The path as a person in the checkout would write it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _merged(base: Any, override: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(override, dict)):
        return override
    return {**base, **{k: _merged(base[k], v) if k in base else v for k, v in override.items()}}


def _holds(tree: Any, path: list[str]) -> bool:
    """Whether the first keys of `path` stand in an override, as far as mappings go."""
    for part in path:
        if isinstance(tree, dict) and part in tree:
            tree = tree[part]
        elif not isinstance(tree, list):
            return False
    return True


def _key_path(error: Any, tree: Any) -> list[Any]:
    """pydantic's location without the tags of unions, which are no keys of the file."""
    path = []
    location = error["loc"]
    for i, part in enumerate(location):
        if isinstance(tree, dict) and part not in tree:
            absent = i == len(location) - 1 and error["type"] in ("missing", "extra_forbidden")
            if not absent:
                continue  # a tag
        path.append(part)
        if isinstance(tree, dict):
            tree = tree.get(part)
        elif isinstance(tree, list) and isinstance(part, int) and part < len(tree):
            tree = tree[part]
    return path


def _names(model: Any) -> list[str]:
    """Field names valid where an unknown key was met, through unions."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        return list(model.model_fields)
    return [name for arg in get_args(model) for name in _names(arg)]


def _names_at(location: tuple[Any, ...]) -> list[str]:
    model: Any = Experiment
    for part in location:
        fields = _fields(model)
        if isinstance(part, str) and part in fields:
            model = fields[part]
        elif isinstance(part, str) and (tagged := _tagged(model, part)):
            model = tagged
        elif isinstance(part, int):
            model = get_args(model)[0] if get_args(model) else model
    return _names(model)


def _fields(model: Any) -> dict[str, Any]:
    if isinstance(model, type) and issubclass(model, BaseModel):
        return {k: f.annotation for k, f in model.model_fields.items()}
    return {k: v for arg in get_args(model) for k, v in _fields(arg).items()}


def _tagged(model: Any, tag: str) -> Any:
    if isinstance(model, type) and issubclass(model, BaseModel):
        for key in ("kind", "step"):
            field = model.model_fields.get(key)
            if field is not None and tag in get_args(field.annotation):
                return model
        return None
    return next((m for arg in get_args(model) if (m := _tagged(arg, tag))), None)


def _one_line(error: ValidationError, tree: Any, prefix: str = "", override: Any = None) -> str:
    """The first problem as `key.path: what; nearest valid name`; `prefix` is for keys that an override holds."""
    first = error.errors(include_url=False)[0]
    location = tuple(first["loc"])
    path = _key_path(first, tree)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error" and (own := re.match(r"([a-z_.]+): (.*)", message)):
        path, message = [*path, own[1]], own[2]  # a model's own check names the key inside the model
    key = ".".join(str(p) for p in path)
    if override is not None and _holds(override, ".".join(map(str, path)).split(".")):
        key = prefix + key
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), valid := _names_at(location[:-1]), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else f"; valid names: {', '.join(valid)}"
        what = f"unknown key{hint}"
    elif first["type"] == "missing":
        what = "missing"
    elif first["type"] == "literal_error":
        expected = first["ctx"]["expected"]
        words = re.findall(r"'([^']+)'", expected)
        near = difflib.get_close_matches(str(first["input"]), words, n=1)
        what = f"{first['input']!r} is not one of {expected}" + (f"; did you mean {near[0]!r}?" if near else "")
    elif first["type"] == "union_tag_invalid":
        words = re.findall(r"'([^']+)'", first["ctx"]["expected_tags"])
        near = difflib.get_close_matches(str(first["ctx"]["tag"]), words, n=1)
        what = f"{first['ctx']['tag']!r} is not one of {', '.join(words)}"
        what += f"; did you mean {near[0]!r}?" if near else ""
    else:
        given = first["input"]
        scalar = isinstance(given, str | int | float | bool) or given is None
        what = f"{message} (given: {given!r})" if scalar else message
        what = what[0].lower() + what[1:]
    return f"{key}: {what}" if key else what


def load(path: Path) -> Cell:
    """Read and check one experiment file, at every scale. Raises SpecError with one line."""
    content = read_yaml(path)
    name = "/".join(path.with_suffix("").parts[-2:])

    def checked(model: Any, tree: Any, prefix: str = "", override: Any = None) -> Any:
        try:
            return TypeAdapter(model).validate_python(tree)
        except ValidationError as error:
            raise SpecError(f"{shown(path)}: {_one_line(error, tree, prefix, override)}") from None
        except RecursionError:
            raise SpecError(f"{shown(path)}: nested too deeply") from None

    experiment: Experiment = checked(Experiment, content)
    base = {key: content[key] for key in ("data", "net", "train")}
    scales = {experiment.scale: checked(Settings, base)}

    def overridden(override: dict[str, Any], over: dict[str, Any], prefix: str) -> Any:
        for key in override:
            if key not in base:
                near = difflib.get_close_matches(key, base, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; valid names: {', '.join(base)}"
                raise SpecError(f"{shown(path)}: {prefix}{key}: unknown key{hint}")
        return _merged(over, override)

    mutants = {}
    small = base
    if experiment.small is not None:
        small = overridden(experiment.small, base, "small.")
        scales["small"] = checked(Settings, small, "small.", experiment.small)
    for mutant, override in (experiment.check.mutants if experiment.check else {}).items():
        prefix = f"check.mutants.{mutant}."
        mutants[mutant] = checked(Settings, overridden(override, small, prefix), prefix, override)
    return Cell(name=name, experiment=experiment, scales=scales, mutants=mutants)


def cells(patterns: list[str] | None = None, folder: Path = EXPERIMENTS) -> list[Cell]:
    """All cells, in the files' order, or those whose name is, starts with or matches one of `patterns`."""
    paths = sorted(p for p in folder.glob("*/*.yaml"))
    names = {"/".join(p.with_suffix("").parts[-2:]): p for p in paths}
    if not patterns:
        return [load(p) for p in paths]
    chosen: dict[str, Path] = {}
    for pattern in patterns:
        hits = list(_matching(pattern, names))
        if not hits:
            near = difflib.get_close_matches(pattern, [*names, *{n.split("/")[0] for n in names}], n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise SpecError(f"no cell {pattern!r}{hint} (`reproduce list` shows them)")
        chosen |= {name: names[name] for name in hits}
    return [load(p) for p in chosen.values()]


def _matching(pattern: str, names: dict[str, Path]) -> Iterator[str]:
    pattern = pattern.strip("/").removesuffix(".yaml").removeprefix("experiments/")
    for name in names:
        if name == pattern or name.startswith(f"{pattern}/") or Path(name).match(pattern):
            yield name
