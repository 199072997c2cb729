"""The user's own modules, given by `--use`: they register names that experiment files may then use."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from reproduce import identity
from reproduce.yamlfile import SpecError, shown

_USED: dict[Path, str] = {}  # resolved path -> digest of the code


def use(paths: Sequence[Path]) -> None:
    """Import these files, each once a process. SpecError (one line) if one cannot be."""
    for path in paths:
        resolved = path.resolve()
        if resolved in _USED:
            continue
        try:
            digest = identity.module_digest(path.read_text(encoding="utf-8"))
            name = f"used_{resolved.stem}_{hashlib.sha256(str(resolved).encode()).hexdigest()[:8]}"
            spec = importlib.util.spec_from_file_location(name, resolved)
            if spec is None or spec.loader is None:
                raise ImportError("not a Python file")
            module = sys.modules[name] = importlib.util.module_from_spec(spec)
            if str(resolved.parent) not in sys.path:  # so that it can import what lies beside it
                sys.path.append(str(resolved.parent))
            spec.loader.exec_module(module)
            sys.modules.setdefault(resolved.stem, module)  # one copy, if a module given later imports it
        except Exception as error:  # the user's code can fail in any way
            reason = " ".join(str(error).split()) or type(error).__name__
            raise SpecError(f"{shown(path)}: cannot be used: {type(error).__name__}: {reason}") from error
        _USED[resolved] = digest


def used(path: Path | None = None) -> list[Path]:
    """The modules in use; with a path, only that module, if it is in use."""
    return [found for found in _USED if path is None or found == path.resolve()]


def digests() -> list[str]:
    """sha256 of the code of every module in use, without comments and layout; sorted."""
    return sorted(_USED.values())
