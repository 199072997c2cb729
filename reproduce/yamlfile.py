"""YAML files read strictly; each problem is one line: file, key, nearest valid name."""

from __future__ import annotations

import difflib
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from reproduce.registry import Registry

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = (PACKAGE.parent / "experiments").is_dir()
"""Whether this is a checkout; else the package is installed, and holds the experiments."""
ROOT = PACKAGE.parent if CHECKOUT else Path.cwd()
"""Where results lie: the checkout, else the working folder."""
LONGEST = 2**20  # bytes of an experiment file
MOST = 20  # problems of one file that are listed


class SpecError(ValueError):
    """An experiment file that cannot be used; the message has a line for each problem, for who wrote it."""


class _Loader(yaml.SafeLoader):
    """YAML that means one thing: plain words as YAML 1.2 has them (`1e-3` is a number, `no` and `010` are text,
    which no number's key takes); duplicate keys, anchors, merge keys, tags and directives are refused.
    """

    def compose_document(self) -> Any:
        start = self.peek_event()  # type: ignore[no-untyped-call]
        if start.version or start.tags:
            raise SpecError(f"line {start.start_mark.line + 1}: directives are not allowed")
        return super().compose_document()

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if getattr(event, "anchor", None):
            raise SpecError(f"line {line}: anchors and aliases are not allowed")
        if getattr(event, "tag", None):
            raise SpecError(f"line {line}: tags are not allowed")
        return super().compose_node(parent, index)

    def construct_scalar(self, node: Any) -> str:
        text: str = super().construct_scalar(node)
        strange = next((c for c in text if not c.isprintable() and c != "\n"), None)
        if strange is not None:
            raise SpecError(f"line {node.start_mark.line + 1}: character {strange!a} in a text")
        return text

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str) or not key or key != key.strip() or not key.isprintable():
                raise SpecError(f"line {line}: key {short(key)} is not a name")
            if key in seen:
                raise SpecError(f"line {line}: key {short(key)} is given twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


def did_you_mean(given: str, names: Iterable[str], otherwise: str = "", cutoff: float = 0.6) -> str:
    """The end of a message about an unknown name: the nearest valid one, else `otherwise`."""
    near = difflib.get_close_matches(given, names, n=1, cutoff=cutoff)
    return f"; did you mean {near[0]!r}?" if near else otherwise


def short(value: Any) -> str:
    """A value for a message: its repr, all on a line and not over 60 characters."""
    try:
        text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    except ValueError:  # an integer of more than 4,300 digits
        return "a huge number"
    return text if len(text) <= 60 else f"{text[:57]}…"


def whole_file(path: Path, limit: int) -> bytes:
    """The bytes of a regular file. ValueError (without its name) if it is none or has over `limit`; OSError."""
    of_limit(path, limit)
    return path.read_bytes()


def of_limit(path: Path, limit: int) -> None:
    """ValueError (without its name) if the file is not a regular one of up to `limit` bytes; OSError."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("not a regular file")
    if found.st_size > limit:
        raise ValueError(f"{found.st_size:,} bytes, more than the {limit:,} that such a file may have")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. SpecError (one line, naming the file) if it is unreadable or not a mapping."""
    try:
        raw = whole_file(path, LONGEST)
    except OSError as error:
        raise SpecError(f"{shown(path)}: {error.strerror}") from None
    except ValueError as error:
        raise SpecError(f"{shown(path)}: {error}") from None
    try:
        content = yaml.load(raw.decode(encoding="utf-8"), Loader=_Loader)  # a SafeLoader
    except SpecError as error:
        raise SpecError(f"{shown(path)}: {error}") from None
    except (UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SpecError(f"{shown(path)}: not valid YAML: {reason}") from None
    if not isinstance(content, dict):
        raise SpecError(f"{shown(path)}: the top level must be a mapping")
    return content


def shown(path: Path) -> str:
    """The path for a message: relative to the checkout if it lies there."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def merged(base: Any, override: Any) -> Any:
    """Mappings joined key by key; what the override has counts, and a key that it sets to null is removed."""
    if not (isinstance(base, dict) and isinstance(override, dict)):
        return override
    made = {**base, **{k: merged(base[k], v) if k in base else v for k, v in override.items()}}
    return {k: v for k, v in made.items() if v is not None or k not in override}


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


def _fields(model: Any) -> dict[str, Any]:
    """The fields of a model, through unions, each with its type and annotations."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        return {k: Annotated[(f.annotation, *f.metadata, None)] for k, f in model.model_fields.items()}
    return {k: v for arg in get_args(model) for k, v in _fields(arg).items()}


def _names_at(model: Any, tree: Any, location: tuple[Any, ...]) -> list[str]:
    """Field names valid at a location of a model, where `tree` is what was to be read as one."""
    for part in location:
        if isinstance(part, str):
            model = _fields(model).get(part, model)
        else:
            model = next((args[0] for arg in (model, *get_args(model)) if (args := get_args(arg))), model)
        tree = tree[part] if isinstance(tree, list) or (isinstance(tree, dict) and part in tree) else tree
        registry = next((one for one in getattr(model, "__metadata__", ()) if isinstance(one, Registry)), None)
        model = (registry and registry.model(tree)) or model
    return list(_fields(model))


def problems(
    error: ValidationError, model: type[BaseModel], tree: Any, prefix: str = "", override: Any = None
) -> list[str]:
    """Every problem as `key.path: what; nearest valid name`; `prefix` is for keys that an override holds.

    A key that is missing because another is its misspelling is no problem of its own.
    """
    found, meant = [], set()
    for one in error.errors(include_url=False):
        location = tuple(one["loc"])
        path = _key_path(one, tree)
        message = one["msg"].removeprefix("Value error, ")
        if one["type"] == "value_error" and (own := re.match(r"([a-z_.]+): (.*)", message)):
            path, message = [*path, own[1]], own[2]  # a model's own check names the key inside the model
        key = ".".join(str(p) for p in path)
        if override is not None and _holds(override, key.split(".")):
            key = prefix + key
        if one["type"] == "extra_forbidden":
            valid = _names_at(model, tree, location[:-1])
            near = difflib.get_close_matches(str(location[-1]), valid, n=1, cutoff=0.5)
            what = "unknown key" + (
                f"; did you mean {near[0]!r}?" if near else f"; valid names: {', '.join(valid)}"
            )
            meant |= {(*location[:-1], name) for name in near}
        elif one["type"] == "missing":
            what = "missing"
        elif one["type"] == "literal_error":
            what = _no_such(one["input"], one["ctx"]["expected"])
        elif one["type"] == "union_tag_invalid":
            what = _no_such(one["ctx"]["tag"], one["ctx"]["expected_tags"])
        else:
            given = one["input"]
            scalar = isinstance(given, str | int | float | bool) or given is None
            what = f"{message} (given: {short(given)})" if scalar else message
            what = what[0].lower() + what[1:]
        found.append((one["type"], location, f"{key}: {what}" if key else what))
    return [line for kind, location, line in found if kind != "missing" or location not in meant]


def _no_such(given: Any, expected: str) -> str:
    names = re.findall(r"'([^']+)'", expected)
    return f"{short(given)} is not one of {', '.join(names)}{did_you_mean(str(given), names)}"


def refusal(path: Path, found: list[str]) -> SpecError:
    """What is wrong with a file, a line each: misspelt keys first, each problem once, not too many."""
    lines = sorted(dict.fromkeys(found), key=lambda line: ": unknown key" not in line)
    shown_lines = lines[:MOST] + ([f"and {len(lines) - MOST} more problems"] if len(lines) > MOST else [])
    return SpecError("\n".join(f"{shown(path)}: {line}" for line in shown_lines))
