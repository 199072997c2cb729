"""Reading a store: unusable files are named and skipped, failed runs are shown, thousands of them are handled."""

import json
import subprocess
import sys

import pytest
from made import made_cell, made_record, made_run

from reproduce import files, report, spec, yamlfile
from reproduce.records import DataHash, Record, runs
from reproduce.report import evidence
from reproduce.report.sections import table1


def bench(machine="a CPU", started="2026-01-01T00:00:00+00:00", kind="cpu", **over):
    row = {"what": "product of 8192×8192 matrices", "candidate": "xnor, with packing", "seconds": 0.5}
    row |= {"fastest": 0.4, "slowest": 0.6, "rounds": 5, "times_faster_than": {"torch float32": {"ratio": 10.0}}}
    record = {"format": 1, "kind": kind, "quick": False, "started": started, "machine": {"name": machine}}
    return record | {"code": {"dirty": False}, "rows": [row], "notes": []} | over


def packed(**over):
    about = {"cell": "table1/bnn-theano-mnist", "scale": "small", "seed": 0, "key": "k" * 64}
    record = {"format": 1, "kind": "net", "quick": False, "started": "2026-01-01T00:00:00+00:00"}
    record |= {"machine": {"name": "a CPU"}, "code": {"dirty": False}, "about": about, "data": "mnist"}
    record |= {"weights": 8000, "bytes": 1010, "wrong": 3, "images": 100, "images_per_second": 1.0}
    return record | {"latency": 0.1, "differing": []} | over


def put(folder, name, content):
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(content, dict):
        files.write_sealed(folder / name, content)
    else:
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def store_of(folder, records):
    store = runs.Store(folder)
    store.prepare()
    for record in records:
        store.write(record)
    return folder


def test_bad_files_are_named_and_skipped_and_the_others_are_used(tmp_path):
    store_of(tmp_path, [made_record(), made_record(made_run(seed=1))])
    good = made_record(made_run(seed=2)).model_dump(mode="json", exclude_none=True)
    put(tmp_path / "runs", "cut.json", json.dumps(good)[:200])
    put(tmp_path / "runs", "future.json", good | {"format": 2})
    put(tmp_path / "runs", "copy of one.json", good)
    put(tmp_path / "runs", "other.json", [1, 2])
    put(tmp_path / "kernels", "cpu-1.json", bench())
    put(tmp_path / "kernels", "cut.json", "{")
    put(tmp_path / "kernels", "future.json", bench(format=9))
    put(tmp_path / "kernels", "gpu-1.json", {"gpu": "some other record", "rows": []})
    put(tmp_path / "kernels", "trial.json", bench(quick=True))
    put(tmp_path / "kernels", "minus.json", packed(bytes=-1))
    put(tmp_path / "kernels", "net-1.json", packed())
    said = []
    found = report.gather(tmp_path, [made_cell()], said.append)
    assert [r.seed for r in found.runs] == [0, 1]
    assert len(found.benches) == len(found.nets) == 1
    assert found.benches[0].path == f"{tmp_path.name}/kernels/cpu-1.json"
    names = ("cut.json", "future.json", "copy of one.json", "other.json", "gpu-1.json", "trial.json", "minus.json")
    for name in names:
        assert any(name in problem for problem in found.problems)
    assert len(found.problems) == 9 and all("\n" not in p for p in found.problems)
    assert said == [f"left out: {p}" for p in found.problems]


def test_records_without_a_checksum_are_skipped_and_unknown_data_are_marked(tmp_path):
    for name, content in (("cpu-1.json", bench()), ("net-1.json", packed())):
        put(tmp_path / "kernels", name, content)
        put(tmp_path / "kernels", f"un{name}", json.dumps(content))
    put(tmp_path / "runs", "run.json", json.dumps(made_record().model_dump(mode="json", exclude_none=True)))
    found = report.gather(tmp_path, [made_cell()])
    assert [len(found.benches), len(found.nets)] == [1, 1] and evidence.notes(found.benches[0]) == []
    assert found.problems == ("run.json: no checksum", "uncpu-1.json: no checksum", "unnet-1.json: no checksum")
    foreign = made_record().model_copy(update={"data": DataHash(name="mnist2", digest="0", order="0")})
    assert "unknown data set" in evidence.notes(foreign)


def test_a_missing_store_counts_as_empty(tmp_path):
    found = report.gather(tmp_path / "none", report.cells())
    assert (found.runs, found.failed, found.benches, found.problems) == ((), (), (), ())


