"""Every kind of record is written and read by one type; the committed ones of every earlier version are read."""

import json

import pytest

from reproduce import files, yamlfile
from reproduce.records import read_record, read_running, sealed

RESULTS = yamlfile.ROOT / "results"
DERIVED = {"local", "report"}
PATHS = sorted(path for path in RESULTS.rglob("*.json") if not DERIVED & set(path.relative_to(RESULTS).parts))
ADDED = {"family", "timed_images", "random_weights"}  # to rows of older records, which say so in notes


def read(path):
    """The record in a file, in the form in which it would be written."""
    kind = json.loads(path.read_text()).get("kind")
    if kind in sealed.TYPES:
        return sealed.read(path).model_dump(mode="json", exclude_unset=True)
    record = read_running(path) if kind == "running" else read_record(path)
    return record.model_dump(mode="json", exclude_unset=True)


def test_there_are_committed_records_of_every_folder():
    assert {path.parent.name for path in PATHS} >= {"runs", "kernels", "train", "nets", "reliability", "equal"}


@pytest.mark.parametrize("folder", sorted({path.parent.relative_to(RESULTS).as_posix() for path in PATHS}))
def test_every_committed_record_is_read_and_would_be_written_as_it_is(folder):
    for path in (path for path in PATHS if path.parent == RESULTS / folder):
        content = json.loads(path.read_text())
        content.pop("sha256", None)
        found = read(path)
        for row, before in zip(found.get("rows", ()), content.get("rows", ()), strict=True):
            for name in ADDED - set(before):
                row.pop(name, None)
        assert found == content, path.name


def test_notes_of_older_benchmarks_are_read_into_fields():
    bench = sealed.read(RESULTS / "kernels" / "cpu-20261125T144311.json")
    scaled = [row for row in bench.rows if row.scaled]
    told = [(row.candidate, row.images, row.timed_images) for row in scaled]
    assert told == [("naive float32, products alone", 10_000, 1008)]
    random = {row.what.split(",")[0] for row in bench.rows if row.random_weights}
    assert random == {"MNIST MLP", "CIFAR-10 ConvNet"}
    assert {row.family for row in bench.rows} == {"naive", "library", "xnor"}


def test_a_record_of_no_known_kind_and_one_without_a_field_are_refused_in_a_line(tmp_path):
    content = json.loads((RESULTS / "reliability" / "fuzz-20261125T130117.json").read_text())
    del content["sha256"]
    files.write_sealed(tmp_path / "x.json", content | {"kind": "speed"})
    with pytest.raises(ValueError, match=r"^x\.json: no record of a known kind \('speed'\)$"):
        sealed.read(tmp_path / "x.json")
    files.write_sealed(tmp_path / "x.json", {key: value for key, value in content.items() if key != "found"})
    with pytest.raises(ValueError, match=r"^x\.json: found: Field required$"):
        sealed.read(tmp_path / "x.json")
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="no checksum"):
        sealed.read(tmp_path / "x.json")
