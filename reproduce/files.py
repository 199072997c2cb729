"""Files written atomically, and JSON records with a checksum of their content."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

from reproduce import yamlfile

LONGEST = 2**26  # bytes of a record
SEAL = "sha256"
_MARK = "sha256:"


class Foreign(ValueError):
    """The folder to be written holds files that are not ours; the message is one line."""


def write_whole(path: Path, content: str | bytes) -> None:
    """Write text (UTF-8) or bytes to `path` atomically, by a temporary file in the same folder.

    Bytes of a file's name that are no UTF-8 are written as escapes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(scratch, "wb") as file:
            file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def seal(content: dict[str, Any]) -> str:
    """The sha256 of a record's content, independent of the order of keys and of white space."""
    rest = {key: value for key, value in content.items() if key != SEAL}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return _MARK + hashlib.sha256(text.encode()).hexdigest()


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Write a record with the checksum of its content, atomically. The content has no key SEAL."""
    assert SEAL not in content
    write_whole(path, json.dumps(content | {SEAL: seal(content)}, indent=1, allow_nan=False) + "\n")


def read_sealed(path: Path) -> dict[str, Any]:
    """A record's content without its checksum.

    ValueError (one line) if it is no JSON object, or its checksum is missing or does not fit; OSError if it cannot
    be read.
    """
    try:
        raw = yamlfile.whole_file(path, LONGEST)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
    try:
        content = json.loads(raw.decode(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: also of a UnicodeDecodeError or a number too long
        raise ValueError(f"{path.name}: not valid JSON ({type(error).__name__})") from None
    if not isinstance(content, dict) or (given := content.pop(SEAL, None)) is None:
        raise ValueError(f"{path.name}: no checksum")
    try:
        fits = given == seal(content)
    except (ValueError, RecursionError):  # ValueError: NaN
        fits = False
    if not fits:
        raise ValueError(f"{path.name}: damaged: its checksum does not fit")
    return content
