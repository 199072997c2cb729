"""Runs by other code, on another device, in another mode or with other threads have rows of their own."""

import json
import re

import pytest
from made import made_record, made_run
from test_report import cell_with_paper

from reproduce import report, verdict
from reproduce.cli import run
from reproduce.records import equal_code, runs
from reproduce.report import evidence, exports, rows
from reproduce.report.claims import of_accuracy
from reproduce.report.html import head
from reproduce.report.sections import compare, curves, table1
from reproduce.yamlfile import SpecError

A, B, C, D, F = (letter * 64 for letter in "abcdf")


def by(record, source=A, device="cpu", mode="torch", threads=(2,)):
    code = record.code | {"source": source, "device": device, "mode": mode, "threads": list(threads)}
    return record.model_copy(update={"code": code})


def made(errors, first=0, **how):
    found = [made_record(made_run(seed=first + i, scale="paper"), error=error) for i, error in enumerate(errors)]
    return [by(record, **how) for record in found]


def evidence_of(*records, cells=None):
    return evidence.Evidence("store", tuple(cells or [cell_with_paper()]), tuple(records), (), (), (), (), (), ())


def measured(records):
    return table1.frame(records, [cell_with_paper()], quoted=False).query("seeds > 0")


OTHER = {
    "code": ({"source": B}, "bbbbbbbb, torch, cpu, 2 threads"),
    "device": ({"device": "cuda", "threads": ()}, "aaaaaaaa, torch, cuda"),
    "mode": ({"mode": "fixed16", "threads": ()}, "aaaaaaaa, fixed16, cpu"),
    "threads": ({"threads": (1,)}, "aaaaaaaa, torch, cpu, 1 thread"),
    "threads of its calls": ({"threads": (1, 2)}, "aaaaaaaa, torch, cpu, 1 and 2 threads"),
}


@pytest.mark.parametrize("what", OTHER)
def test_runs_whose_numbers_may_differ_are_not_pooled_and_each_row_is_judged_separately(what):
    how, label = OTHER[what]
    good, bad = [0.95, 0.97, 0.96], [3.0, 3.01, 3.02]
    frame = measured([*made(good), *made(bad, **how)]).sort_values("mean")
    assert list(frame["seeds"]) == [3, 3] and list(frame["code"]) == ["aaaaaaaa, torch, cpu, 2 threads", label]
    assert list(frame["mean"]) == pytest.approx([sum(good) / 3, sum(bad) / 3])
    assert list(frame["verdict"]) == [verdict.verdict(errors, 0.96, 0.19, 10_000) for errors in (good, bad)]
    assert list(frame["verdict"]) == ["reproduced", "not reproduced"]


def test_runs_made_the_same_way_are_one_row_whatever_machine_and_revision():
    first, second = made([0.9, 1.0]), made([1.1], first=2)
    change = {"machine": second[0].machine | {"name": "b"}, "code": second[0].code | {"revision": "b"}}
    second = [second[0].model_copy(update=change)]
    assert list(measured([*first, *second])["seeds"]) == [3]


def test_runs_of_later_code_do_not_replace_earlier_ones_and_come_first():
    later = [r.model_copy(update={"started": "2027-01-01T00:00:00+00:00"}) for r in made([2.0], source=B)]
    found = evidence.usable([*later, *made([1.0, 1.1, 1.2])], [cell_with_paper()])
    assert len(found) == 4
    frame = measured(found)
    assert list(frame["seeds"]) == [1, 3] and list(frame["code"].str[:8]) == ["bbbbbbbb", "aaaaaaaa"]
    assert [r.result.test_error for r in rows.main(found)] == [1.0, 1.1, 1.2]


def test_every_table_labels_the_rows():
    found = evidence_of(*made([0.95, 0.97, 0.96]), *made([3.0, 3.01, 3.02], source=B))
    labels = ("aaaaaaaa, torch, cpu, 2 threads", "bbbbbbbb, torch, cpu, 2 threads")
    files = report.tables(found)
    assert set(files) == {"table1.csv", "table1.md", "table1.tex"}
    section = table1.section(found)
    files["page"] = report.page.page("t", ["s"], [section], "x")
    for name, text in files.items():
        assert all(label in text for label in labels), name
    for letter in "ab":
        assert re.search(rf"\$ \(3\)\*? \[{8 * letter}, torch, cpu, 2 threads\]", files["table1.tex"])
    assert [part.name for part in section.parts] == ["table1"]
    for part in section.parts:
        assert "code" in [c.key for c in part.columns] and len(part.frame.query("seeds > 0")) == 2
    assert "aaaaaaaa" not in exports.latex(table1.frame(made([0.95]), found.cells))  # nothing to distinguish


def test_the_terminals_table_labels_the_rows(capsys):
    run._show(measured([*made([0.95]), *made([3.0], source=B)]), "paper")
    out = capsys.readouterr().out
    assert "aaaaaaaa" in out and "bbbbbbbb" in out and "0.95" in out and "3.00" in out and "1.98" not in out


def test_other_sections_do_not_pool_runs_of_different_code():
    found = evidence_of(*made([0.95, 0.97, 0.96]), *made([3.0, 3.1, 3.2, 3.3], source=B))
    other = evidence_of(*made([1.0, 1.1], source=C))
    pairs = compare.frame(compare.of_stores([found, other]))
    assert sorted(pairs["seeds_first"]) == [3, 4] and set(pairs["code_second"].str[:8]) == {"cccccccc"}
    (table, _) = compare.sections([found, other])[0].parts
    assert "code_first" in [c.key for c in table.columns]
    said = head.sentences(found)[1]
    assert said.startswith("Trained at the paper's scale so far: 1 of 1 cells") and said.count(" runs") == 2
    assert "3 runs of one code (aaaaaaaa, " in said and "4 runs of one code (bbbbbbbb, " in said
    (near,) = of_accuracy.nearly(found, {})
    assert near.records.count(".json") == 4  # of one code: that with the most runs


