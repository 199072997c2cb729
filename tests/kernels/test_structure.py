"""No module uses a private name of another. Import cycles and folders: `tests/test_import_graph.py`."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "kernels"
FILES = sorted(PACKAGE.rglob("*.py"))


def private(text):
    """Private names of other modules of this package that a source imports, or reads from its imports."""
    bound = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            for alias in node.names:
                own = (module or alias.name).split(".")[0] in ("kernels", "reproduce")
                if own and alias.name.startswith("_"):
                    yield f"{module}.{alias.name}"
                if own:
                    bound[alias.asname or alias.name] = alias.name
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in bound:
            if node.attr.startswith("_") and not node.attr.startswith("__"):
                yield f"{node.value.id}.{node.attr}"


TESTS = sorted((ROOT / "tests" / "kernels").rglob("*.py"))


@pytest.mark.parametrize("path", [*FILES, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_uses_private_names_of_another(path):
    assert not list(private(path.read_text()))
