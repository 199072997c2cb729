"""Records from elsewhere with a value that would break the report, under a checksum that fits: named, left out."""

import json
import re

import pytest

from reproduce import files, report, spec
from reproduce.records import runs, stem_of

GONE = "no such key"
FOLDERS = {"run": "runs", "failed": "runs", "check": "check/calibration", "cpu": "kernels", "train": "train"}
FOLDERS |= {"net": "kernels"}
USED = {"run": "runs", "failed": "failed", "check": "checks", "cpu": "benches", "train": "training", "net": "nets"}


def committed(pattern):
    return json.loads(sorted(runs.PUBLISHED.glob(pattern))[0].read_text())


def whole(kind):
    """A sound record of a kind, with few enough rows."""
    if kind == "cpu":
        found = committed("kernels/cpu-*.json")
        wanted = ("product of 4096", "product of 8192", "MNIST MLP, 10000")
        shown = ("xnor, with packing", "packed, end to end", "naive")
        rows = [r for r in found["rows"] if r["what"].startswith(wanted) and r["candidate"].startswith(shown)]
        assert len(rows) == 5
        return found | {"rows": rows[1:] + rows[:1]}
    patterns = {"check": "check/calibration/*.json", "train": "train/*.json", "net": "kernels/net-*.json"}
    found = committed(patterns.get(kind, "runs/table1-bnn-theano-cifar10-small-seed0-*.json"))
    if kind in ("run", "failed"):  # as if made with today's settings
        (cell,) = spec.cells(["table1/bnn-theano-cifar10"])
        settings = cell.scales["small"]
        found |= {"settings": settings.model_dump(mode="json"), "settings_digest": settings.digest()}
    if kind == "failed":
        del found["result"], found["filters"]
        found |= {"status": "failed", "failure": "the training loss is not finite after epoch 7"}
    return found


def change(content, path, value):
    """Put a value in one place of a record, or take away what is there (GONE)."""
    for key in path[:-1]:
        content = content[key]
    if value is GONE:
        del content[path[-1]]
    else:
        content[path[-1]] = value


def put(folder, kind, name, content):
    """Write a record with a fitting checksum: a run under its own name where it still has one."""
    if FOLDERS[kind] not in ("kernels", "train"):
        try:
            named = (content.get(key) for key in ("cell", "scale", "seed", "key", "variant"))
            own = stem_of(*named)
        except (AttributeError, TypeError):
            own = name
        name = own if re.fullmatch(r"[\w.-]{1,200}", own) else name
    path = folder / FOLDERS[kind] / f"{name}.json"
    files.write_sealed(path, {k: v for k, v in content.items() if k != files.SEAL})
    return path


def test_a_sound_record_of_each_kind_is_used(tmp_path):
    for kind in FOLDERS:
        put(tmp_path / kind, kind, "sound", whole(kind))
        found = report.gather(tmp_path / kind, report.cells())
        assert len(getattr(found, USED[kind])) == 1 and found.problems == (), kind


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("run", ("machine",), {}),
        ("run", ("machine", "threads"), GONE),
        ("run", ("machine", "threads"), "two"),
        ("run", ("machine", "kernel_threads"), None),
        ("run", ("machine", "name"), GONE),
        ("run", ("code", "dirty"), GONE),
        ("run", ("code", "revision"), 5),
        ("run", ("result", "valid_images"), 0),
        ("run", ("result", "test_images"), 0),
        ("failed", ("seed",), -1),
        ("check", ("result", "valid_images"), 0),
        ("cpu", ("rows", 0, "seconds"), 0.0),
        ("cpu", ("code",), {"dirty": "no"}),
        ("train", ("rows", 0, "slowest"), -1.0),
        ("net", ("images",), 0),
    ],
    ids=lambda value: str(value)[:24] if not isinstance(value, tuple) else ".".join(map(str, value)),
)
def test_what_would_break_the_report_is_named_and_left_out(tmp_path, kind, path, value):
    content = whole(kind)
    change(content, path, value)
    file = put(tmp_path, kind, "mutant", content)
    found = report.gather(tmp_path, report.cells())
    assert getattr(found, USED[kind]) == ()
    (problem,) = found.problems
    assert problem.startswith(f"{file.name}: ")


def test_every_committed_record_is_still_read():
    found = report.gather(runs.PUBLISHED, report.cells())
    kinds = ("runs", "running", "kernels", "train", "nets")
    files = [p for p in runs.PUBLISHED.rglob("*.json") if p.parent.name in kinds]
    files = [p for p in files if p.is_relative_to(runs.PUBLISHED / p.parent.name)]
    used = sum(map(len, (found.runs, found.failed, found.benches, found.training, found.nets, found.running)))
    older = len(files) - used
    said = f"{older} record(s) of other settings than today's experiment files"
    assert found.problems == ((said,) if older else ()) and used > 15


def test_an_unreadable_file_is_named_without_the_folders_of_this_machine(tmp_path):
    for folder in ("runs", "kernels", "check/mutants"):
        (tmp_path / folder / "folder.json").mkdir(parents=True)
    found = report.gather(tmp_path, report.cells())
    assert found.problems == ("folder.json: not a regular file",) * 3
