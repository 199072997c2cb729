"""`reproduce bench` end to end at tiny sizes: its record, its table, and the errors that it reports."""

import json

import pytest
import torch
from made import change
from typer.testing import CliRunner

from kernels.cuda import launch
from reproduce import spec, yamlfile
from reproduce.benchmarks import on_cpu as cpu
from reproduce.benchmarks import peer_onnx
from reproduce.benchmarks.common import paper_seconds
from reproduce.cli import app as cli
from reproduce.records import sealed
from reproduce.records.benchmark import Bench


def run(*words):
    return CliRunner().invoke(cli.app, ["bench", *(str(word) for word in words)])


@pytest.mark.timed
def test_a_run_gives_one_record_and_a_table(tmp_path):
    done = run("--quick", "--to", tmp_path / "kernels", "--data", tmp_path)
    assert done.exit_code == 0, done.output
    (path,) = (tmp_path / "kernels").iterdir()
    record = json.loads(path.read_text())
    assert record["format"] == 1 and record["kind"] == "cpu" and record["quick"] is True
    assert record["machine"]["cpu"] and record["machine"]["cores"] >= 1
    assert record["libraries"]["torch"] == torch.__version__ and len(record["code"]["source"]) == 64
    assert record["backend"].startswith("cpu (") and record["threads"]["kernels"] >= 1
    by_what = {}
    for row in record["rows"]:
        by_what.setdefault(row["what"], {})[row["candidate"]] = row
        assert 0 < row["fastest"] <= row["seconds"] <= row["slowest"]
    products = [rows for what, rows in by_what.items() if what.startswith("product of")]
    nets = [rows for what, rows in by_what.items() if not what.startswith("product of")]
    assert len(products) == 2 and len(nets) == 4
    for rows in products:
        assert set(rows) >= {"xnor, kernel alone", "xnor, with packing", "torch float32", "naive float32"}
        against = rows["xnor, kernel alone"]["times_faster_than"]["torch float32"]
        assert against["low"] <= against["ratio"] <= against["high"]
        assert (
            rows["xnor, kernel alone"]["share_of_bound"] is None or rows["torch float32"]["share_of_bound"] < 1.5
        )
    for rows in nets:
        assert set(rows) >= {cpu.BITS_ALONE, cpu.END_TO_END, cpu.FP32}
    assert any("random images" in note for note in record["notes"])
    assert sum("float32 net differ on 0 images" in note for note in record["notes"]) == 2
    int8 = sum("int8 net differ on 0 images" in note for note in record["notes"])
    assert int8 == (2 if peer_onnx.missing() is None else 0)
    assert all((cpu.INT8 in rows) == (int8 == 2) for rows in nets)
    assert int8 or f"{cpu.INT8} left out: onnxruntime and onnx are not installed" in record["notes"]
    assert [bar["unit"] for bar in record["paper"]["bars"]] == ["seconds", "seconds", "percent"]
    assert "xnor, kernel alone" in done.output and "GTX 750" in done.output and str(path) in done.output


def test_a_record_is_never_overwritten(tmp_path):
    content = {"format": 1, "kind": "cpu", "quick": False, "started": "2026-01-02T03:04:05+00:00", "rows": []}
    record = Bench.model_validate(content | {"machine": {"name": "a CPU"}, "code": {}})
    path = sealed.write_new(record, tmp_path)
    assert path.name == "cpu-20260102T030405.json"
    with pytest.raises(FileExistsError):
        sealed.write_new(record, tmp_path)


def test_the_papers_bars_are_beside_comparable_candidates():
    bars = yamlfile.read_yaml(spec.EXPERIMENTS / "paper.yaml")["figure3"]["bars"]
    product, mlp = "product of 8192×8192 matrices", "MNIST MLP, 10000 images in batches of 1000"
    assert paper_seconds(product, "naive float32", bars) == 6.79
    assert paper_seconds(product, "torch float32", bars) == 0.99
    assert paper_seconds(product, "xnor, kernel alone", bars) == 0.29
    assert paper_seconds(product, "xnor cuda-wgmma, kernel alone", bars) == 0.29
    assert paper_seconds(product, "naive float32 (cuda-naive)", bars) == 6.79
    assert paper_seconds(product, "xnor, with packing", bars) is None
    assert paper_seconds(product, "torch tf32", bars) is None
    assert paper_seconds("product of 4096×4096 matrices", "torch float32", bars) is None
    assert paper_seconds(mlp, cpu.END_TO_END, bars) == 0.68
    assert paper_seconds(mlp, "packed cuda-xnor, end to end", bars) == 0.68
    assert paper_seconds(mlp, cpu.BITS_ALONE, bars) is None
    assert paper_seconds(mlp, cpu.FP32, bars) == 1.11
    assert paper_seconds(mlp, cpu.NAIVE, bars) == 4.65


@pytest.mark.parametrize(
    "there, words",
    [(False, "no CUDA device here"), (True, "CuPy cannot be imported (x); `pip install cupy-cuda13x`")],
)
def test_a_missing_gpu_requirement_is_named_in_one_line(monkeypatch, there, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(launch, "no_gpu", lambda: "CuPy cannot be imported (x)")
    done = run("--gpu")
    assert done.exit_code == 2 and done.stderr.count("\n") == 1 and words in done.stderr and not done.stdout


def test_a_damaged_data_set_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "mnist.npz").write_bytes(b"no data")
    change(monkeypatch, "mnist", sources=[])
    words = ["--quick", "--to", str(tmp_path / "kernels"), "--data", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["reproduce", "bench", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr().err
    assert stop.value.code == 3 and said.count("\n") == 1 and "mnist is missing" in said