def test_records_of_other_cells_are_counted_and_reported(tmp_path):
    store_of(tmp_path, [made_record()])
    found = report.gather(tmp_path, report.cells())
    assert found.runs == () and found.problems == ("1 record(s) of other cells than these",)


def broken(seed=3):
    why = "the training loss is not finite after epoch 7"
    return made_record(made_run(seed=seed), status="failed", result=None, curve=[], failure=why)


def test_failed_runs_are_shown_with_seed_epoch_and_reason(tmp_path):
    store_of(tmp_path, [made_record(), broken()])
    found = report.gather(tmp_path, [made_cell()])
    (line,) = table1.failures(found).to_dict("records")
    assert (line["cell"], line["scale"], line["seed"], line["epoch"]) == ("table1/made", "small", 3, 7)
    assert line["reason"] == "the training loss is not finite after epoch 7"
    assert line["records"].endswith("/runs/" + broken().stem + ".json")
    assert line["again"] == "reproduce run table1/made --scale small --seeds 1 --first-seed 3"
    assert "failed" in [part.name for part in table1.section(found).parts]
    assert table1.frame(found.runs, found.cells)["seeds"].sum() == 1


def test_a_failed_run_that_finished_later_is_not_shown_as_failed():
    cells = [made_cell()]
    done = [made_record(made_run(seed=3))]
    assert evidence.failed([broken(), *done], done, cells) == []
    assert len(evidence.failed([broken()], [], cells)) == 1


def test_older_records_of_a_seed_are_counted_and_reported(tmp_path):
    later = "2026-02-01T00:00:00+00:00"
    records = [made_record(), made_record(started=later, key="b" * 64), made_record(made_run(seed=1))]
    found = report.gather(store_of(tmp_path, records), [made_cell()])
    said = "1 record(s) of seeds that have a later one, made the same way"
    assert found.problems == (said,)
    assert [r.started for r in found.runs] == [later, "2026-01-01T00:00:00+00:00"]


def test_an_unreadable_file_is_named_without_the_folders_of_this_machine(tmp_path):
    for folder in ("runs", "kernels", "check/calibration"):
        (tmp_path / folder / "folder.json").mkdir(parents=True)
    found = report.gather(tmp_path, report.cells())
    assert found.problems == ("folder.json: not a regular file",) * 3


def test_the_newest_record_of_each_machine_is_used(tmp_path):
    for number, (machine, day) in enumerate([("a", 2), ("a", 3), ("a", 1), ("b", 1)]):
        put(tmp_path / "kernels", f"{number}.json", bench(machine, f"2026-01-0{day}T00:00:00+00:00"))
    found = report.gather(tmp_path, [])
    latest = evidence.newest(found.benches, lambda b: (b.machine.name,))
    assert [b.path.split("/")[-1] for b in latest] == ["1.json", "3.json"]


def many(count, folder):
    """Copies of the committed records under other seeds, each a record of its own, with today's settings."""
    settings = {cell.name: cell.scales["small"] for cell in spec.cells() if "small" in cell.scales}
    made = [p.read_text() for p in sorted((runs.PUBLISHED / "runs").glob("*small-seed0*.json"))]
    texts = list({json.loads(text)["cell"]: text for text in made}.values())  # one a cell: a seed has one record
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        content = json.loads(texts[number % len(texts)])
        del content["sha256"]
        content["seed"], content["key"] = number // len(texts), f"{number:064x}"[::-1]
        todays = settings[content["cell"]]
        content |= {"settings": todays.model_dump(mode="json"), "settings_digest": todays.digest()}
        record = Record.model_validate(content)
        files.write_sealed(folder / "runs" / f"{record.stem}.json", content)


# prints records, seconds of CPU (other work on the machine must not decide a test) and GiB
REPORT = """
import re, sys, time
from pathlib import Path
from reproduce import report
found = report.gather(Path(sys.argv[1]), report.cells(), print)
report.write(found, Path(sys.argv[1]) / "report")
assert not found.problems
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())  # ru_maxrss counts the parent's
print(len(found.runs), time.process_time(), int(peak[1]) / 2**20)
"""


@pytest.mark.timed
@pytest.mark.parametrize("count", [1000, pytest.param(10000, marks=pytest.mark.slow)])
def test_thousands_of_records_are_reported_within_seconds_and_a_gibibyte(tmp_path, count):
    many(count, tmp_path)
    command = [sys.executable, "-c", REPORT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=yamlfile.ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    used, seconds, gibibytes = done.stdout.split()
    assert int(used) == count
    assert float(seconds) < 15 and float(gibibytes) < 1
    assert (tmp_path / "report" / "index.html").stat().st_size > 100_000
