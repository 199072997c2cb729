"""What the project writes down and reads again: types of records, the store of runs, where a run was made."""

from reproduce.records.fields import explained
from reproduce.records.record import (
    PARTS,
    DataHash,
    EpochRow,
    Filters,
    Record,
    Result,
    Running,
    key_of,
    read_record,
    read_records,
    read_running,
    stem_of,
)

__all__ = [
    "PARTS",
    "DataHash",
    "EpochRow",
    "Filters",
    "Record",
    "Result",
    "Running",
    "explained",
    "key_of",
    "read_record",
    "read_records",
    "read_running",
    "stem_of",
]
