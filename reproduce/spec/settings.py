"""A run's settings: everything in an experiment file that decides numbers, typed and checked.

What can be named in them is registered here with its schema (`Registry`); the code behind a name is added where it
stands, in `nets` and `training` for the project's own, in a module given by --use for others.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reproduce import shapes
from reproduce.datasets import DATASETS
from reproduce.datasets.description import Description
from reproduce.registry import Registry, one_of
from reproduce.shapes import Image as Image
from reproduce.shapes import Layer as Layer

Scale = Literal["paper", "short", "small"]
MAX_WEIGHTS = 2**30  # 4 GiB in float32, and as much again for gradient and each moment

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Magnitude = Annotated[float, Field(ge=1e-9, le=1e6, allow_inf_nan=False)]  # float32 takes it and its square
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10**7)]
Text = Annotated[str, Field(min_length=1)]


class Strict(BaseModel):
    """Base of all settings: immutable; an unknown key, or text in place of a number, is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


NETS = Registry("net")
ACTIVATIONS = Registry("activation", names=("sign", "stochastic_sign", "sign_with_zero", "relu"))
WEIGHTS = Registry("weight binarizer", names=("binary", "float"))
NORMS = Registry("norm", names=("vanilla", "std", "shift"))
OPTIMIZERS = Registry("optimizer")
RATES = Registry("rate")
LOSSES = Registry("loss", names=("squared_hinge",))
PREPROCESSING = Registry("preprocessing step", tag="step")


# --- data -----------------------------------------------------------------------------------------------------


class PreprocessingStep(Strict):
    """The settings of a preprocessing step. Its code is in `training.preprocess`."""

    step: str
    keeps_bytes: ClassVar[bool] = False
    """Whether `prepare` keeps 8-bit pixels after it, with a scale and a shift. True for own affine steps only."""


@PREPROCESSING.schema
class Range(PreprocessingStep):
    """Pixels 0..255 onto low..high."""

    step: Literal["range"]
    keeps_bytes: ClassVar[bool] = True
    low: Annotated[int, Field(ge=-1, le=0)]  # not Literal, which takes true for 1
    high: Annotated[int, Field(ge=1, le=1)]


@PREPROCESSING.schema
class Standardize(PreprocessingStep):
    """(x - mean) / std, two numbers for the whole data set, of the training split."""

    step: Literal["standardize"]
    keeps_bytes: ClassVar[bool] = True


@PREPROCESSING.schema
class Center(PreprocessingStep):
    """Subtract each pixel's mean over the training split."""

    step: Literal["center"]
    keeps_bytes: ClassVar[bool] = True


@PREPROCESSING.schema
class GCN(PreprocessingStep):
    """Global contrast normalization of each image, by its norm or (`use_std`) standard deviation."""

    step: Literal["gcn"]
    scale: Annotated[float, Field(ge=1e-3, le=1e3, allow_inf_nan=False)]
    use_std: bool
    sqrt_bias: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


@PREPROCESSING.schema
class ZCA(PreprocessingStep):
    """ZCA whitening fitted on the training split: V (D + bias)^-1/2 Vᵀ (x - mean)."""

    step: Literal["zca"]
    bias: Magnitude


