"""The paper's numbers, from `experiments/paper.yaml`. SpecError, one line, if the file is not complete."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reproduce import spec, yamlfile
from reproduce.spec import Text
from reproduce.yamlfile import SpecError

Number = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
More = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Dataset = Literal["MNIST", "SVHN", "CIFAR-10"]
Version = Literal["arXiv", "NIPS"]
Operation = Literal["8-bit integer", "32-bit integer", "16-bit float", "32-bit float"]
Memory = Literal["8K", "32K", "1M", "DRAM"]
Curve = Literal["baseline (the same net in 32-bit float)", "BNN (Theano)", "BNN (Torch7)"]
Bar = Literal[
    "product of two 8192×8192 matrices", "MNIST MLP on the 10,000 test images", "test error of that MLP"
]  # as benchmarks and figures call them


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Error(_Strict):
    value: Percent
    plus_minus: More


class _Row(_Strict):
    row: Text
    cites: Text | None = None
    group: Text
    versions: Annotated[list[Version], Field(min_length=1)]
    error: Annotated[dict[Dataset, Percent | _Error], Field(min_length=1)]


class _Table1(_Strict):
    where: Text
    unit: Text
    protocol: Text
    rows: Annotated[list[_Row], Field(min_length=1)]

    @model_validator(mode="after")
    def _once(self) -> _Table1:
        _apart([r.row for r in self.rows])
        return self


class _Energy(_Strict):
    operation: Operation
    multiply: More
    add: More


class _Table2(_Strict):
    where: Text
    unit: Text
    rows: list[_Energy]

    @model_validator(mode="after")
    def _whole(self) -> _Table2:
        _all([r.operation for r in self.rows], Operation)
        return self


class _Access(_Strict):
    memory: Memory
    low: More
    high: More


class _Table3(_Strict):
    where: Text
    unit: Text
    rows: list[_Access]

    @model_validator(mode="after")
    def _whole(self) -> _Table3:
        _all([r.memory for r in self.rows], Memory)
        return self


class _Curve(_Strict):
    curve: Curve
    low: list[Percent | None]
    high: list[Percent | None]


class _Figure1(_Strict):
    where: Text
    unit: Text
    read: Text
    plus_minus: More
    clipped_at: Percent
    epochs: Annotated[list[spec.Count], Field(min_length=1)]
    curves: list[_Curve]

    @model_validator(mode="after")
    def _whole(self) -> _Figure1:
        _all([c.curve for c in self.curves], Curve, "curves")
        if any(len(edge) != len(self.epochs) for c in self.curves for edge in (c.low, c.high)):
            raise ValueError("curves: not one low and one high for each of the epochs")
        return self


class _Bar(_Strict):
    what: Bar
    unit: Literal["seconds", "percent"]
    read: Text
    plus_minus: Number | None = None
    baseline: More
    cublas: More
    xnor: More

    @model_validator(mode="after")
    def _error(self) -> _Bar:
        if self.unit == "seconds" and self.plus_minus is None:
            raise ValueError("plus_minus: missing; seconds are read off a picture")
        if (self.unit == "percent") != self.what.startswith("test error"):
            raise ValueError(f"unit: {self.what} is not in {self.unit}")
        return self


class _Figure3(_Strict):
    where: Text
    bars: list[_Bar]

    @model_validator(mode="after")
    def _whole(self) -> _Figure3:
        _all([b.what for b in self.bars], Bar, "bars")
        return self


class _Claim(_Strict):
    id: Text
    claim: Text
    value: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    unit: Text
    where: Text


class _FirstEpoch(_Strict):
    train_loss: More
    valid_loss: More
    valid_error: Percent


class _Log(_Strict):
    where: Text
    mnist_epoch_1: _FirstEpoch


class Paper(_Strict):
    """The whole file. It has every name that a figure or table looks up, and none twice."""

    title: Text
    arxiv: Text
    table1: _Table1
    table2: _Table2
    table3: _Table3
    figure1: _Figure1
    figure3: _Figure3
    claims: list[_Claim]
    author_log: _Log

    @model_validator(mode="after")
    def _judged(self) -> Paper:
        _apart([c.id for c in self.claims], "claims")
        if not any(c.id == "unique filters" and c.value is not None for c in self.claims):
            raise ValueError("claims: no 'unique filters' with a value")
        return self


def _apart(names: list[Any], key: str = "rows") -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{key}: {yamlfile.short(twice)} is given twice")


def _all(names: list[Any], wanted: Any, key: str = "rows") -> None:
    """Every name that is looked up, once each."""
    _apart(names, key)
    absent = [name for name in get_args(wanted) if name not in names]
    if absent:
        raise ValueError(f"{key}: no {absent[0]!r}")


def read(path: Path = spec.EXPERIMENTS / "paper.yaml") -> dict[str, Any]:
    """The file's content as it stands, once it is known to be whole."""
    content = yamlfile.read_yaml(path)
    try:
        Paper.model_validate(content)
    except ValidationError as error:
        raise yamlfile.refusal(path, yamlfile.problems(error, Paper, content)) from None
    except RecursionError:
        raise SpecError(f"{yamlfile.shown(path)}: nested too deeply") from None
    return content
