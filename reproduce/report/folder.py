"""The folder of a report: a list in it says which files a report wrote, and only these are ever removed.

The texts come from `report.tables` and `exports`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from reproduce import files

LIST = "report-files.txt"


def write(content: Mapping[str, str], folder: Path, force: bool = False) -> None:
    """Write these files (path in `folder` -> text), and remove those of an earlier report that are not among them.

    Raises files.Foreign where it holds anything else. With `force` that stays, except files of the same names.
    """
    written = _written(folder)
    others = sorted(_there(folder) - written)
    if others and not force:
        named = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        raise files.Foreign(
            f"{folder} holds files that are not part of a report ({named}): name another folder with --to, or "
            "add --force"
        )
    _put(content, folder)
    for name in (written & _there(folder)) - set(content):
        (folder / name).unlink()
    _list(folder, set(content))


def add(content: Mapping[str, str], folder: Path) -> None:
    """Write these files into the folder of a report, and leave the others there.

    Raises files.Foreign where one of these names is taken by a file that no report wrote.
    """
    if taken := sorted(_there(folder) & set(content) - _written(folder)):
        raise files.Foreign(f"{folder} holds a {taken[0]} that no report wrote")
    _put(content, folder)


def _put(content: Mapping[str, str], folder: Path) -> None:
    _list(folder, _written(folder) | set(content))
    for name, text in content.items():
        files.write_whole(folder / name, text)


def _there(folder: Path) -> set[str]:
    """What the folder holds: files, those in data/, and other folders; without hidden ones and the list."""
    paths = [*folder.glob("*"), *folder.glob("data/*")]
    found = {p.relative_to(folder).as_posix() for p in paths if not p.name.startswith(".")}
    return found - {LIST, "data"}


def _written(folder: Path) -> set[str]:
    """The files that the list names."""
    try:
        return set((folder / LIST).read_text(encoding="utf-8", errors="replace").splitlines())
    except FileNotFoundError:
        return set()


def _list(folder: Path, names: set[str]) -> None:
    files.write_whole(folder / LIST, "".join(f"{name}\n" for name in sorted(names)))