@PREPROCESSING.schema
class LCN(PreprocessingStep):
    """LeCun's local contrast normalization with a Gaussian window (sigma 2), as in one of two libraries.

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


@PREPROCESSING.schema
class Threshold(PreprocessingStep):
    """Pixels onto ±1: +1 from `at` on, which is in the unit of the steps before."""

    step: Literal["threshold"]
    at: Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]


@PREPROCESSING.schema
class DivideByMax(PreprocessingStep):
    """Divide each split by its own largest value."""

    step: Literal["divide_by_max"]


class Data(Strict):
    name: Annotated[str, one_of(DATASETS)]
    train: Count
    valid: Count
    test: Count
    preprocess: Annotated[list[Annotated[PreprocessingStep, *PREPROCESSING.tagged]], Field(min_length=1)]
    drop_incomplete: bool
    """Leave the last, incomplete batch out, in training and in evaluation (the Theano code does)."""

    @model_validator(mode="after")
    def _range_first(self) -> Data:
        kinds = [s.step for s in self.preprocess]
        if kinds[0] != "range" or "range" in kinds[1:]:
            raise ValueError("preprocess: the first step, and only the first, must be 'range'")
        return self


# --- net ------------------------------------------------------------------------------------------------------


class Norm(Strict):
    """Batch norm: `vanilla` (Lasagne's), `std` (BinaryConnect's own), `shift` (the paper's shift-based one).

    `eps` is added to the variance, for `std` to the std. `alpha`: the new batch's weight in the moving averages.
    The formulas: `layers`.
    """

    kind: Annotated[str, NORMS.named]
    eps: Positive
    alpha: Annotated[float, Field(gt=0, le=1)]


class Net(Strict):
    """The settings of a net. Its code is in `nets`, or in a module given by --use."""

    kind: str
    flat: ClassVar[bool] = False
    """Whether images come as rows of pixels, not as planes."""

    def layers(self, image: Image, classes: int) -> list[Layer]:
        """The net's layers, first to last. Without this list the time left is only a rough estimate."""
        return []

    def unfit(self, image: Image) -> str | None:
        """Why the net cannot take images of this shape, as `key: reason`; None if it can."""
        return None


class PaperNet(Net):
    """The settings that the paper's two nets share."""

    weights: Annotated[str, WEIGHTS.named]
    first_weights: Literal["as_others", "float"] = "as_others"
    """`float`: the first layer's weights are neither binarized nor clipped."""
    activation: Annotated[str, ACTIVATIONS.named]
    ste_mask: bool = True
    """Zero the gradient of the sign where |input| > 1; must be named but for relu, which has none."""
    norm: Norm
    output_norm: Norm
    init: Literal["uniform", "uniform_2", "glorot"]
    """Weights uniform on ±1, ±2 or ±sqrt(6 / (fan_in + fan_out))."""
    bias_init: Literal["zero", "uniform"]
    """Biases 0, or uniform on ±1/sqrt(fan_in)."""

    @model_validator(mode="after")
    def _possible(self) -> PaperNet:
        if self.activation == "relu" and not self.ste_mask:
            raise ValueError("ste_mask: false needs a binary activation, not relu")
        if self.activation != "relu" and "ste_mask" not in self.model_fields_set:
            raise ValueError(f"ste_mask: missing; with {self.activation}, say true or false")
        return self


@NETS.schema
class MLPNet(PaperNet):
    kind: Literal["mlp"]
    hidden: Annotated[list[Count], Field(min_length=1, max_length=16)]
    dropout_in: Fraction
    dropout_hidden: Fraction
    flat: ClassVar[bool] = True

    def layers(self, image: Image, classes: int) -> list[Layer]:
        return shapes.mlp(image, self.hidden, classes)


@NETS.schema
class ConvNet(PaperNet):
    kind: Literal["convnet"]
    channels: Annotated[list[Count], Field(min_length=1, max_length=3)]
    """Channels of each stage: two 3×3 convolutions, then a 2×2 max pooling."""
    border: Literal[0, 1] = 0
    """The padding of convolutions of activations, 0 or 1; the first one, of pixels, is padded with zeros."""
    dense: Annotated[list[Count], Field(min_length=1, max_length=8)]

    def layers(self, image: Image, classes: int) -> list[Layer]:
        return shapes.convnet(image, self.channels, self.dense, classes)

    def unfit(self, image: Image) -> str | None:
        height, width, _ = image
        if height % 2 ** len(self.channels) or width % 2 ** len(self.channels):
            return f"channels: {len(self.channels)} stages cannot halve images of {height}×{width} pixels each"
        return None


# --- training -------------------------------------------------------------------------------------------------


class Optimizer(Strict):
    """The settings of an update rule. Its code is in `training.optim`, or in a module given by --use."""

    kind: str


@OPTIMIZERS.schema
class AdamRule(Optimizer):
    kind: Literal["adam"]
    beta1: Fraction
    beta2: Fraction
    eps: Positive


@OPTIMIZERS.schema
class ShiftAdaMaxRule(Optimizer):
    kind: Literal["shift_adamax"]
    beta1: Fraction
    beta2: Fraction
    eps: Positive
    decays: bool = False
    """Whether v decays, as the paper prints the rule, or never falls, as in the authors' code."""


@OPTIMIZERS.schema
class SGDRule(Optimizer):
    kind: Literal["sgd"]


class Rate(Strict):
    """The settings of a schedule of the learning rate. Its code is in `training.optim`."""

    kind: str


@RATES.schema
class ExponentialRate(Rate):
    kind: Literal["exponential"]
    start: Positive
    end: Positive

    @model_validator(mode="after")
    def _falls(self) -> ExponentialRate:
        if self.end > self.start:
            raise ValueError("end: the rate must not rise")
        return self


@RATES.schema
class HalvingRate(Rate):
    kind: Literal["halving"]
    start: Positive
    every: Count


class Train(Strict):
    optimizer: Annotated[Optimizer, *OPTIMIZERS.tagged]
    rate: Annotated[Rate, *RATES.tagged]
    weight_rate: Literal["glorot", "glorot_power_of_2", "glorot_squared", "plain"]
    """A layer's multiplier of the update: sqrt((fan_in + fan_out) / 1.5), that rounded to a power of two, its
    square, or 1."""
    bias_rate: Literal["plain", "as_weight"]
    norm_rate: Literal["plain", "glorot_gamma"]
    """BN's gamma and beta: 1, or sqrt(n / 1.5) for every gamma, the output's too (Torch7's MNIST model)."""
    clip: Literal["none", "weights", "all"]
    batch: Count
    epochs: Count
    loss: Annotated[str, LOSSES.named] = "squared_hinge"


class Settings(Strict):
    """All settings that decide a run's numbers, except the seed."""

    data: Data
    net: Annotated[Net, *NETS.tagged]
    train: Train

    @property
    def dataset(self) -> Description:
        """The description of the data set."""
        return DATASETS[self.data.name]

    def layers(self) -> list[Layer]:
        """The net's products, first to last."""
        return self.net.layers(self.dataset.planes, self.dataset.classes)

    @property
    def macs(self) -> int:
        """Multiply-adds of one image's forward pass; 0 where the net does not tell its layers."""
        return sum(layer.macs for layer in self.layers())

    @model_validator(mode="after")
    def _possible(self) -> Settings:
        if self.train.batch > min(self.data.train, self.data.valid, self.data.test):
            raise ValueError("train.batch: larger than a data split")
        if unfit := self.net.unfit(self.dataset.planes):
            raise ValueError(f"net.{unfit}")
        if len(self.dataset.image) == 2 and any(step.step == "lcn" for step in self.data.preprocess):
            raise ValueError(f"data.preprocess: 'lcn' is for images of several channels, not {self.data.name}'s")
        for part, there in self.dataset.splits.items():
            if (wanted := getattr(self.data, part)) > there:
                raise ValueError(f"data.{part}: {self.data.name} has {there} such images, not {wanted}")
        if (weights := sum(layer.weights for layer in self.layers())) > MAX_WEIGHTS:
            raise ValueError(f"net: {weights:.1e} weights, more than {MAX_WEIGHTS:.1e}")
        return self

    def digest(self) -> str:
        """sha256 over the canonical JSON of what is set.

        A field at its default does not count, so that one added later leaves the digest of older runs as it is; a
        default must therefore never be changed. ste_mask always counts: it is older than this rule.
        """
        content = self.model_dump(mode="json", exclude_defaults=True)
        if isinstance(self.net, PaperNet):
            content["net"]["ste_mask"] = self.net.ste_mask
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
