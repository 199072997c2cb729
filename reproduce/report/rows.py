"""Which runs of a cell may share a row: those made by one training code, on one kind of device, in one mode.

Other runs have rows of their own, each with a label. Machines and versions of libraries are not told apart: like a
seed, they change how a run rounds, not what it computes. The table names the machines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from reproduce.records import Record, equal_code

K = TypeVar("K")


class MadeBy(NamedTuple):
    """What makes a run's numbers beside its settings, seed and data.

    `code`: training digest, or the one that stands for it and its equals; `mode`: how products are computed ("" in
    records that do not say); `threads`: the CPU threads of its calls, where numbers may depend on them, and 1
    where two have the numbers of one.
    """

    code: str
    device: str
    mode: str
    threads: tuple[int, ...]


def made_by(record: Record) -> MadeBy:
    """What made a run's numbers; records made before `identity` count as depending on torch's threads on a CPU."""
    code = record.code
    source = str(code["source"])
    device = code.get("device") or ("cuda" if "gpu" in record.machine else "cpu")
    threads = () if _by_kernels_alone(record) else _threads(record, device)
    if 2 in threads and set(threads) <= {1, 2} and _same_for_two_threads(record):
        threads = (1,)
    return MadeBy(equal_code.known().get(source, source), device, code.get("mode") or "", threads)


def _threads(record: Record, device: str) -> tuple[int, ...]:
    """The CPU threads of a run's calls that its numbers may depend on."""
    if "threads" in record.code:
        return tuple(record.code["threads"])
    calls = record.machine.get("calls") or [record.machine]
    return tuple(sorted({call["threads"] for call in calls})) if device == "cpu" else ()


def _by_kernels_alone(record: Record) -> bool:
    """Whether a run uses no arithmetic of torch: fixed-point steps of a binary MLP on 8-bit pixels.

    The kernels' bits are the same for every number of threads (tests/training/test_repeat.py
    trains such nets with 1 to 3).
    """
    if record.code.get("mode") != "fixed16":
        return False
    net = record.settings["net"]
    return (
        (net["kind"], net["weights"]) == ("mlp", "binary")
        and net["activation"] in ("sign", "stochastic_sign")
        and net.get("first_weights", "as_others") == "as_others"
        and _pixels_stay_bytes(record)
        and not net["dropout_in"]  # with it, pixels whose mean is not 0 become floats
    )


def _pixels_stay_bytes(record: Record) -> bool:
    """Whether preprocessing is one affine map of 8-bit pixels, whose sums are exact."""
    return all(
        step["step"] in ("range", "standardize", "center") for step in record.settings["data"]["preprocess"]
    )


SHARED = ("AMD EPYC (family 25 model 1)",)
"""CPUs on which MLPs have the same numbers with one thread and two, as tests/training/test_repeat.py shows."""


def _same_for_two_threads(record: Record) -> bool:
    """Whether a run's numbers are the same for one and two threads: an MLP without autograd, of convenient sizes.

    What torch computes there is products. Two threads share rows and columns, not sums. On the CPUs named above
    the same instructions compute either share.
    """
    calls = record.machine.get("calls") or [record.machine]
    if record.code.get("mode") != "fixed16" or not all(call["name"].startswith(SHARED) for call in calls):
        return False
    net, data, train = (record.settings[part] for part in ("net", "data", "train"))
    return (
        net["kind"] == "mlp"
        and all(width % 64 == 0 for width in net["hidden"])
        and train["batch"] % 4 == 0
        and data["drop_incomplete"]
        and _pixels_stay_bytes(record)
    )


def grouped(records: Iterable[Record], key: Callable[[Record], K]) -> dict[K, list[Record]]:
    """The records by their keys, both in the order in which they come."""
    found: dict[K, list[Record]] = {}
    for record in records:
        found.setdefault(key(record), []).append(record)
    return found


def apart(records: Iterable[Record]) -> list[list[Record]]:
    """The records in groups that may be pooled, the one with the newest run first."""
    groups = grouped(records, made_by)
    order = sorted(groups, key=lambda made: (max(r.started for r in groups[made]), made), reverse=True)
    return [groups[made] for made in order]


def same(record: Record, group: Sequence[Record]) -> bool:
    """Whether a record is of a group's cell, scale and image order and may be pooled with it."""

    def key(r: Record) -> tuple[str, str, str, MadeBy]:
        return r.cell, r.scale, r.data.order, made_by(r)

    return any(key(r) == key(record) for r in group[:1])


def main(records: Iterable[Record]) -> list[Record]:
    """The group with the most runs, the newest of equal ones: used where a cell must have one group only."""
    return max(apart(records), key=len, default=[])


def label(group: Sequence[Record]) -> str:
    """What made the runs of one group, in words: the first digits of its digests, mode, device, threads."""
    if not group:
        return ""
    made = made_by(group[0])
    digests = " = ".join(sorted({str(r.code["source"])[:8] for r in group}))
    words = [digests, made.mode, made.device, " and ".join(map(str, made.threads))]
    words[3] += f" thread{'s' * (made.threads != (1,))}" if made.threads else ""
    if made.threads == (1,) and any(2 in _threads(r, made.device) for r in group):
        words[3] = "1 or 2 threads"  # with equal numbers
    return ", ".join(filter(None, words))