def test_figure_1_draws_the_runs_of_one_code():
    cells = report.cells()
    cell = "table1/bnn-theano-cifar10"
    found = [r.model_copy(update={"cell": cell}) for r in [*made([10.0, 10.5]), *made([40.0], source=B)]]
    ((_, _, group),) = curves.measured(evidence_of(*found, cells=cells))
    assert [r.code["source"] for r in group] == [A, A]


def test_older_records_are_distinguished_by_their_content():
    def older(seed, source, **machine):
        record = made_record(made_run(seed=seed, scale="paper"))
        code = {"revision": "r", "dirty": False, "source": source}
        return record.model_copy(update={"code": code, "machine": record.machine | machine})

    calls = [{"threads": 1}, {"threads": 2}]
    found = [older(0, A, threads=1), older(1, A, threads=1), older(2, B, threads=1), older(3, A, threads=2)]
    found += [older(4, A, threads=1, calls=calls), older(5, A, threads=1, gpu="a GPU")]
    assert sorted([r.seed for r in group] for group in rows.apart(found)) == [[0, 1], [2], [3], [4], [5]]
    assert rows.label([found[0]]) == "aaaaaaaa, cpu, 1 thread" and rows.label([found[5]]) == "aaaaaaaa, cuda"


def test_the_committed_tables_pool_no_two_training_codes():
    found = report.gather(runs.PUBLISHED, report.cells())
    by_path = {found.path(r): r for r in found.runs}
    frame = table1.frame(found.runs, found.cells, quoted=False).query("seeds > 0")
    arms = {cell.name for cell in found.cells if cell.ablation}
    assert frame["seeds"].sum() == sum(r.cell not in arms for r in found.runs)
    for used in frame["records"]:
        group = [by_path[path] for path in used.split("; ")]
        assert len({equal_code.known().get(r.code["source"], r.code["source"]) for r in group}) == 1


# --- equal code -----------------------------------------------------------------------------------------------


def written(folder, *records):
    """The records in a store; their paths below the folder."""
    store = runs.Store(folder)
    store.prepare()
    return [f"runs/{store.write(record).name}" for record in records]


def listed(folder, *entries):
    lines = ["equal:" if entries else "equal: []"]
    for entry in entries:
        lines += ["  - " + "\n    ".join(f"{key}: {json.dumps(value)}" for key, value in entry.items())]
    (folder / equal_code.NAME).write_text("\n".join(lines) + "\n")
    return equal_code.read(folder)


def proof(source, seed=0, error=2.0, weights="w" * 64):
    record = by(made_record(made_run(seed=seed), error=error), source)
    return record.model_copy(update={"weights_sha256": weights, "key": f"{source[:12]}{seed:052d}"})


def test_digests_proven_equal_share_a_row(tmp_path, monkeypatch):
    pairs = written(tmp_path, proof(A), proof(B), proof(B, seed=1), proof(C, seed=1))
    entry = {"digests": [A, B, C], "why": "files moved", "proof": pairs}
    assert listed(tmp_path, entry) == {A: A, B: A, C: A}
    two = [entry | {"digests": [A, B], "proof": pairs[:2]}, entry | {"digests": [B, C], "proof": pairs[2:]}]
    assert listed(tmp_path, *two) == {A: A, B: A, C: A}
    monkeypatch.setattr(equal_code, "FOLDER", tmp_path)
    equal_code.known.cache_clear()
    try:
        found = [*made([1.0]), *made([1.1], first=1, source=C), *made([1.2], first=2, source=D)]
        found += made([1.0], source=B)  # seed 0 again counts once
        frame = measured(evidence.usable(found, [cell_with_paper()]))
        assert sorted(frame["seeds"]) == [1, 2]
        assert {label.split(",")[0] for label in frame["code"]} == {"bbbbbbbb = cccccccc", "dddddddd"}
    finally:
        equal_code.known.cache_clear()


def test_an_entry_without_proof_is_an_error(tmp_path):
    made = (proof(A), proof(B), proof(C, error=2.5), proof(D, weights="x"), proof(F, 1))
    one, same, other_numbers, other_weights, other_seed = written(tmp_path, *made)
    bad = {
        "no records": ([A, B], [], "do not show these digests equal"),
        "other numbers": ([A, C], [one, other_numbers], "have other numbers"),
        "other weights": ([A, D], [one, other_weights], "have other numbers"),
        "runs of two seeds": ([A, F], [one, other_seed], "do not show these digests equal"),
        "a digest that no record has": ([A, B, C], [one, same], "do not show these digests equal"),
    }
    for what, (digests, records, words) in bad.items():
        with pytest.raises(SpecError) as error:
            listed(tmp_path, {"digests": digests, "why": "w", "proof": records})
        said = str(error.value)
        assert words in said and equal_code.NAME in said and "\n" not in said, (what, said)
    assert listed(tmp_path, {"digests": [A, B], "why": "w", "proof": [one, same]}) == {A: A, B: A}


def test_without_the_file_nothing_is_equal_and_the_committed_one_is_sound(tmp_path):
    assert equal_code.read(tmp_path) == {} and listed(tmp_path) == {}
    assert (equal_code.FOLDER / equal_code.NAME).exists()
    equal_code.read(equal_code.FOLDER)
