"""Registries of what experiment files may name (nets, optimizers, …): from a name to its schema and code.

The settings' schema is made of what is registered: `Registry.tagged` reads a mapping whose tag (`kind: adam`) says
which schema it has, `Registry.named` a bare name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, PlainValidator, SerializeAsAny, ValidationError
from pydantic_core import InitErrorDetails, PydanticKnownError

T = TypeVar("T")


class Registry:
    """Things of one kind by name. `tag` is the key by which a mapping in an experiment file names one of them.

    The names and schemas of the project's own things are given without their code, so that a file can be checked
    before torch is imported; the modules that hold the code add it.
    """

    def __init__(self, what: str, tag: str = "kind", names: tuple[str, ...] = ()) -> None:
        self.what, self.tag = what, tag
        self.schemas: dict[str, type[BaseModel] | None] = dict.fromkeys(names)
        self._made: dict[str, Any] = {}

    def schema(self, model: type[T]) -> type[T]:
        """Class decorator: a schema whose tag field is a Literal of one name."""
        self._new(self._name(model), model)
        return model

    def add(self, what: str | type[BaseModel]) -> Callable[[T], T]:
        """Decorator for the code of a name, or of a schema, which is registered with it.

        ValueError if the name is taken by another schema or other code.
        """
        name = what if isinstance(what, str) else self._name(what)
        self._new(name, None if isinstance(what, str) else what)

        def keep(made: T) -> T:
            if name in self._made:
                raise ValueError(f"{self.what} {name!r} is registered already")
            self._made[name] = made
            return made

        return keep

    def __getitem__(self, name: str) -> Any:
        """The code of a name that a checked file holds."""
        return self._made[name]

    def _name(self, model: Any) -> str:
        (name,) = get_args(model.model_fields[self.tag].annotation)
        return str(name)

    def _new(self, name: str, model: Any) -> None:
        known = self.schemas.setdefault(name, model)
        if known is not model:
            raise ValueError(f"{self.what} {name!r} is registered already, with another schema")

    # --- as types of fields ---

    @property
    def tagged(self) -> tuple[Any, ...]:
        """Annotations of a field that holds a registered schema: `Annotated[Base, *REGISTRY.tagged]`."""
        return (SerializeAsAny(), PlainValidator(self._parsed), self)  # type: ignore[type-arg]

    @property
    def named(self) -> BeforeValidator:
        """Annotation of a field that holds a registered name: `Annotated[str, REGISTRY.named]`."""
        return one_of(self.schemas)

    def _parsed(self, value: Any) -> Any:
        if isinstance(value, BaseModel):
            return value
        if not isinstance(value, dict):
            raise PydanticKnownError("dict_type")
        if self.tag not in value:
            raise _at(self.tag, value, "missing")
        if (model := self.model(value)) is None:
            found: dict[str, Any] = {"discriminator": f"'{self.tag}'", "tag": str(value[self.tag])}
            raise PydanticKnownError("union_tag_invalid", found | {"expected_tags": _listed(self.schemas)})
        return model.model_validate(value)

    def model(self, value: Any) -> type[BaseModel] | None:
        """The schema that a mapping names, if it is one."""
        tag = value.get(self.tag) if isinstance(value, dict) else None
        return self.schemas.get(tag) if isinstance(tag, str) else None


def one_of(names: Mapping[str, Any]) -> BeforeValidator:
    """Annotation of a field that holds one of these names, of those there are when a file is checked."""

    def known(value: Any) -> Any:
        if not isinstance(value, str) or value not in names:
            raise PydanticKnownError("literal_error", {"expected": _listed(names)})
        return value

    return BeforeValidator(known)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _at(key: str, value: Any, kind: str) -> ValidationError:
    return ValidationError.from_exception_data("settings", [InitErrorDetails(type=kind, loc=(key,), input=value)])
