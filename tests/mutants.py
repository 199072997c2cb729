"""Mutants of YAML files, and a reader of YAML that is independent of the project's loader."""

import copy
import functools
import json
import os
import random
import re

import pytest
import yaml

SHORT = 300


FRACTIONS = pytest.mark.parametrize("fraction", [20, pytest.param(1, marks=pytest.mark.exhaustive)])
"""Marker for the fuzz tests: the default run makes a twentieth of the mutants."""


def count(short=SHORT):
    """Number of mutants that a fuzz test makes: FUZZ (`make fuzz N=…`), else few."""
    return int(os.environ.get("FUZZ") or short)


FIGURES = {}


def tell(what, **figures):
    """Prints a fuzz test's figures, and keeps them for the record that `make fuzz RECORD=folder` writes."""
    FIGURES[what] = figures
    print(f"\n{what}: {', '.join(f'{value} {name}' for name, value in figures.items())}")


class Refused(Exception):
    """The document is ambiguous; a loader must report an error."""


def stated(text):
    """What a document says by YAML 1.2's core schema, from PyYAML's syntax tree alone; Refused if ambiguous."""
    try:
        events = list(yaml.parse(text))
        documents = list(yaml.compose_all(text, Loader=yaml.BaseLoader))
    except (yaml.YAMLError, RecursionError) as error:
        raise Refused(str(error)) from None
    for event in events:
        if getattr(event, "anchor", None) or getattr(event, "tag", None):
            raise Refused("anchor or tag")
        if isinstance(event, yaml.DocumentStartEvent) and (event.version or event.tags):
            raise Refused("directive")
    if len(documents) != 1:
        raise Refused("not one document")
    return _value(documents[0])


def _value(node):
    if isinstance(node, yaml.MappingNode):
        keys = [_value(key) for key, _ in node.value]
        named = all(isinstance(key, str) and key and key == key.strip() and key.isprintable() for key in keys)
        if not named or len(set(keys)) < len(keys):
            raise Refused("keys")
        return dict(zip(keys, (_value(value) for _, value in node.value), strict=True))
    if isinstance(node, yaml.SequenceNode):
        return [_value(item) for item in node.value]
    text = node.value
    if any(not c.isprintable() and c != "\n" for c in text):
        raise Refused("strange characters")
    return text if node.style else _plain(text)


