"""`reproduce freeze` and `reproduce predict`: a run's net packed into a file, and what that file can do."""

from __future__ import annotations

import difflib
import json
import pickle
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reproduce import spec, yamlfile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from reproduce import runs
    from reproduce.packed import PackedNet

AFFINE = ("range", "standardize", "center")  # steps after which an 8-bit pixel is still scale · x + shift
MEASURED_SECONDS = 1.0


@dataclass(frozen=True)
class Answer:
    """What `predict_file` found: wrong of `images`; rates are medians."""

    wrong: int
    images: int
    images_per_second: float
    latency: float
    """Seconds for one image alone."""


def find(run: str, store: runs.Store) -> Path:
    """The record that `run` names: a path, or a file's stem in the store. ValueError if there is none."""
    path = Path(run)
    if path.suffix == ".json" and path.is_file():
        return path
    path = store.runs / f"{run}.json"
    if not path.is_file():
        near = difflib.get_close_matches(run, [p.stem for p in store.runs.glob("*.json")], n=1, cutoff=0.3)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no run {run!r} in {yamlfile.shown(store.runs)}{hint}")
    return path


def freeze_run(run: str, store: runs.Store, data_folder: Path | None, say: Callable[[str], None]) -> Path:
    """Pack the trained net of a run; gives the file, `<store>/packed/<stem>.bnn`.

    ValueError (one line) if the run, its weights or its kind of net will not do, DataError if the pixels' scale
    and shift depend on data that are not at hand.
    """
    import torch

    from reproduce import runs
    from reproduce.packed import freeze_net

    path = find(run, store)
    record = runs.read(path)
    settings = spec.Settings.model_validate_json(json.dumps(record.settings))
    weights = runs.Store(path.parent.parent).net(record.stem)
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{record.stem}: its weights are not here ({yamlfile.shown(weights)})") from None
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(f"{weights.name} cannot be read ({type(error).__name__})") from None
    about: dict[str, Any] = {"cell": record.cell, "scale": record.scale, "seed": record.seed, "key": record.key}
    if record.result is not None:
        about["test_error"] = record.result.test_error
    net = freeze_net(settings, state, _affine(settings, data_folder, say), about)
    target = path.parent.parent / "packed" / f"{record.stem}.bnn"
    target.parent.mkdir(parents=True, exist_ok=True)
    net.save(target)
    return target


def _affine(
    settings: spec.Settings, data_folder: Path | None, say: Callable[[str], None]
) -> tuple[float, NDArray[np.float32]] | None:
    """Scale and shift of the pixels, or None where the net sees real numbers."""
    import torch

    from reproduce import data, preprocess

    if any(step.step not in AFFINE for step in settings.data.preprocess):
        return None
    splits = data.splits(data.load(settings.data.name, data_folder, say), settings.data)
    train = preprocess.prepare(splits, settings.data, settings.net.kind == "mlp", torch.device("cpu"))["train"]
    return train.scale, train.shift.numpy()


def images_of(
    net: PackedNet, data_folder: Path | None, say: Callable[[str], None]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The test images as the net takes them, and their labels (N,). DataError if they are not at hand."""
    import numpy as np
    import torch

    from reproduce import data, preprocess

    settings = net.settings
    splits = data.splits(data.load(settings.data.name, data_folder, say), settings.data)
    images, labels = splits["test"]
    if net.pixels:
        return images, labels.astype(np.int64)
    test = preprocess.prepare(splits, settings.data, True, torch.device("cpu"))["test"]
    real = test.images(torch.arange(len(test)))
    return real.numpy().reshape(-1, *net.image), labels.astype(np.int64)


def predict_file(path: Path, data_folder: Path | None, backend: str, say: Callable[[str], None]) -> Answer:
    """Run a packed net over its data set's test images. PackedError, DataError, or ValueError for the backend."""
    from reproduce.packed import PackedNet

    net = PackedNet.load(path)
    images, labels = images_of(net, data_folder, say)
    wrong = int((net.predict(images, backend) != labels).sum())
    seconds = _median(lambda: net.predict(images, backend))
    return Answer(wrong, len(images), len(images) / seconds, _median(lambda: net.predict(images[:1], backend)))


def _median(call: Callable[[], object]) -> float:
    """Median seconds of a call that has been warmed up."""
    call()
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < MEASURED_SECONDS:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


# --- the commands ---------------------------------------------------------------------------------------------

_Data = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of the data sets.", show_default="$REPRODUCE_DATA, else a user cache"),
]


def _say(text: str) -> None:
    print(text, flush=True)


def _stop(error: Exception, code: int) -> typer.Exit:
    print(f"reproduce: {error}", file=sys.stderr)
    return typer.Exit(code)


def freeze(
    run: Annotated[str, typer.Argument(help="A run: its record's path, or the record's name in your store.")],
    results: Annotated[
        Path | None, typer.Option("--results", help="Your store of runs.", show_default="results/local")
    ] = None,
    data: _Data = None,
) -> None:
    """Pack a trained net into one file of bits and thresholds. Exit code 2: it cannot be packed; 3: no data."""
    from reproduce import runs
    from reproduce.data import DataError
    from reproduce.packed import PackedNet

    try:
        path = freeze_run(run, runs.Store(results or runs.LOCAL), data, _say)
    except DataError as error:
        raise _stop(error, 3) from None
    except (OSError, ValueError) as error:
        raise _stop(error, 2) from None
    net, size = PackedNet.load(path), path.stat().st_size
    _say(f"{net.weights:,} weights in {size:,} bytes, 1/{4 * net.weights / size:.1f} of what they take in float32")
    _say(f"written: {yamlfile.shown(path)}")


def predict(
    file: Annotated[Path, typer.Argument(help="A packed net, as `reproduce freeze` writes it.")],
    data: _Data = None,
    backend: Annotated[str, typer.Option(help="A backend of the kernels, or auto.")] = "auto",
) -> None:
    """Run a packed net over its data set's test images: errors, images a second, one image's latency."""
    import kernels
    from reproduce.data import DataError
    from reproduce.packed import PackedNet

    try:
        found = predict_file(file, data, backend, _say)
        settings, about = (net := PackedNet.load(file)).settings, net.about
    except DataError as error:
        raise _stop(error, 3) from None
    except (ValueError, RuntimeError) as error:
        raise _stop(error, 2) from None
    rate = 100 * found.wrong / found.images
    before = f"; the run's record says {about['test_error']:.2f} %" if "test_error" in about else ""
    _say(f"{settings.data.name}: {found.wrong} of {found.images:,} test images wrong, {rate:.2f} %{before}")
    _say(
        f"{found.images_per_second:,.0f} images/s, one image alone in {1000 * found.latency:.3f} ms; "
        f"{kernels.describe(backend)}"
    )
