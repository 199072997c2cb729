"""The first screen: its sentences and verdicts, and the file for other sites, follow from the records."""

import hashlib
import json
import re

import jsonschema
import pytest
from made import made_record, made_run
from test_report_evidence import bench, broken, packed, put, store_of
from test_report_figures import evidence_of, faster, timed

from reproduce import report, spec, yamlfile
from reproduce.records import runs
from reproduce.report.html import head, overview, page
from reproduce.report.html.parts import FOLDS

CELL = "table1/bnn-theano-mnist"


def paper_runs(errors, cell=CELL):
    digest = spec.cells([cell])[0].scales["paper"].digest()
    found = [made_record(made_run(seed=i, scale="paper"), error=e, cell=cell) for i, e in enumerate(errors)]
    return [r.model_copy(update={"settings_digest": digest, "key": f"{r.seed}{r.key[1:]}"}) for r in found]


def lines(evidence):
    return {v.claim: v for v in head.verdicts(evidence)}


@pytest.mark.parametrize(
    ("errors", "word"),
    [
        ([0.96, 0.95, 0.97], "reproduced"),
        ([0.5, 0.51, 0.52], "better"),
        ([2.0, 2.1, 2.05], "not reproduced"),
        ([0.96], "inconclusive"),
    ],
)
def test_a_cell_that_was_run_has_its_verdict_in_a_word(errors, word):
    found = evidence_of(paper_runs(errors), report.cells())
    line = lines(found)["BNN (Theano) on MNIST, test error"]
    assert (line.printed, line.word) == ("0.96 %", word)
    mean = sum(errors) / len(errors)
    assert line.found == f"{mean:.2f} % ({len(errors)} run{'s' * (len(errors) > 1)})"
    assert "Table 1: the other 11 cells" in lines(found)
    said = head.sentences(found)[1]
    assert f"1 of 12 cells of Table 1. BNN (Theano) on MNIST errs on {mean:.2f} %" in said and "0.96 %" in said


def test_without_records_nothing_is_claimed():
    found = evidence_of(cells=report.cells())
    assert {v.word for v in head.verdicts(found)} <= {"not run", "arithmetic", "a model"}
    said = "None of the 12 cells of Table 1 has been trained at the paper's scale yet."
    assert head.sentences(found)[1] == said
    assert len(head.sentences(found)) == 2


@pytest.mark.parametrize(
    ("verdict", "word"),
    [
        ("holds here, on a CPU (the paper's was a GTX 750)", "holds on a CPU"),
        ("holds here, on another GPU (the paper's was a GTX 750)", "reproduced"),
        ("holds in a single timing here, on a CPU", "single timing"),
        ("does not hold in a single timing here, on a CPU", "single timing"),
        ("does not hold here, on a CPU (the paper's was a GTX 750)", "fails on a CPU"),
        ("does not hold here, on another GPU (the paper's was a GTX 750)", "not reproduced"),
        ("holds by some counts (2 of 6), best by 512 classes, all layers", "by some counts"),
        ("holds (arithmetic)", "arithmetic"),
        ("holds for a small net", "holds, small net"),
        ("does not hold for a small net", "fails, small net"),
        ("small scale: not the paper's net", "small net"),
        ("holds in the model", "a model"),
        ("true by construction of the model", "a model"),
        ("nearly holds", "nearly"),
        ("nearly holds in the model", "nearly"),
        ("does not hold by any count tried", "not reproduced"),
        ("cannot be told for a small net", "inconclusive"),
        ("short schedule: not the paper's training", "short schedule"),
        ("not measured", "not run"),
        ("better than the paper", "better"),
    ],
)
def test_the_short_words_for_verdicts(verdict, word):
    assert head.word(verdict) == word


def test_imagenet_and_unmeasured_claims_are_folded():
    found = head.verdicts(evidence_of(cells=report.cells()))
    assert {v.fold for v in found} == set(FOLDS)
    assert all(v.fold == "imagenet" for v in found if "ImageNet" in v.claim)
    assert [v.claim for v in found][1].startswith("Classification errors")  # after Table 1: the most important


def test_the_reason_why_a_cell_was_not_run(tmp_path):
    cells = {c.name: c for c in report.cells()}
    cell, convnet = cells[CELL], cells["table1/bnn-theano-cifar10"]
    row = bench()["rows"][0] | {"what": "MNIST MLP", "candidate": "ours", "seconds": 0.072}
    row["times_faster_than"] = {}
    put(tmp_path / "train", "a.json", bench(kind="train-cpu", machine="a CPU, 2 cores", rows=[row]))
    found = report.gather(tmp_path, report.cells())
    assert head.reason(found, cell) == "not run: about 10 hours a run on 2 cores"  # 500 steps, 1000 epochs
    assert head.reason(found, convnet) == "not run"  # its steps were not timed
    digest = cell.scales["paper"].digest()
    failed = broken().model_copy(update={"cell": CELL, "scale": "paper", "settings_digest": digest})
    assert head.reason(evidence_of(cells=report.cells(), failed=(failed,)), cell) == "its run broke off"


