"""The digest of the training code: which files it covers, which edits change it and which do not."""

import shutil
import subprocess
import sys

import pytest

from reproduce import identity
from reproduce.identity import canonical_c, canonical_python, digest

FILES = {
    "reproduce/__init__.py": '"""A package."""',
    "reproduce/spec.py": "LARGEST = 1",
    "reproduce/data.py": "from reproduce import spec\n\nFIRST = 7000",
    "reproduce/report/__init__.py": "from reproduce.training import train",
    "reproduce/training/__init__.py": "",
    "reproduce/training/signs.py": """
def sign(x, threshold=0.0):
    \"\"\"+1 where x >= 0.\"\"\"
    return 2 * (x >= threshold) - 1
""",
    "reproduce/training/layers.py": """
import kernels
from kernels import reals
from kernels.cuda import updates as on_gpu
from reproduce.training.signs import sign


class Layer:
    \"\"\"A layer.\"\"\"

    scale = 1.5  # of its weights

    def __call__(self, x):
        return on_gpu.update(x) if x.is_cuda else kernels.product(sign(x), reals.LANES) * self.scale
""",
    "reproduce/training/train.py": "from reproduce.data import FIRST\nfrom reproduce.training import layers\n",
    "kernels/__init__.py": "from kernels import build\n\n\ndef product(x, y):\n    return build.lib.product(x, y)",
    "kernels/build.py": 'FLAGS = ("-O3", "-pthread")',
    "kernels/reals.py": "LANES = 16",
    "kernels/bench.py": "ROUNDS = 5",
    "kernels/csrc/product.h": "/* shared */\n#define LANES 16\n",
    "kernels/csrc/product.c": """
#include <math.h>
#include "product.h"

/* a product */
int product(int a, int b) { return a * b + 0x3504F4; } // of two
""",
    "kernels/cuda/__init__.py": "from kernels import reals",
    "kernels/cuda/updates.py": "from kernels.cuda import tiles\n\n\ndef update(x):\n    return x * tiles.SIDE",
    "kernels/cuda/tiles.py": "SIDE = 16",
    "kernels/cuda/src/updates.cu": '#include "common.cuh"\n__global__ void update(float *w) { w[0] = SIDE; }',
    "kernels/cuda/src/common.cuh": "#define SIDE 16",
}


