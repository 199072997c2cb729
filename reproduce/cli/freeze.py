"""`reproduce freeze` and `reproduce predict`: a run's net packed into a file, and what that file can do."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reproduce import extensions, yamlfile
from reproduce.cli.options import DataOption, ResultsOption, UseOption
from reproduce.terminal import say, stop

if TYPE_CHECKING:
    from reproduce.packed import PackedNet


def freeze(
    run: Annotated[str, typer.Argument(help="A run: its record's path, or the record's name in your store.")],
    results: ResultsOption = None,
    data: DataOption = None,
    use: UseOption = None,
) -> None:
    """Pack a trained net into one file of bits and thresholds. Exit code 2: it cannot be packed; 3: no data."""
    from reproduce.packed import PackedNet, from_run
    from reproduce.records import runs

    extensions.use(use or [])
    try:
        path = from_run.freeze_run(run, runs.Store(results or runs.LOCAL), data, say)
    except ValueError as error:
        raise stop(error, 2) from None
    net, size = PackedNet.load(path), path.stat().st_size
    say(f"{net.weights:,} weights in {size:,} bytes, 1/{4 * net.weights / size:.1f} of what they take in float32")
    say(f"written: {yamlfile.shown(path)}")


def predict(
    file: Annotated[Path, typer.Argument(help="A packed net, as `reproduce freeze` writes it.")],
    images: Annotated[
        Path | None, typer.Option(help="Classify these instead: a PNG, a folder of PNGs, or an .npy array.")
    ] = None,
    data: DataOption = None,
    backend: Annotated[str, typer.Option(help="A backend of the kernels, or auto.")] = "auto",
    against: Annotated[
        Path | None, typer.Option(help="The float net's weights (nets/…): compare every prediction.")
    ] = None,
    record: Annotated[Path | None, typer.Option(help="A folder to keep the figures in, as one JSON file.")] = None,
    use: UseOption = None,
) -> None:
    """Run a packed net over its data set's test images: errors, images a second, one image's latency.

    With --images: each one's class and its ten scores, and the time they took.
    Exit code 2: the file, the weights, the images or the backend cannot be used; 3: no data.
    """
    import kernels
    from reproduce.packed import PackedNet, from_run
    from reproduce.records import sealed

    extensions.use(use or [])
    try:
        net = PackedNet.load(file)
        if images is not None:
            if against is not None or record is not None:
                raise ValueError("--against and --record are of the data set's test images, not of --images")
            _classify(net, images, data, backend)
            return
        state = None if against is None else from_run.float_weights(net, against)
        found = from_run.predict_net(net, data, backend, say, state)
        written = record and sealed.write_new(from_run.record_of(file, net, found, backend), record)
    except (ValueError, RuntimeError) as error:
        raise stop(error, 2) from None
    rate = 100 * found.wrong / found.images
    said = net.about.get("test_error")
    before = f"; the run's record says {said:.2f} %" if isinstance(said, float) else ""
    say(f"{net.settings.data.name}: {found.wrong} of {found.images:,} test images wrong, {rate:.2f} %{before}")
    say(
        f"{found.images_per_second:,.0f} images/s, one image alone in {1000 * found.latency:.3f} ms; "
        f"{kernels.describe(backend)}"
    )
    if found.differing is not None:
        say(f"the float32 net gives another class on {len(found.differing)} of {found.images:,} images")
        for image in found.differing:
            say(
                f"    image {image['image']}: {image['packed']}, not {image['float32']} as in float32; "
                f"in float64 {image['float64']}"
            )
    if written:
        say(f"written: {yamlfile.shown(written)}")


def _classify(net: PackedNet, path: Path, data_folder: Path | None, backend: str) -> None:
    """Print class and scores of each image in `path`, and the time. Raises ValueError, RuntimeError, DataError."""
    import kernels
    from reproduce.packed import from_run

    names, images = from_run.given_images(net, path, data_folder, say)
    net.scores(images[:1], backend)  # warm
    start = time.perf_counter()
    scores = net.scores(images, backend)
    seconds = time.perf_counter() - start
    for name, each in zip(names, scores, strict=True):
        say(f"{name}: class {each.argmax()}; scores {' '.join(f'{score:.2f}' for score in each)}")
    each_ms = 1000 * seconds / len(images)
    say(f"{len(images):,} images in {1000 * seconds:.3f} ms, {each_ms:.3f} ms each; {kernels.describe(backend)}")
