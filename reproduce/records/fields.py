"""Types of fields with their bounds, and base models that allow or drop unknown fields."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

# Upper bounds that no run reaches: larger numbers are not measurements, and would break sums and axes.
MANY = 10**9
Count = Annotated[int, Field(ge=1, le=MANY)]
Wrong = Annotated[int, Field(ge=0, le=MANY)]
Seconds = Annotated[float, Field(ge=0, le=MANY)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Loss = Annotated[float, Field(ge=0, le=3.5e38)]  # the largest float32
Percent = Annotated[float, Field(ge=0, le=100)]
Positive = Annotated[float, Field(ge=1e-12, le=1e12)]
"""Measured seconds, rates and ratios."""
Text = Annotated[str, Field(max_length=10_000)]  # with a maximal length, pydantic also refuses lone surrogates
Name = Annotated[str, Field(min_length=1, max_length=200)]


class Frozen(BaseModel):
    """Unknown fields are an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Known(BaseModel):
    """Unknown fields are dropped."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


class Measured(BaseModel):
    """Unknown fields are kept, and written again."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)


class MachineName(Measured):
    """The part of `machine.machine` that tables show."""

    name: Name


class Revision(Measured):
    """Git revision, and whether the code differed from it."""

    revision: Text | None = None
    dirty: bool | None = None


class Sealed(Measured):
    """The fields that all records have except those of runs."""

    format: Literal[1]
    kind: str
    started: Text
    machine: MachineName
    code: Revision
    path: str = Field(default="", exclude=True)
    """Where the report found it: store, folder and file name."""


def explained(error: ValidationError) -> str:
    """The first problem, in one line."""
    first = error.errors(include_url=False)[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))


def holding(model: type[BaseModel]) -> AfterValidator:
    """A validator: the dict must have the model's fields. It may have others, and stays unchanged."""

    def check(found: dict[str, Any]) -> dict[str, Any]:
        try:
            model.model_validate(found)
        except ValidationError as error:
            raise ValueError(explained(error)) from None
        return found

    return AfterValidator(check)
