"""`reproduce export`: a run's net in a format of others, proven on the whole test set before it is kept."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reproduce import extensions, yamlfile
from reproduce.cli.options import DataOption, ResultsOption, UseOption, check_choice
from reproduce.terminal import say, stop

if TYPE_CHECKING:
    from reproduce.packed import PackedNet
    from reproduce.packed.export.formats import Proof
    from reproduce.records.packed_net import ExportRecord


def export(
    run: Annotated[
        str,
        typer.Argument(
            help="A run (its record's path, or the record's name in your store), or a packed net (.bnn)."
        ),
    ],
    kind: Annotated[str, typer.Option("--format", help="onnx, qonnx or npz.")] = "onnx",
    results: ResultsOption = None,
    data: DataOption = None,
    record: Annotated[Path | None, typer.Option(help="A folder to keep the proof in, as one JSON file.")] = None,
    use: UseOption = None,
) -> None:
    """Write a trained net for other tools: ONNX, QONNX (FINN, hls4ml) or NumPy arrays.

    The file is run on every test image and kept only if each prediction is the packed net's.
    Exit code 1: a prediction differs; 2: the net cannot be exported so, or a package is missing; 3: no data.
    """
    from reproduce import files
    from reproduce.packed import PackedNet, from_run
    from reproduce.packed.export import formats
    from reproduce.records import runs, sealed

    extensions.use(use or [])
    check_choice("--format", kind, list(formats.FORMATS))
    if missing := formats.missing(kind):
        raise stop(f"{missing} not installed: pip install -e '.[export]'", 2)
    try:
        store = results or runs.LOCAL
        if run.endswith(".bnn"):
            packed = Path(run)
        else:
            packed = from_run.freeze_run(run, runs.Store(store), data, say)
            store = packed.parent.parent
        net = PackedNet.load(packed)
        images, labels = from_run.test_images(net, data, say)
        content = formats.FORMATS[kind].build(net)
    except ValueError as error:
        raise stop(error, 2) from None
    proof = formats.prove(content, kind, net, images, labels)
    if proof.differing:
        some = ", ".join(map(str, proof.differing[:5]))
        raise stop(
            f"not written: {len(proof.differing)} of {proof.images:,} predictions are not the packed net's "
            f"(images {some}{', …' if len(proof.differing) > 5 else ''})",
            1,
        )
    target = store / "exports" / f"{packed.stem}{formats.SUFFIXES[kind]}"
    files.write_whole(target, content)
    rate = 100 * proof.wrong / proof.images
    say(f"all {proof.images:,} test images: the packed net's class, {rate:.2f} % of them wrong")
    say(f"scores differ by {proof.largest_difference:.2g} at the most")
    size, whole = len(content), 4 * net.weights
    say(f"{size:,} bytes; {packed.stat().st_size:,} as a packed net, {whole:,} as float32 weights")
    if record is not None:
        kept = sealed.write_new(record_of(target, kind, content, net, proof), record)
        say(f"written: {yamlfile.shown(kept)}")
    say(f"written: {yamlfile.shown(target)}")


def record_of(target: Path, kind: str, content: bytes, net: PackedNet, proof: Proof) -> ExportRecord:
    """What `--record` keeps: the file, by its digest, and its proof."""
    from reproduce.packed.export import formats
    from reproduce.packed.export.graph import OPSET
    from reproduce.records import machine, runs
    from reproduce.records.packed_net import ExportRecord

    made = machine.head("export", runs.now()) | {
        "libraries": machine.libraries() | machine.versions(*formats.NEEDS[kind]),
        "about": net.about,
        "data": net.settings.data.name,
        "net": net.settings.net.model_dump(mode="json"),
        "file": target.name,
        "file_format": kind,
        "opset": None if kind == "npz" else OPSET,
        "file_sha256": hashlib.sha256(content).hexdigest(),
        "weights": net.weights,
        "bytes": len(content),
        **asdict(proof),
    }
    return ExportRecord.model_validate(made)
