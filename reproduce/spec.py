"""Experiment files: what one cell of the paper is and how to measure it, typed and checked.

`load(path)` reads `experiments/<group>/<name>.yaml`; `Experiment.at("small")` gives the settings of a scale.
Anything wrong is a `SpecError`, one line naming the file, the key and, for a misspelt name, the nearest valid one.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reproduce.yamlfile import ROOT, explain, merged, read_yaml, shown
from reproduce.yamlfile import SpecError as SpecError

Scale = Literal["paper", "short", "small"]
DATASETS = {"mnist": "MNIST", "cifar10": "CIFAR-10", "svhn": "SVHN", "svhn_test10k": "SVHN"}
SPLITS = {
    "mnist": {"train": 50000, "valid": 10000, "test": 10000},
    "cifar10": {"train": 45000, "valid": 5000, "test": 10000},
    "svhn": {"train": 598388, "valid": 6000, "test": 26032},
    "svhn_test10k": {"train": 7000, "valid": 1000, "test": 2000},
}
"""Images of each split, as `data.splits` makes them."""
MAX_WEIGHTS = 2**30  # 4 GiB in float32, and as much again for gradient and each moment
EXPERIMENTS = ROOT / "experiments"

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Magnitude = Annotated[float, Field(ge=1e-9, le=1e6, allow_inf_nan=False)]  # float32 takes it and its square
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10**7)]
Text = Annotated[str, Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


# --- data -----------------------------------------------------------------------------------------------------


class Range(_Strict):
    """Pixels 0..255 onto low..high."""

    step: Literal["range"]
    low: Annotated[int, Field(ge=-1, le=0)]  # not Literal, which takes true for 1
    high: Annotated[int, Field(ge=1, le=1)]


class Standardize(_Strict):
    """(x - mean) / std, two numbers for the whole data set, of the training split."""

    step: Literal["standardize"]


class Center(_Strict):
    """Subtract each pixel's mean over the training split."""

    step: Literal["center"]


class GCN(_Strict):
    """Global contrast normalization of each image, by its norm or (`use_std`) standard deviation."""

    step: Literal["gcn"]
    scale: Annotated[float, Field(ge=1e-3, le=1e3, allow_inf_nan=False)]
    use_std: bool
    sqrt_bias: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class ZCA(_Strict):
    """ZCA whitening fitted on the training split: V (D + bias)^-1/2 Vᵀ (x - mean)."""

    step: Literal["zca"]
    bias: Magnitude


class LCN(_Strict):
    """LeCun's local contrast normalization with a Gaussian window (sigma 2), as one of two libraries has it.

    "dp" (Torch7) divides each channel of an image by one number; "pylearn2" treats the red channel only. The
    formulas: `preprocess.lcn`.
    """

    step: Literal["lcn"]
    as_in: Literal["dp", "pylearn2"]
    kernel: Annotated[int, Field(ge=3, le=31)]
    threshold: Magnitude

    @model_validator(mode="after")
    def _centred(self) -> LCN:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel: {self.kernel} is even, a window has a pixel in its middle")
        return self


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


class Norm(_Strict):
    """Batch norm: `vanilla` (Lasagne's), `std` (BinaryConnect's own), `shift` (the paper's shift-based one).

    `eps` is added to the variance, for `std` to the std. `alpha`: the new batch's weight in the moving averages.
    The formulas: `layers`.
    """

    kind: Literal["vanilla", "std", "shift"]
    eps: Positive
    alpha: Annotated[float, Field(gt=0, le=1)]


Activation = Literal["sign", "stochastic_sign", "relu"]


class _Net(_Strict):
    weights: Literal["binary", "float"]
    activation: Activation
    ste_mask: bool = True
    """Zero the gradient of the sign where |input| > 1; must be named but for relu, which has none."""
    norm: Norm
    output_norm: Norm
    init: Literal["uniform", "uniform_2", "glorot"]
    """Weights uniform on ±1, ±2 or ±sqrt(6 / (fan_in + fan_out))."""
    bias_init: Literal["zero", "uniform"]
    """Biases 0, or uniform on ±1/sqrt(fan_in)."""

    @model_validator(mode="after")
    def _possible(self) -> _Net:
        if self.activation == "relu" and not self.ste_mask:
            raise ValueError("ste_mask: false needs a binary activation, not relu")
        if self.activation != "relu" and "ste_mask" not in self.model_fields_set:
            raise ValueError(f"ste_mask: missing; with {self.activation}, say true or false")
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


