"""The digest of the code that makes a run's numbers, taken from the parsed code: one for each kind of device.

In it are all modules under `reproduce/training`, every module of this project that they import, directly or not,
and the sources of the compiled kernels. Report, commands, campaigns and benchmarks are not.

- Comments, docstrings and layout do not count, in Python, C or CUDA.
- File names and paths do not count: an import of a module of this project stands for that module's content.
- `reproduce.spec` is left out: it only describes settings, and their values have a digest of their own.
- A CPU run's digest leaves out `cuda` folders and CUDA sources. A GPU run's leaves out C sources, and holds of
  `kernels` only the `cuda` folder and what that imports: the rest computes on arrays of the host.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

Device = Literal["cpu", "cuda"]
ROOT = Path(__file__).parents[1]
PACKAGES = ("reproduce", "kernels")
BEGIN = "reproduce/training"
LEFT_OUT = "reproduce.spec"
SOURCES: dict[Device, tuple[str, ...]] = {"cpu": (".c", ".h"), "cuda": (".cu", ".cuh")}


class _Module(NamedTuple):
    """A module's canonical code, and its imports of own modules as in `_own_imports`."""

    code: str
    imports: tuple[tuple[Path, str, str], ...]


def digest(device: Device, root: Path = ROOT) -> str:
    """sha256 of the training code for a kind of device; `root` is the folder that holds the packages."""
    modules = _modules(device, root)
    own = {path: _sha(module.code) for path, module in modules.items()}
    contents = [_sha(_source(path)) for path in _sources(device, root)]
    for path, module in modules.items():
        if module.imports or module.code not in _NOTHING:
            names = sorted((own.get(target, ""), name, bound) for target, name, bound in module.imports)
            contents.append(f"{own[path]} {names}")
    return _sha("\n".join(sorted(contents)))


def _modules(device: Device, root: Path) -> dict[Path, _Module]:
    found: dict[Path, _Module] = {}
    todo = list((root / BEGIN).rglob("*.py"))
    while todo:
        path = todo.pop()
        if path not in found and _belongs(path, device, root):
            text = path.read_text()
            found[path] = _Module(canonical_python(text), tuple(_own_imports(text, path, root)))
            todo += [target for target, _, _ in found[path].imports if _followed(path, target, device, root)]
    return found


def _sources(device: Device, root: Path) -> list[Path]:
    return [path for path in (root / "kernels").rglob("*") if path.suffix in SOURCES[device]]


def _belongs(path: Path, device: Device, root: Path) -> bool:
    parts = path.relative_to(root).with_suffix("").parts
    return not f"{'.'.join(parts)}.".startswith(f"{LEFT_OUT}.") and (device == "cuda" or "cuda" not in parts)


def _followed(path: Path, target: Path, device: Device, root: Path) -> bool:
    """Whether an import leads on: a GPU run enters `kernels` by its `cuda` folder only."""
    here, there = path.relative_to(root).parts, target.relative_to(root).parts
    return device == "cpu" or there[0] != "kernels" or "cuda" in there or here[0] == "kernels"


# --- Python ---------------------------------------------------------------------------------------------------


def canonical_python(text: str) -> str:
    """The code without comments, docstrings, layout and imports of the project's own modules.

    The same text with every version of Python: what a version adds to the tree is left out where it is empty.
    """
    return repr(_plain(_Stripped().visit(ast.parse(text))))


def module_digest(text: str) -> str:
    """sha256 of a module from elsewhere: its canonical code, and what it imports from this project."""
    names = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            source = "" if isinstance(node, ast.Import) else node.module or ""
            names += [(source, alias.name, alias.asname or alias.name) for alias in node.names]
    own = sorted(name for name in names if (name[0] or name[1]).split(".")[0] in PACKAGES)
    return _sha(f"{canonical_python(text)} {own}")