@pytest.fixture
def tree(tmp_path):
    """A small project of the same layout, to be changed."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def both(root):
    return digest("cpu", root), digest("cuda", root)


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def names(device, root=identity.ROOT):
    paths = [*identity._modules(device, root), *identity._sources(device, root)]
    return {path.relative_to(root).as_posix() for path in paths}


def test_the_digest_covers_the_code_that_computes_numbers_and_not_reports_or_commands(tmp_path):
    cpu, cuda = names("cpu"), names("cuda")
    training = {p.relative_to(identity.ROOT).as_posix() for p in (identity.ROOT / identity.BEGIN).rglob("*.py")}
    on_gpu = {name for name in training if "/cuda/" in name}
    assert training - on_gpu | {"reproduce/datasets/data.py", "reproduce/nets/layers.py"} <= cpu & cuda
    assert on_gpu and on_gpu <= cuda - cpu
    assert {
        "kernels/__init__.py",
        "kernels/xnor.py",
        "kernels/cpu/products.py",
        "kernels/reference.py",
    } <= cpu  # products by XNOR
    assert {"kernels/cpu/csrc/real/reals.c", "kernels/cpu/csrc/xnor.h"} <= cpu
    assert {"kernels/cuda/updates.py", "kernels/cuda/src/updates.cu"} <= cuda
    parts = "report benchmarks cli campaign spec records packed yamlfile files".split()
    outside = tuple(f"reproduce/{part}" for part in parts)
    assert not [name for name in cpu | cuda if name.startswith((*outside, "kernels/bench"))]
    assert not [name for name in cpu if "cuda" in name or name.endswith((".cu", ".cuh"))]
    assert not [name for name in cuda if name.endswith((".c", ".h"))]
    for package in identity.PACKAGES:  # wherever the checkout is
        shutil.copytree(identity.ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    assert both(tmp_path) == both(identity.ROOT)


def test_a_cpu_digest_holds_no_cuda_source_and_the_reverse(tree):
    assert names("cpu", tree) == {
        *("reproduce/data.py", "kernels/__init__.py", "kernels/build.py", "kernels/reals.py"),
        *("kernels/csrc/product.h", "kernels/csrc/product.c"),
        *(f"reproduce/training/{name}.py" for name in ("__init__", "signs", "layers", "train")),
    }
    assert names("cuda", tree) == {
        *("reproduce/data.py", "kernels/cuda/updates.py", "kernels/cuda/tiles.py"),
        *("kernels/cuda/src/updates.cu", "kernels/cuda/src/common.cuh"),
        *(f"reproduce/training/{name}.py" for name in ("__init__", "signs", "layers", "train")),
    }
    for name in ("kernels/cuda/tiles.py", "kernels/cuda/src/updates.cu", "kernels/cuda/src/common.cuh"):
        cpu, cuda = both(tree)
        change(tree / name, "SIDE", "WIDTH")
        assert digest("cpu", tree) == cpu and digest("cuda", tree) != cuda, name
    for name in ("kernels/reals.py", "kernels/csrc/product.h"):
        cpu, cuda = both(tree)
        change(tree / name, "16", "32")
        assert digest("cpu", tree) != cpu and digest("cuda", tree) == cuda, name


KEPT = {
    "a comment": ("reproduce/training/layers.py", "  # of its weights", "  # what multiplies them\n    # or so"),
    "no docstring": ("reproduce/training/layers.py", '    """A layer."""\n\n', ""),
    "a comment in C": ("kernels/csrc/product.c", "/* a product */", "// one\n// more"),
    "a comment in a header": ("kernels/csrc/product.h", "16", "16 /* lanes */"),
    "settings' schema": ("reproduce/spec.py", "1", "2"),
    "the report": ("reproduce/report/__init__.py", "train", "layers"),
    "a benchmark": ("kernels/bench.py", "5", "7"),
}


@pytest.mark.parametrize("edit", KEPT)
def test_an_edit_that_changes_no_number_keeps_the_digest(tree, edit):
    before, (name, old, new) = both(tree), KEPT[edit]
    change(tree / name, old, new)
    assert both(tree) == before


CHANGED = {
    "a constant": ("reproduce/training/layers.py", "1.5", "1.25"),
    "an operator": ("reproduce/training/signs.py", ">= threshold", "> threshold"),
    "a default": ("reproduce/training/signs.py", "threshold=0.0", "threshold=0.5"),
    "the splits": ("reproduce/data.py", "7000", "7001"),
    "a product by XNOR": ("kernels/__init__.py", ".product(x, y)", ".product(y, x)"),
    "a constant in C": ("kernels/csrc/product.c", "0x3504F4", "0x3504F5"),
    "a constant in a header": ("kernels/csrc/product.h", "16", "8"),
    "how C is compiled": ("kernels/build.py", "-O3", "-Ofast"),
}


@pytest.mark.parametrize("edit", CHANGED)
def test_an_edit_that_may_change_a_number_changes_the_digest(tree, edit):
    before, (name, old, new) = digest("cpu", tree), CHANGED[edit]
    change(tree / name, old, new)
    assert digest("cpu", tree) != before


def test_a_new_module_is_in_the_digest_by_its_folder_or_by_an_import(tree):
    before = both(tree)
    (tree / "reproduce/training/deep").mkdir()
    (tree / "reproduce/training/deep/__init__.py").write_text('"""Says nothing."""\n')
    (tree / "reproduce/helper.py").write_text("from kernels.new import RATE\n\nSCALE = 2 * RATE\n")
    (tree / "kernels/new.py").write_text("RATE = 1\n")
    assert both(tree) == before
    layer = tree / "reproduce/training/deep/new_layer.py"
    layer.write_text("from ... import helper\n\nSCALE = helper.SCALE\n")
    added = both(tree)
    assert added[0] != before[0] and added[1] != before[1]
    for device in ("cpu", "cuda"):
        assert {"reproduce/training/deep/new_layer.py", "reproduce/helper.py"} <= names(device, tree)
    change(tree / "reproduce/helper.py", "2 * RATE", "3 * RATE")
    again = both(tree)
    assert again[0] != added[0] and again[1] != added[1]
    change(tree / "kernels/new.py", "RATE = 1", "RATE = 2")
    assert digest("cpu", tree) != again[0]


def test_moved_files_keep_the_digest_and_an_import_of_another_module_changes_it(tree):
    before = both(tree)
    (tree / "reproduce/nets").mkdir()
    (tree / "reproduce/nets/__init__.py").write_text("")
    (tree / "reproduce/training/layers.py").rename(tree / "reproduce/nets/blocks.py")
    change(
        tree / "reproduce/training/train.py",
        "from reproduce.data import FIRST\nfrom reproduce.training import layers\n",
        "from reproduce.nets import blocks as layers\nfrom reproduce.datasets import FIRST\n",
    )
    (tree / "reproduce/data.py").rename(tree / "reproduce/datasets.py")
    (tree / "kernels/host").mkdir()
    (tree / "kernels/reals.py").rename(tree / "kernels/host/tables.py")
    (tree / "kernels/csrc").rename(tree / "kernels/host/sources")
    change(
        tree / "reproduce/nets/blocks.py", "from kernels import reals", "from kernels.host import tables as reals"
    )
    moved = {"reproduce/nets/blocks.py", "reproduce/datasets.py", "kernels/host/tables.py"}
    assert moved | {"kernels/host/sources/product.c"} <= names("cpu", tree)
    assert both(tree) == before
    change(tree / "kernels/host/tables.py", "16", "17")
    assert digest("cpu", tree) != before[0]
    change(tree / "kernels/host/tables.py", "17", "16")
    (tree / "reproduce/training/other.py").write_text("def sign(x):\n    return x\n")
    added = both(tree)
    change(tree / "reproduce/nets/blocks.py", "reproduce.training.signs import", "reproduce.training.other import")
    swapped = both(tree)
    assert swapped[0] != added[0] and swapped[1] != added[1]


PYTHON = """
from __future__ import annotations
import os, numpy as np
@cache
async def f(a, /, b: int = 1, *c, d=None, **e) -> None:
    x = [*a, {**e}, {1, 2.5, 3j}, b"x", ..., -1, not a, f"{a!r:>{b}} and {c=}"]
    match x:
        case {"k": [1, *rest], **others} if rest is not None: return None
        case None | True: pass
    try:
        async with a as b: await c
    except* ValueError as error: raise error from None
    return lambda y=1, *, z: (yield y) if z else x[1:2, ::3]