def weight_count(net: MLPNet | ConvNet) -> int:
    """Weights of a net's products, without biases and norms: what must fit into memory."""
    if isinstance(net, MLPNet):
        return sum(a * b for a, b in pairwise([784, *net.hidden, 10]))
    convolutions = sum(9 * b * (a + b) for a, b in pairwise([3, *net.channels]))
    side = 32 >> len(net.channels)
    return convolutions + sum(a * b for a, b in pairwise([net.channels[-1] * side * side, *net.dense, 10]))


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


class SGDRule(_Strict):
    kind: Literal["sgd"]


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
    optimizer: Annotated[AdamRule | ShiftAdaMaxRule | SGDRule, Field(discriminator="kind")]
    rate: Annotated[ExponentialRate | HalvingRate, Field(discriminator="kind")]
    weight_rate: Literal["glorot", "glorot_power_of_2", "glorot_squared", "plain"]
    """A layer's multiplier of the update: sqrt((fan_in + fan_out) / 1.5), that rounded to a power of two, its
    square, or 1."""
    bias_rate: Literal["plain", "as_weight"]
    norm_rate: Literal["plain", "glorot_gamma"]
    """BN's gamma and beta: 1, or sqrt(n / 1.5) for every gamma, the output's too (Torch7's MNIST model)."""
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
        if self.data.name == "mnist" and any(step.step == "lcn" for step in self.data.preprocess):
            raise ValueError("data.preprocess: 'lcn' is for images of several channels, mnist's have none")
        for part, there in SPLITS[self.data.name].items():
            if (wanted := getattr(self.data, part)) > there:
                raise ValueError(f"data.{part}: {self.data.name} has {there} such images, not {wanted}")
        if (weights := weight_count(self.net)) > MAX_WEIGHTS:
            raise ValueError(f"net: {weights:.1e} weights, more than {MAX_WEIGHTS:.1e}")
        return self

    def digest(self) -> str:
        """sha256 over the canonical JSON of what is set.

        A field at its default does not count, so that one added later leaves the digest of older runs as it is; a
        default must therefore never be changed. ste_mask always counts: it is older than this rule.
        """
        content = self.model_dump(mode="json", exclude_defaults=True)
        content["net"]["ste_mask"] = self.net.ste_mask
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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
    mutants: dict[Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")], dict[str, Any]]
    """Named overrides: an error planted on purpose, which `make check-small-mutants` trains."""

    @model_validator(mode="after")
    def _apart(self) -> Check:
        if len(set(self.calibration)) != len(self.calibration):
            raise ValueError("calibration: a seed stands twice")
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
    scale: Scale
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
        if DATASETS[self.data.name] != self.dataset:
            raise ValueError(f"dataset: {self.dataset} does not fit data.name {self.data.name}")
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


def load(path: Path) -> Cell:
    """Read and check one experiment file, at every scale. Raises SpecError with one line."""
    content = read_yaml(path)
    name = "/".join(path.with_suffix("").parts[-2:])

    def checked(model: Any, tree: Any, prefix: str = "", override: Any = None) -> Any:
        try:
            return model.model_validate(tree)
        except ValidationError as error:
            raise SpecError(f"{shown(path)}: {explain(error, model, tree, prefix, override)}") from None
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
        if (found := merged(over, override)) == over:
            raise SpecError(f"{shown(path)}: {prefix.rstrip('.')}: changes nothing")
        return found

    mutants = {}
    small = base
    if experiment.small is not None:
        small = overridden(experiment.small, base, "small.")
        scales["small"] = checked(Settings, small, "small.", experiment.small)
        if DATASETS[scales["small"].data.name] != experiment.dataset:
            raise SpecError(f"{shown(path)}: small.data.name: not {experiment.dataset}")
    for mutant, override in (experiment.check.mutants if experiment.check else {}).items():
        prefix = f"check.mutants.{mutant}."
        mutants[mutant] = checked(Settings, overridden(override, small, prefix), prefix, override)
    return Cell(name=name, experiment=experiment, scales=scales, mutants=mutants)


def cells(patterns: list[str] | None = None, folder: Path = EXPERIMENTS) -> list[Cell]:
    """All cells, in the files' order, or those whose name is, starts with or matches one of `patterns`."""
    paths = sorted(p for p in folder.glob("*/*.yaml"))
    if not paths:
        raise SpecError(f"no experiment files in {folder}; `pip install -e .` in a checkout has them")
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
    if not Path(pattern).parts:  # "", "/", "."
        return
    for name in names:
        if name == pattern or name.startswith(f"{pattern}/") or Path(name).match(pattern):
            yield name