class _Stripped(ast.NodeTransformer):
    """Without docstrings (any constant that stands as a statement) and imports of own modules."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> ast.AST | None:
        names = [alias for alias in node.names if alias.name.split(".")[0] not in PACKAGES]
        return ast.Import(names) if names else None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        own = node.level > 0 or (node.module or "").split(".")[0] in PACKAGES
        return None if own else node


def _plain(node: Any) -> Any:
    """A tree as tuples, lists and constants, without positions."""
    if isinstance(node, ast.Constant):
        return ("Constant", type(node.value).__name__, repr(node.value))
    if isinstance(node, ast.JoinedStr):  # Python 3.12.1 adds empty strings
        node = ast.JoinedStr([part for part in node.values if getattr(part, "value", None) != ""])
    if isinstance(node, ast.AST):
        fields = [(name, getattr(node, name, None)) for name in node._fields if name not in ("ctx", "kind")]
        return (type(node).__name__, *((name, _plain(value)) for name, value in fields if value not in (None, [])))
    return [_plain(part) for part in node] if isinstance(node, list) else node


_NOTHING = [canonical_python(text) for text in ("", "from __future__ import annotations")]


def _own_imports(text: str, path: Path, root: Path) -> Iterator[tuple[Path, str, str]]:
    """For each name imported from the project: the module's file, the name there ("" for all), the name here."""
    package = path.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                for count in range(1, len(parts) + 1):  # `import a.b` makes both known
                    if (target := _module(parts[:count], root)) is not None:
                        yield target, "", alias.asname or alias.name
        elif isinstance(node, ast.ImportFrom):
            above = list(package[: len(package) - node.level + 1]) if node.level else []
            folder = [*above, *filter(None, (node.module or "").split("."))]
            for alias in node.names:
                bound = alias.asname or alias.name
                if (target := _module([*folder, alias.name], root)) is not None:
                    yield target, "", bound
                elif (target := _module(folder, root)) is not None:
                    yield target, alias.name, bound


def _module(name: list[str], root: Path) -> Path | None:
    """The file of a module of the project, by the parts of its name."""
    if name[0] not in PACKAGES:
        return None
    base = root.joinpath(*name)
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


# --- C and CUDA -----------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r'"(?:\\.|[^"\\\n])*"'  # a string,
    r"|'(?:\\.|[^'\\\n])+'"  # a character,
    r"|[A-Za-z_]\w*"  # a name,
    r"|\.?\d(?:[eEpP][+-]|[\w.])*"  # a number,
    r"|<<=|>>=|\.\.\.|->|\+\+|--|<<|>>|[<>=!]=|&&|\|\||[-+*/%&|^]=|::|##"  # an operator of several characters
    r"|\S"
)
_QUOTED = r"""("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])+')"""
_COMMENT = re.compile(_QUOTED + r"|/\*.*?\*/|//[^\n]*", re.DOTALL)
_BLANKS = re.compile(_QUOTED + r"|\s+")


def canonical_c(text: str) -> str:
    """C or CUDA source without comments and layout: its tokens, and each preprocessor line as a line.

    In a preprocessor line blanks count, but not how many: `#define F(x)` and `#define F (x)` differ. Names of own
    headers do not count.
    """
    text = _COMMENT.sub(lambda found: found[1] or " ", text.replace("\\\n", " "))
    lines: list[str] = []
    words: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            directive = re.sub(r"^# ", "#", _BLANKS.sub(lambda found: found[1] or " ", line.strip()))
            directive = re.sub(r'^(#include) ".*"$', r"\1", directive)
            lines += [" ".join(words), directive]
            words = []
        else:
            words += _TOKEN.findall(line)
    return "\n".join(filter(None, [*lines, " ".join(words)]))


def _source(path: Path) -> str:
    """The canonical text of a source, with the digest of each own header that it includes."""
    text = path.read_text()
    named = (path.parent / name for name in re.findall(r'^\s*#\s*include\s*"(.*)"', text, re.MULTILINE))
    headers = [_sha(canonical_c(header.read_text())) for header in named if header.is_file()]
    return "\n".join([canonical_c(text), *headers])


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
