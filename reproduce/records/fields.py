"""What the fields of several records have in common: bounds, and models that may hold more than is read."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

# Upper bounds that no run reaches: what is above is no measurement, and would break sums and axes.
MANY = 10**9
Count = Annotated[int, Field(ge=1, le=MANY)]
Wrong = Annotated[int, Field(ge=0, le=MANY)]
Seconds = Annotated[float, Field(ge=0, le=MANY)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Loss = Annotated[float, Field(ge=0, le=3.5e38)]  # the largest float32
Percent = Annotated[float, Field(ge=0, le=100)]
Positive = Annotated[float, Field(ge=1e-12, le=1e12)]
"""Measured seconds, rates and ratios."""
Text = Annotated[str, Field(max_length=10_000)]  # with a length, half characters (lone surrogates) are refused
Name = Annotated[str, Field(min_length=1, max_length=200)]


class Frozen(BaseModel):
    """All fields are known."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Known(BaseModel):
    """The fields that are read; others are dropped."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


class Measured(BaseModel):
    """The fields that are read; others are kept and written again."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)


class MachineName(Measured):
    """The part of `machine.machine` that tables show."""

    name: Name


class Revision(Measured):
    """Git revision, and whether the code differed from it."""

    revision: Text | None = None
    dirty: bool | None = None


class Sealed(Measured):
    """What every record but those of runs begins with."""

    format: Literal[1]
    kind: str
    started: Text
    machine: MachineName
    code: Revision
    path: str = Field(default="", exclude=True)
    """Where the report found it: store, folder and file name."""


def explained(error: ValidationError) -> str:
    """The first thing that is wrong, in one line."""
    first = error.errors(include_url=False)[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))


def holding(model: type[BaseModel]) -> AfterValidator:
    """A check that an open dict holds what the model wants; the dict stays as it is."""

    def check(found: dict[str, Any]) -> dict[str, Any]:
        try:
            model.model_validate(found)
        except ValidationError as error:
            raise ValueError(explained(error)) from None
        return found

    return AfterValidator(check)
