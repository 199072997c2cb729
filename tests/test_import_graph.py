"""The packages' structure, from the parsed sources: no import cycle, no full folder, no name used twice.

Imports inside functions and those for type checkers count like all others. A module that imports `a.b.c` also runs
`a/b/__init__.py`, and depends on it unless it is in `a.b` itself.
"""

import ast
from collections import Counter

import pytest

from reproduce import yamlfile

PACKAGES = ("reproduce", "kernels")
SUFFIXES = (".py", ".c", ".h", ".cu", ".cuh")
MOST_FILES = 15  # of modules in a folder, not counting `__init__.py`


def modules(root):
    """The modules of the packages in `root`: name -> file."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name, path, known):
    """The modules of the packages that a module imports anywhere in its source."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    targets = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            folder = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{folder}.{alias.name}"
                targets.add(inner if inner in known else folder)
    targets &= set(known)
    for target in list(targets):
        while target := target.rpartition(".")[0]:
            if package[: target.count(".") + 1] != target.split("."):
                targets.add(target)
    return targets - {name}


def cycle(root):
    """Modules of which each imports the next, and the last imports the first; empty if there are none."""
    known = modules(root)
    graph = {name: imports(name, path, known) for name, path in known.items()}
    done = set()

    def search(name, way):
        if name in way:
            return way[way.index(name) :]
        if name in done:
            return []
        for target in sorted(graph[name]):
            if found := search(target, [*way, name]):
                return found
        done.add(name)
        return []

    return next((found for name in graph if (found := search(name, []))), [])


def test_there_is_no_import_cycle():
    assert cycle(yamlfile.ROOT) == []


@pytest.mark.parametrize(
    "back",
    ["from kernels import a", "def f():\n    from kernels.a import X", "import kernels.a", "from . import a"],
)
def test_a_cycle_is_found_wherever_its_import_is(tmp_path, back):
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "kernels" / "a.py").write_text("from kernels import b\n\nX = b.Y\n")
    (tmp_path / "kernels" / "b.py").write_text("Y = 1\n")
    assert cycle(tmp_path) == []
    (tmp_path / "kernels" / "b.py").write_text(f"Y = 1\n{back}\n")
    assert set(cycle(tmp_path)) == {"kernels.a", "kernels.b"}


def test_no_folder_has_too_many_files_and_no_two_files_of_reproduce_share_a_name():
    """A command's file is named as the command."""
    sources = [p for package in PACKAGES for p in (yamlfile.ROOT / package).rglob("*") if p.suffix in SUFFIXES]
    paths = [p for p in sources if p.name != "__init__.py"]
    crowded = {folder.name for folder, n in Counter(p.parent for p in paths).items() if n > MOST_FILES}
    assert not crowded
    of_reproduce = (p for p in paths if p.is_relative_to(yamlfile.ROOT / "reproduce"))
    names = Counter(p.name for p in of_reproduce if p.parent.name != "cli")
    assert not [name for name, n in names.items() if n > 1]