def _plain(text):
    words = {"": None, "~": None, "null": None, "true": True, "false": False, ".nan": float("nan")}
    if text in words or text.capitalize() == text or text.upper() == text:
        low = text.lower()
        if low in words:
            return words[low]
    if re.fullmatch(r"[-+]?\.(inf|Inf|INF)", text):
        return float(text.replace(".", ""))
    if re.fullmatch(r"[-+]?(0|[1-9]\d*)", text, re.ASCII):
        return int(text) if len(text) < 4000 else _refuse("too long a number")
    if re.fullmatch(r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?", text, re.ASCII):
        return float(text)
    return text


def _refuse(why):
    raise Refused(why)


# --- making mutants -------------------------------------------------------------------------------------------

ODD = [None, True, False, 0, 1, -1, 2, 3, 10, 100, 0.5, -0.5, 1.5, 1e-300, 1e300, 1e308, 5e-324, 2**31, 2**53 + 1]
ODD += [2**64, 10**30, 10**400, float("inf"), -float("inf"), float("nan"), -0.0, 1.0, 100.0, 1e7, 1e7 + 1, "", " "]
ODD += "1 0 -1 1e-3 0.5 true yes null ~ .nan .inf 0x10 1_000 010 1:30 2001-01-01 sign relu mlp convnet".split()
ODD += "adam binary float mnist cifar10 << MNIST SVHN paper small short é ☃".split()
ODD += ["a\nb", "a: b", "# a", "a" * 5000, "\x1b[31m", "\u202e"]
ODD += [[], {}, [1], [0], [[1]], [None], {"kind": "adam"}, {"a": 1}, [{}], {"": 1}, [1, 2, 3, 4, 5, 6, 7, 8] * 40]
RAW = "1e-3 1E5 1_000 010 0x1F 0o17 1:30 yes no on off NO 2001-01-01 +1 -0".split()
RAW += ["!!int 3", "!!str 3", "!!float 1", "!!python/name:os.system", "!local x", "&a 1", *"*a << = ~ %".split()]
RAW += ["'1'", '"1"', "|\n  1", ">\n  1", *".inf -.INF .nan .NaN 1. .5 1e400".split(), "1" * 5000, "nan", "@"]
RAW += ["[1, 2", "{a: 1", "{a: 1, a: 2}", "[1, 2,]", "'open", "\t1", "a\tb", '"\\ud800"', '"\\0"', '"\\e[31m"']
RAW += ["? x", "- 1", "1 # one", "1#one", "{<<: {a: 1}}", "[" * 400 + "]" * 400, "{a: " * 60 + "1" + "}" * 60]
RAW += ["- - - 1"]
MARKS = ["---", "...", "--- {}", "%YAML 1.1", "<<: {row: x}", "? a", "&x row: y", "*x : 1"]


def paths(tree, at=()):
    """Every place in a tree, as a tuple of keys and indices."""
    found = []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        found += [(*at, key), *paths(value, (*at, key))]
    return found


def at(tree, path):
    for part in path:
        tree = tree[part]
    return tree


def _drop(rng, parent, key):
    del parent[key]


def _rename(rng, parent, key):
    if isinstance(parent, list):
        return _drop(rng, parent, key)
    old = str(key)
    i = rng.randrange(len(old) + 1)
    ways = [old[:i] + old[i + 1 :], old + "x", old.upper(), " " + old, f"{old[:i]}_{old[i:]}", "", "kind"]
    new = rng.choice(ways)
    entries = [(new if k == key else k, v) for k, v in parent.items()]
    parent.clear()
    parent.update(entries)


def _retype(rng, parent, key):
    parent[key] = copy.deepcopy(rng.choice(ODD))


def _as_text(rng, parent, key):
    parent[key] = json.dumps(parent[key])


def _nest(rng, parent, key):
    value = parent[key]
    parent[key] = rng.choice([[value], {str(key): value}, {"value": value}, [value, value], [[value]]])


def _listed(rng, parent, key):
    value = parent[key]
    parent[key] = list(value.values()) if isinstance(value, dict) else {str(i): v for i, v in enumerate([value])}


def _nudge(rng, parent, key):
    value = parent[key]
    if isinstance(value, bool):
        parent[key] = not value
    elif isinstance(value, int | float):
        ways = [value + 1, -value, value * 10, value / 10, value * 1e9, float(value), value // 1]
        parent[key] = rng.choice(ways)
    elif isinstance(value, str) and value:
        parent[key] = value[:-1] if rng.random() < 0.5 else value + "s"


def _copied(rng, parent, key):
    """Puts another part of the tree in this one's place, or beside it under its own name."""
    other = rng.choice(paths(_ROOT[0]))
    value = copy.deepcopy(at(_ROOT[0], other))
    if isinstance(parent, dict) and rng.random() < 0.5:
        parent[str(other[-1])] = value
    else:
        parent[key] = value


_ROOT = [None]
OF_TREES = [_drop, _drop, _rename, _retype, _retype, _as_text, _nest, _listed, _nudge, _nudge, _copied]


_source = functools.cache(stated)  # of few committed files; no mutation changes it


def _of_tree(rng, text):
    _ROOT[0] = _source(text)
    tree = copy.deepcopy(_ROOT[0])
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        places = paths(tree)
        if not places:
            break
        path = rng.choice(places)
        rng.choice(OF_TREES)(rng, at(tree, path[:-1]), path[-1])
    style = rng.choice(["json", "block", "flow"])
    if style == "json":
        return json.dumps(tree).replace("Infinity", ".inf").replace("NaN", ".nan")
    return yaml.safe_dump(tree, default_flow_style=style == "flow", sort_keys=False, allow_unicode=True)


def _of_text(rng, text):
    lines = text.split("\n")
    i = rng.randrange(len(lines))
    line = lines[i]
    kind = rng.randrange(14)
    if kind == 0:
        del lines[i]
    elif kind == 1:
        lines.insert(rng.randrange(len(lines)), line)
    elif kind == 2:
        lines[i] = "\t" + line if rng.random() < 0.5 else line.replace("  ", "\t", 1)
    elif kind == 3:
        lines[i] = " " * rng.choice([1, 2, 4]) + line
    elif kind == 4:
        lines[i] = line.lstrip()
    elif kind in (5, 6, 7) and ":" in line:
        lines[i] = line.split(":", 1)[0] + ": " + rng.choice(RAW)
    elif kind == 8:
        lines.insert(i, rng.choice(MARKS))
    elif kind == 9:
        cut = rng.randrange(len(text) + 1)
        return text[:cut]
    elif kind == 10:
        cut = rng.randrange(len(text))
        return text[:cut] + rng.choice("{}[]:,&*!|>'\"%@`#-?\n\t 0e\x00\x85\u2028\ufeff") + text[cut:]
    elif kind == 11:
        return rng.choice(
            ["", "\n", "---\n", "null", "[]", "{}", "# nothing", f"{text}\n---\n{text}", text + text]
        )
    elif kind == 12:
        return "\ufeff" + text
    else:
        numbers = list(re.finditer(r"\d+(\.\d+)?(e-?\d+)?", text))
        at_ = rng.choice(numbers)
        return text[: at_.start()] + rng.choice(RAW) + text[at_.end() :]
    return "\n".join(lines)


def _spelt(rng, text):
    """A number, true or false in another notation, which may mean the same, another number or a text."""
    found = rng.choice(list(re.finditer(r"(?<=[\s\[])(\d+(\.\d+)?(e-?\d+)?|true|false)(?=[\s,}\]])", text)))
    old = found[0]
    ways = [f'"{old}"', f"'{old}'", f"!!str {old}", f"+{old}", f"-{old}", f"{old}_0", f"{old}.", f"0{old}"]
    ways += [f"0x{old}", f"{old}e0", f"{old}E+0", f"{old}e-3", f"{old}.0e-3", f"0o{old}", f"{old}:00", f"{old} "]
    ways += [f"{old}_", *"yes no on off True FALSE tRUE 1 0 null".split(), old.upper(), f"{old}#", f"{old}: 1"]
    return text[: found.start()] + rng.choice(ways) + text[found.end() :]


def _of_bytes(rng, text):
    raw = bytearray(text.encode())
    i = rng.randrange(len(raw))
    kind = rng.randrange(4)
    if kind == 0:
        raw[i] = rng.randrange(256)
    elif kind == 1:
        raw[i:i] = bytes([rng.choice([0x80, 0xFF, 0xC3, 0xED, 0x00, 0xFE])])
    elif kind == 2:
        return text.encode(rng.choice(["utf-16", "utf-32", "utf-16-be"]))
    else:
        del raw[i : i + rng.randrange(1, 9)]
    return bytes(raw)


def mutant(seed, text):
    """The bytes of one mutant of a YAML file's text; the same for the same seed."""
    rng = random.Random(seed)
    kind = rng.random()
    if kind < 0.5:
        return _of_tree(rng, text).encode("utf-8", "surrogatepass")
    if kind < 0.7:
        return _spelt(rng, text).encode()
    return _of_text(rng, text).encode() if kind < 0.9 else _of_bytes(rng, text)
