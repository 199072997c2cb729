"""Types of fields with their bounds, and base models that allow or drop unknown fields."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Percent = Annotated[float, Field(ge=0, le=100)]


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

    name: str


class Revision(Measured):
    """Git revision, and whether the code differed from it."""

    revision: str | None = None
    dirty: bool | None = None


class Sealed(Measured):
    """The fields that all records have except those of runs."""

    format: Literal[1]
    kind: str
    started: str
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
