"""Files of all records but those of runs: each kind is written and read by one type."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from reproduce import yamlfile
from reproduce.files import read_sealed, write_sealed
from reproduce.records.benchmark import Bench
from reproduce.records.compared_products import Products
from reproduce.records.fields import Sealed, explained
from reproduce.records.packed_net import ExportRecord, PackedRecord
from reproduce.records.reliability import Reliability

TYPES: dict[str, type[Bench] | type[PackedRecord] | type[ExportRecord] | type[Reliability] | type[Products]] = {
    **dict.fromkeys(("cpu", "gpu", "train-cpu", "layers"), Bench),
    "net": PackedRecord,
    "export": ExportRecord,
    **dict.fromkeys(("chaos", "fuzz"), Reliability),
    "products": Products,
}


def read(path: Path) -> Bench | PackedRecord | ExportRecord | Reliability | Products:
    """A record from its file, by its `kind`. ValueError (one line) if it is no sound record; OSError."""
    content = read_sealed(path)
    kind = content.get("kind")
    if not isinstance(kind, str) or kind not in TYPES:
        raise ValueError(f"{path.name}: no record of a known kind ({yamlfile.short(kind)})")
    try:
        return TYPES[kind].model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{path.name}: {explained(error)}") from None


def write(record: Sealed, path: Path) -> None:
    """Write the fields that the record was made with, whole or not at all. Raises OSError."""
    write_sealed(path, record.model_dump(mode="json", exclude_unset=True))


def write_new(record: Sealed, folder: Path, last: Path | None = None) -> Path:
    """Write the record into `folder`, named by its kind and time; returns the path.

    `last`: the file of an earlier state of this record, which is overwritten. FileExistsError if there is another
    record of the same second.
    """
    stamp = record.started.replace(":", "").replace("-", "").split("+")[0]
    quick = "quick-" if getattr(record, "quick", False) else ""
    path = folder / f"{record.kind}-{quick}{stamp}.json"
    if path.exists() and path != last:
        raise FileExistsError(17, "a record of the same second is there already", str(path))
    write(record, path)
    return path