def test_the_forest_plot_holds_the_paper_the_mean_and_every_seed():
    found = evidence_of(paper_runs([0.9, 1.0, 1.1]), report.cells())
    frame = overview.forest_frame(found, head.reason)
    of = frame[(frame["dataset"] == "MNIST") & (frame["row"] == "BNN (Theano)")].set_index("kind")
    assert (of.loc["paper", "low"], of.loc["paper", "high"]) == (pytest.approx(0.77), pytest.approx(1.15))
    assert list(of.loc["seed", "value"]) == [0.9, 1.0, 1.1] and of.loc["mean", "value"] == pytest.approx(1.0)
    assert of.loc["said", "said"].startswith("1.00 %, ")
    assert list(dict.fromkeys(frame["dataset"])) == ["MNIST", "SVHN", "CIFAR-10"]
    assert (frame["kind"] == "said").sum() == 12 and (frame["said"] == "not run").sum() == 11


def test_speed_is_against_the_fastest_library_of_each_kind(tmp_path):
    ratios = {"torch float32": 40.0, "oneDNN float32": 20.0, "torch int8 (_int_mm)": 5.0, "naive float32": 300.0}
    than = {name: {"ratio": ratio} for name, ratio in ratios.items()}
    alone = faster(1.0, 2.0, 3.0) | {"candidate": "xnor, kernel alone"}
    found = timed(tmp_path, {"times_faster_than": than}, alone)
    frame = overview.times_frame(found)
    beaten = dict(zip(frame["against"], frame["value"], strict=True))
    assert beaten == {"oneDNN float32": 20.0, "torch int8 (_int_mm)": 5.0}
    said = head.sentences(found)[2]
    assert said == (
        "On a CPU (8192 × 8192 product), the XNOR kernels are 20 times as fast as the fastest library timed in "
        "float32, and 5.0 times in int8."
    )
    mlp = {"what": "MNIST MLP, 10000 images in batches of 1000", "candidate": "packed, end to end"}
    mlp |= {"times_faster_than": {"torch float32": {"ratio": 30.0}}}
    said = head.sentences(timed(tmp_path, {"times_faster_than": than}, alone, mlp))[2]
    assert said.startswith("On a CPU (8192 × 8192 product, MNIST MLP), ")
    assert said.endswith(
        "are 20 to 30 times as fast as the fastest library timed in float32, and 5.0 times in int8 (8192 × 8192 "
        "product only)."
    )


def test_machines_timed_on_the_same_tasks_share_a_sentence(tmp_path):
    ratio = {"times_faster_than": {"torch float32": {"ratio": 11.0}}}
    timed(tmp_path, ratio, machine="Intel(R) Xeon(R) Processor (family 6 model 1), 2 cores")
    timed(tmp_path, ratio, machine="a third CPU", dirty=True)
    found = timed(tmp_path, {"times_faster_than": {"torch float32": {"ratio": 20.0}}}, machine="another CPU")
    shared, other = head.sentences(found)[2:]
    assert shared == (
        "On Intel Xeon (family 6 model 1), 2 cores, and on another CPU (8192 × 8192 product), the XNOR kernels "
        "are 11 to 20 times as fast as the fastest library timed in float32."
    )
    assert other.startswith("On a third CPU (") and other.endswith(
        "are 11 times as fast as the fastest library timed in float32 (uncommitted code)."
    )


def test_the_kernel_of_a_gpu_is_named_and_rounding_libraries_are_not_float32(tmp_path):
    ratios = {"torch float32": 21.0, "torch tf32": 2.3, "torch bfloat16": 1.2, "torch int8 (_int_mm)": 1.1}
    rows = [
        {"candidate": f"xnor {name}, with packing", "seconds": seconds}
        | {"times_faster_than": {other: {"ratio": ratio * by} for other, ratio in ratios.items()}}
        for name, seconds, by in (("cuda-wgmma", 1.0, 1), ("cuda-xnor", 3.4, 0.3))
    ]
    found = timed(tmp_path, *rows, machine="a GPU", kind="gpu")
    assert head.sentences(found)[2] == (
        "On a GPU (8192 × 8192 product), the XNOR kernels (cuda-wgmma) are 21 times as fast as the fastest "
        "library timed in float32, 2.3 times in TF32, and 1.1 times in int8."
    )
    (drawn,) = overview.times(overview.times_frame(found)).axes
    assert "a GPU (cuda-wgmma)" in [text.get_text() for text in drawn.texts]


