"""A run's net packed into a file (`reproduce freeze`), and what that file can do (`reproduce predict`)."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

import kernels
from reproduce import nets, spec, yamlfile
from reproduce.datasets import data, fetch
from reproduce.identity import Device
from reproduce.packed.freezing import freeze_net
from reproduce.packed.net import PackedNet
from reproduce.packed.pictures import read_named
from reproduce.records import Record, machine, read_record, runs, weights
from reproduce.records.packed_net import PackedRecord
from reproduce.training import preprocess
from reproduce.training.preprocess import DeviceData
from reproduce.training.train import EVAL_BATCH

MEASURED_SECONDS = 1.0


@dataclass(frozen=True)
class Comparison:
    """A packed net's predictions for its data set's test images."""

    wrong: int
    images: int
    differing: list[dict[str, Any]] | None
    """Images to which the float32 net gives another class: index; the packed, the float32 and the float64 net's
    class; the packed net's margin, its score for its own class less that for the float32 net's."""


@dataclass(frozen=True)
class Answer(Comparison):
    """Predictions and their times, from images in host memory; medians."""

    images_per_second: float
    latency: float
    """Seconds for one image alone."""


def find(run: str, store: runs.Store) -> Path:
    """The record that `run` names: a path, or a file's stem in the store. ValueError if there is none."""
    path = Path(run)
    if path.suffix == ".json" and path.is_file():
        return path.absolute()  # its store is found from its folder
    path = store.runs / f"{run}.json"
    if not path.is_file():
        hint = yamlfile.did_you_mean(run, [p.stem for p in store.runs.glob("*.json")], cutoff=0.3)
        raise ValueError(f"no run {run!r} in {yamlfile.shown(store.runs)}{hint}")
    return path


def freeze_run(run: str, store: runs.Store, data_folder: Path | None, say: Callable[[str], None]) -> Path:
    """Pack the trained net of a run; gives the file, `<store>/packed/<stem>.bnn`.

    ValueError (one line) if the run or its weights cannot be used or the net cannot be packed; DataError if the
    net takes pixels as bytes and the data set, which gives their scale and shift, is missing.
    """
    path = find(run, store)
    record = read_record(path)
    settings = settings_of(record)
    state = weights.of_run(runs.Store(path.parent.parent).net(record.stem), record)
    if record.weights_sha256 is None:
        say("note: this run's record, an older one, has no digest of its weights: they cannot be checked")
    about: dict[str, Any] = {"cell": record.cell, "scale": record.scale, "seed": record.seed, "key": record.key}
    about["weights_sha256"] = weights.digest(state)
    if record.result is not None:
        about["test_error"] = record.result.test_error
    net = freeze_net(settings, state, _affine(settings, data_folder, say), about)
    target = path.parent.parent / "packed" / f"{record.stem}.bnn"
    net.save(target)
    return target


def settings_of(record: Record) -> spec.Settings:
    """The settings of a run's record. ValueError (one line) if they name something that is not registered."""
    try:
        return spec.Settings.model_validate_json(json.dumps(record.settings))
    except ValidationError as error:
        (problem, *_) = yamlfile.problems(error, spec.Settings, record.settings)
        raise ValueError(f"{record.stem}: {problem}; --use names the module that registers it") from None


def _affine(
    settings: spec.Settings, data_folder: Path | None, say: Callable[[str], None]
) -> tuple[float, NDArray[np.float32]] | None:
    """Scale and shift of the pixels, or None where the net sees real numbers."""
    if not all(step.keeps_bytes for step in settings.data.preprocess):
        return None
    splits = data.splits(fetch.load(settings.data.name, data_folder, say), settings.data)
    train = preprocess.prepare(splits, settings.data, settings.net.flat, torch.device("cpu"))["train"]
    return train.scale, train.shift.numpy()


def float_weights(net: PackedNet, path: Path) -> dict[str, Tensor]:
    """The float weights in `path`, unless the packed net says that it was made from others: ValueError."""
    state = weights.load(path)
    if net.about.get("weights_sha256") not in (None, weights.digest(state)):
        raise ValueError(f"{path.name}: not the weights that this net was packed from")
    return state


def test_images(
    net: PackedNet, data_folder: Path | None, say: Callable[[str], None]
) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Its data set's test images, as the net takes them, and their labels. Raises DataError."""
    splits = data.splits(fetch.load(net.settings.data.name, data_folder, say), net.settings.data)
    return _as_taken(net, splits), splits["test"][1]


def given_images(
    net: PackedNet, path: Path, data_folder: Path | None, say: Callable[[str], None]
) -> tuple[list[str], NDArray[Any]]:
    """Images of `packed.pictures`, as the net takes them, and their names. Raises ValueError, DataError.

    For a net of real inputs, 8-bit images are preprocessed together with the test images: the data set is needed.
    """
    names, images = read_named(path, net.image)
    if net.pixels and images.dtype != np.uint8:
        raise ValueError(f"{path.name}: {images.dtype} {images.shape}; the net takes 8-bit images")
    if net.pixels or images.dtype != np.uint8:
        return names, images
    splits = data.splits(fetch.load(net.settings.data.name, data_folder, say), net.settings.data)
    others, labels = splits["test"]
    none = np.zeros(len(images), np.uint8)
    splits["test"] = np.concatenate([others, images]), np.concatenate([labels, none])
    return names, _as_taken(net, splits)[len(others) :]