"""


def test_the_canonical_form_is_the_same_with_every_version_of_python():
    """Its sha256 was made with Python 3.11; others must give the same."""
    assert identity._sha(canonical_python(PYTHON)) == PINNED
    script = f"from reproduce import identity; print(identity._sha(identity.canonical_python({PYTHON!r})))"
    for version in range(11, 16):
        python = shutil.which(f"python3.{version}")
        if python and python != sys.executable:
            done = subprocess.run([python, "-B", "-c", script], capture_output=True, text=True, cwd=identity.ROOT)
            assert done.returncode or done.stdout.strip() == PINNED  # the name of a missing interpreter is ignored


PINNED = "d49589bba90a080701b1a7c2f25839bd363323f5cb627498b82adcb87fcb2c3e"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a - -b", "a-/* x */-b", True),
        ("a - -b", "a--b", False),
        ("a + ++b", "a+++b", False),
        ("x = 'a'; // '", "x='a';", True),
        ('s = "a /* b */ c";', 's = "a c";', False),
        ('s = "a // b";', 's = "a";', False),
        ("#define F(x) x\n", "#define  F(x)  x // y\n", True),
        ("#define F(x) x\n", "#define F (x) x\n", False),
        ("#define F 1\nint x;", "#define F 1 int x;", False),
        ("#define F \\\n 1\nint x;", "#define F 1\nint x;", True),
        ("int x;\nint y;", "int x; int y;", True),
        ("1.5e-3f", "1.5e - 3f", False),
        ("a >>= 1", "a >> = 1", False),
        ("int ab;", "int a b;", False),
    ],
)
def test_c_without_comments_and_layout(one, other, same):
    assert (canonical_c(one) == canonical_c(other)) == same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("x = 1", "x = 1.0", False),
        ("x = 1", "x = True", False),
        ("x = 'a' 'b'", 'x = "ab"', True),
        ("return_ = None", "return_ = 0", False),
        ("{**a}", "{None: a}", False),
        ("def f():\n    return", "def f():\n    'why'\n    return", True),
        ("f(a, b)", "f(b, a)", False),
        ("f(a=1)", "f(b=1)", False),
        ("from torch import nn", "from torch import optim", False),
        ("from kernels import a", "from reproduce import a", True),  # the content of a decides, not its path
        ("class A:\n    x: int\n    'about x'", "class A:\n    x: int", True),
    ],
)
def test_python_without_comments_and_layout(one, other, same):
    assert (canonical_python(one) == canonical_python(other)) == same