def test_products_at_which_a_library_is_faster_are_named(tmp_path):
    ratios = {"torch float32": 0.5, "torch tf32": 0.1, "torch bfloat16": 0.1, "torch int8 (_int_mm)": 1.5}
    small = {"what": "product of two 1024×1024 matrices"}
    small |= {"times_faster_than": {name: {"ratio": ratio} for name, ratio in ratios.items()}}
    slower = small | {"candidate": "xnor cuda-xnor, with packing", "seconds": 0.9}
    slower["times_faster_than"] = {name: {"ratio": ratio / 2} for name, ratio in ratios.items()}
    large = {"times_faster_than": {"torch float32": {"ratio": 20.0}}}
    said = head.sentences(timed(tmp_path, small, slower, large, machine="a GPU", kind="gpu"))[2]
    assert said.endswith(" With packing, no gain up to size 1024 in float32, TF32.")
    changed = timed(tmp_path, large, machine="a GPU", kind="gpu", dirty=True)
    assert head.sentences(changed)[2].endswith(" timed in float32 (uncommitted code).")


def test_a_figure_of_uncommitted_code_is_marked_with_a_star(tmp_path):
    row = bench()["rows"][0] | {"times_faster_than": {"naive float32": {"ratio": 30.0, "low": 29.0, "high": 31.0}}}
    for name, dirty in (("clean", False), ("changed", True)):
        put(tmp_path / "kernels", f"{name}.json", bench(name, rows=[row], code={"dirty": dirty}))
    found = report.gather(tmp_path, report.cells())
    text = head.markdown(found)
    one, other = "(against naive float32), changed", "(against naive float32), clean"  # a line of both machines
    assert re.search(rf"{re.escape(one)} \\\*; [^|;]+{re.escape(other)} \| \*\*holds on a CPU\*\* \|", text)
    assert "\n\n\\* Of at least one record: code had uncommitted changes.\n" in text
    shown = page.page("Title", [], [], verdicts=head.verdicts(found))
    assert "changed *</td>" in shown and "clean</td>" in shown
    assert ">* Of at least one record: code had uncommitted changes.</p>" in shown


def test_threads_do_not_make_another_kernel(tmp_path):
    for number, backend in enumerate(
        ("cpu (avx2, 2 threads)", "cpu (avx2, 4 threads)", "cuda-xnor (sm_90 on a GPU)")
    ):
        about = packed()["about"] | {"scale": "paper", "seed": number, "key": f"{number}" * 64}
        put(tmp_path / "nets", f"{number}.json", packed(backend=backend, about=about))
    found = report.gather(tmp_path, report.cells())
    assert "by 2 kernels, none of 300 predictions" in head.sentences(found)[-1]


def test_the_file_for_other_sites_fits_its_schema_and_names_its_records(tmp_path):
    store_of(tmp_path, paper_runs([0.96, 0.95, 0.97]))
    found = report.gather(tmp_path, report.cells())
    content = json.loads(head.for_others(found))
    schema = json.loads(head.SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(content, schema)
    (cell,) = (c for c in content["cells"] if c["n"])
    assert (cell["cell"], cell["n"], cell["mean"], cell["margin"]) == (CELL, 3, 0.96, 0.19)
    assert cell["interval"][0] < 0.96 < cell["interval"][1] and cell["verdict"] == "reproduced"
    for record in cell["records"]:
        file = tmp_path.parent / record["path"]
        assert hashlib.sha256(file.read_bytes()).hexdigest() == record["sha256"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content | {"cells": [cell | {"n": -1}]}, schema)


def test_the_committed_file_for_other_sites_fits_the_schema():
    schema = json.loads(head.SCHEMA.read_text(encoding="utf-8"))
    jsonschema.validate(json.loads((runs.PUBLISHED / "report" / "verdicts.json").read_text()), schema)


def test_readme_is_short_and_its_pictures_and_pages_are_there():
    text = (yamlfile.ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    pages = [yamlfile.ROOT / "README.md", *(yamlfile.ROOT / "docs").glob("*.md")]
    assert len(pages) == 5 and text.count("docs/") >= 4
    for path in pages:
        found = re.findall(r'(?:\]\(|srcset="|src=")([^)"#:]+)[)"]', path.read_text(encoding="utf-8"))
        assert all((path.parent / name).exists() for name in found), path


def test_the_end_of_a_campaign_says_what_was_found(tmp_path):
    for record in paper_runs([0.95, 0.96, 0.97]):
        put(tmp_path / "runs", f"{record.stem}.json", record.model_dump(mode="json", exclude_none=True))
    evidence, cells = report.gather(tmp_path, report.cells()), spec.cells(["table1/*-mnist"])
    assert report.found(evidence, cells, "paper") == "1 of 4 cells have runs at paper scale: 1 reproduced"
    said = "0 of 4 cells have runs at small scale, which is never held against the paper"
    assert report.found(evidence, cells, "small") == said
