"""`results/equal_code.yaml`: training digests shown to give the same numbers, with the records that prove it.

    equal:
      - digests: [sha256, sha256]
        why: what was changed in the code
        proof: [runs/STEM.json, runs/STEM.json]

`proof` names records by their paths below `results`. It has pairs of records of one run (settings, scale, seed,
data and image order) by code of two digests, whose curves and weights are equal bit for bit. A pair proves nothing
for code that its net does not use, so give a pair for each kind of net. An entry that its records do not prove is
an error.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from reproduce import yamlfile
from reproduce.records import Record, read_record
from reproduce.yamlfile import SpecError

FOLDER = yamlfile.ROOT / "results"
NAME = "equal_code.yaml"


@cache
def known() -> dict[str, str]:
    """The committed file: each digest -> the representative of its group of equal digests."""
    return read(FOLDER)


def read(folder: Path) -> dict[str, str]:
    """`folder`/equal_code.yaml, every entry checked against its records; {} if there is no file.

    Raises SpecError, one line, for an entry that is not proved.
    """
    path = folder / NAME
    if not path.exists():
        return {}
    groups: list[set[str]] = []
    for number, entry in enumerate(yamlfile.read_yaml(path)["equal"], 1):
        digests = set(entry["digests"])
        try:
            shown = _classes([_record(folder / name) for name in entry["proof"]])
        except ValueError as error:
            raise SpecError(f"{yamlfile.shown(path)}: entry {number}: {error}") from None
        if not any(digests <= equal for equal in shown):
            raise SpecError(f"{yamlfile.shown(path)}: entry {number}: its records do not show these digests equal")
        groups.append(digests)
    return {digest: min(equal) for equal in _joined(groups) for digest in equal}


def _record(path: Path) -> Record:
    try:
        record = read_record(path)
    except OSError as error:
        raise ValueError(f"{path.name}: {error.strerror}") from None
    if record.status != "finished" or record.weights_sha256 is None:
        raise ValueError(f"{path.name}: no finished run with a digest of its weights")
    return record


def _classes(records: list[Record]) -> list[set[str]]:
    """Digests of the training code that gave equal numbers. ValueError where records of one run differ."""
    runs: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        run = (record.settings_digest, record.scale, record.seed, record.data.digest, record.data.order)
        runs.setdefault(run, []).append(record)
    for first, *others in runs.values():
        for other in others:
            if _numbers(first) != _numbers(other):
                raise ValueError(f"{first.stem} and {other.stem} have other numbers")
    return _joined([{str(record.code["source"]) for record in group} for group in runs.values()])


def _numbers(record: Record) -> tuple[Any, ...]:
    curve = [row.model_dump(exclude={"seconds", "flipped"}) for row in record.curve]
    return record.weights_sha256, record.result, curve


def _joined(groups: list[set[str]]) -> list[set[str]]:
    """Groups that share a member as one."""
    found: list[set[str]] = []
    for group in groups:
        apart = [other for other in found if not other & group]
        found = [*apart, group.union(*(other for other in found if other & group))]
    return found
