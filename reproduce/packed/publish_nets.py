"""Packed nets as evidence: the net of each finished BNN run, its predictions compared with the float32 net's.

`results/nets` holds a record for each such run, and the packed net itself of each cell's seed 0. Small-scale nets
are left out: the paper's claims are of nets of its own size.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from reproduce.datasets.data import DataError
from reproduce.packed import from_run
from reproduce.packed.net import PackedNet
from reproduce.records import Record, read_records, sealed
from reproduce.records.runs import Store
from reproduce.records.weights import of_run

FOLDER = "nets"
LARGEST = 5_000_000  # bytes of a packed net that is committed
Say = Callable[[str], None]


def publish(store: Store, target: Path, data_folder: Path | None, say: Say) -> int:
    """Pack and compare the nets of finished BNN runs that have no record in `target`; returns how many.

    A net that cannot be packed or compared (no weights, no data) is named and left out.
    """
    done = 0
    for record in read_records(store.runs)[0]:
        if not _wanted(record) or (target / f"{record.stem}.json").exists():
            continue
        try:
            _publish(record, store, target, data_folder, say)
            done += 1
        except (DataError, ValueError) as error:
            say(f"not packed: {record.stem}: {error}")
    return done


def _wanted(record: Record) -> bool:
    net = record.settings["net"]
    binary = net.get("weights") == "binary" and net.get("activation") != "relu"
    return binary and record.result is not None and record.variant is None and record.scale != "small"


def _publish(record: Record, store: Store, target: Path, data_folder: Path | None, say: Say) -> None:
    """Raises ValueError or DataError where the net cannot be packed or compared."""
    packed = from_run.freeze_run(record.stem, store, data_folder, say)
    net = PackedNet.load(packed)
    state = of_run(store.net(record.stem), record)
    found, _ = from_run.compare_net(net, data_folder, "auto", say, state)
    made = from_run.record_of(packed, net, found, "auto")
    target.mkdir(parents=True, exist_ok=True)
    if record.seed == 0 and made.bytes <= LARGEST:
        shutil.copyfile(packed, target / packed.name)
    elif record.seed == 0:
        say(f"note: {packed.name} is not copied: {made.bytes:,} bytes, more than {LARGEST:,}")
    sealed.write(made, target / f"{record.stem}.json")