def _as_taken(net: PackedNet, splits: dict[str, Any]) -> NDArray[Any]:
    """The test split's images: as they are, or preprocessed for a net of real inputs."""
    images: NDArray[Any] = splits["test"][0]
    if net.pixels:
        return images
    test = preprocess.prepare(splits, net.settings.data, True, torch.device("cpu"))["test"]
    return test.images(torch.arange(len(test))).numpy().reshape(-1, *net.image)


def predict_net(
    net: PackedNet,
    data_folder: Path | None,
    backend: str,
    say: Callable[[str], None],
    state: dict[str, Tensor] | None = None,
) -> Answer:
    """`compare_net`, and the time it takes; raises the same."""
    found, images = compare_net(net, data_folder, backend, say, state)
    seconds = _median(lambda: net.predict(images, backend))
    latency = _median(lambda: net.predict(images[:1], backend))
    return Answer(found.wrong, found.images, found.differing, len(images) / seconds, latency)


def compare_net(
    net: PackedNet,
    data_folder: Path | None,
    backend: str,
    say: Callable[[str], None],
    state: dict[str, Tensor] | None = None,
) -> tuple[Comparison, NDArray[Any]]:
    """Run a packed net over its data set's test images, and the float32 net with the weights `state` beside it.

    Gives the images too, as the net took them. DataError if the data set is missing, ValueError or RuntimeError
    for an unusable backend or weights.
    """
    settings = net.settings
    splits = data.splits(fetch.load(settings.data.name, data_folder, say), settings.data)
    images = _as_taken(net, splits)
    scores = net.scores(images, backend)
    wrong = int((scores.argmax(1) != splits["test"][1]).sum())
    differing = None
    if state is not None:
        prepared = preprocess.prepare(splits, settings.data, settings.net.flat, torch.device("cpu"))
        differing = _differing(scores, settings, state, prepared["test"])
    return Comparison(wrong, len(images), differing), images


def _float_classes(
    settings: spec.Settings, state: dict[str, Tensor], test: DeviceData, images: Tensor, dtype: torch.dtype
) -> NDArray[np.int64]:
    """Classes of some images (their indices) by PyTorch's modules in float32 or float64.

    float32 rounds, and another order of sums rounds otherwise: training's own evaluation can differ on an image.
    """
    module = nets.build(settings)
    sizes, given = ({name: tuple(v.shape) for name, v in s.items()} for s in (module.state_dict(), state))
    if wrong := sorted(dict(sizes.items() ^ given.items())):
        name = wrong[0]
        raise ValueError(
            f"weights of another net: {yamlfile.short(name)} is {given.get(name)}, should be {sizes.get(name)}"
        )
    module.load_state_dict(state)
    module.to(dtype).eval()
    with torch.no_grad():
        every = [module(_images(test, index, dtype)).argmax(1) for index in images.split(EVAL_BATCH)]
    found: NDArray[np.int64] = torch.cat(every).numpy()  # one part, an empty one, of no images
    return found


def _images(test: DeviceData, index: Tensor, dtype: torch.dtype) -> Tensor:
    """The images at `index`; in float64 pixels are not rounded to float32 before."""
    rows = test.rows[index]
    if rows.dtype == torch.uint8:
        rows = rows.to(dtype).mul_(test.scale).add_(test.shift)
    return replace(test, rows=rows.to(dtype)).images(torch.arange(len(rows)))


def _differing(
    scores: NDArray[np.float64], settings: spec.Settings, state: dict[str, Tensor], test: DeviceData
) -> list[dict[str, Any]]:
    mine = scores.argmax(1)
    other = _float_classes(settings, state, test, torch.arange(len(test)), torch.float32)
    images = (mine != other).nonzero()[0]
    exact = _float_classes(settings, state, test, torch.from_numpy(images), torch.float64)
    return [
        {
            "image": int(i),
            "packed": int(mine[i]),
            "float32": int(other[i]),
            "float64": int(double),
            "margin": float(scores[i, mine[i]] - scores[i, other[i]]),
        }
        for i, double in zip(images, exact, strict=True)
    ]


def record_of(file: Path, net: PackedNet, answer: Comparison, backend: str) -> PackedRecord:
    """The record of the packed net in `file`, for `reproduce predict --record` and `reproduce publish`."""
    content = file.read_bytes()
    device: Device = "cuda" if kernels.takes_gpu(backend) else "cpu"
    made = machine.head("net", runs.now(), device) | {
        "backend": kernels.describe(backend),
        "about": net.about,
        "data": net.settings.data.name,
        "net": net.settings.net.model_dump(mode="json"),
        "weights": net.weights,
        "bytes": len(content),
        "file_sha256": hashlib.sha256(content).hexdigest(),
        "times_smaller_than_float32": 4 * net.weights / len(content),
        **asdict(answer),
    }
    return PackedRecord.model_validate(made)


def _median(call: Callable[[], object]) -> float:
    """Median seconds of a call that has been warmed up."""
    call()
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < MEASURED_SECONDS:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)
