"""Settings, images, cells, runs and records made for tests."""

import dataclasses
import json

import numpy as np

from reproduce import outcomes, spec, yamlfile
from reproduce.datasets import DATASETS
from reproduce.datasets.data import Dataset
from reproduce.datasets.description import Source, last_validate
from reproduce.records import EpochRow, Result, runs


def settings(**over):
    """Small, valid settings (an MLP on MNIST); `over` is merged into data, net and train."""
    vanilla = {"kind": "vanilla", "eps": 1e-4, "alpha": 0.1}
    base = {
        "data": {
            **{"name": "mnist", "train": 600, "valid": 200, "test": 200},
            "preprocess": [{"step": "range", "low": -1, "high": 1}],
            "drop_incomplete": True,
        },
        "net": {
            **{"kind": "mlp", "hidden": [32, 32], "dropout_in": 0.2, "dropout_hidden": 0.1},
            **{"weights": "binary", "activation": "sign", "ste_mask": True},
            **{"norm": vanilla, "output_norm": vanilla, "init": "uniform", "bias_init": "zero"},
        },
        "train": {
            "optimizer": {"kind": "adam", "beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
            "rate": {"kind": "exponential", "start": 3e-3, "end": 1e-4},
            **{"weight_rate": "glorot", "bias_rate": "plain", "norm_rate": "plain", "clip": "weights"},
            **{"batch": 100, "epochs": 3},
        },
    }
    return spec.Settings.model_validate(yamlfile.merged(base, over))


FEWER = {"files": {"train": 6000, "test": 1000}, "split": last_validate(1000)}
"""What differs in MNIST's description for the made images of `data_folder`: a tenth as many. Experiment files may
still ask for MNIST's number of images, so that the committed ones can be read."""


def change(monkeypatch, name, **fields):
    """Changes `fields` of the data set `name`; `sources` may be plain functions of a folder."""
    if "sources" in fields:
        fields["sources"] = tuple(s if isinstance(s, Source) else Source(s) for s in fields["sources"])
    monkeypatch.setitem(DATASETS, name, dataclasses.replace(DATASETS[name], **fields))


def raising(error):
    """A function that raises `error`, whatever it is called with."""

    def fails(*_, **__):
        raise error

    return fails


def without_times(path):
    """A record without times, machine and checksum: a repeated run must give the same."""
    content = json.loads(path.read_text())
    for row in content["curve"]:
        del row["seconds"]
    return {key: value for key, value in content.items() if key not in ("started", "seconds", "sha256", "machine")}


def by_sgd(s):
    """The settings `s` with plain SGD as their optimizer."""
    return s.model_copy(update={"train": s.train.model_copy(update={"optimizer": spec.SGDRule(kind="sgd")})})


def convnet_settings(**over):
    base = settings().model_dump(mode="json")
    base["net"] = {k: v for k, v in base["net"].items() if k not in ("hidden", "dropout_in", "dropout_hidden")}
    base["net"] |= {"kind": "convnet", "channels": [4, 8], "dense": [16]}
    base["data"]["name"] = "cifar10"
    return spec.Settings.model_validate(yamlfile.merged(base, over))


def made_images(n, shape=(28, 28), seed=0):
    """Ten classes that a net can learn: a bright patch for each class, under noise. uint8 images, labels."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 10, n).astype(np.uint8)
    x = rng.integers(0, 80, (n, *shape)).astype(np.uint8)
    for label in range(10):
        top, left = 2 + 4 * (label // 5), 4 * (label % 5)
        x[y == label, top : top + 4, left : left + 4] += 120
    return x, y


def made_splits(shape=(28, 28), train=600, valid=200, test=200):
    sizes = {"train": train, "valid": valid, "test": test}
    return {part: made_images(n, shape, seed) for seed, (part, n) in enumerate(sizes.items())}


def made_cell(name="table1/made", **over):
    content = settings(**over)
    head = {"row": "BNN (Theano)", "dataset": "MNIST", "follows": "a test", "scale": "paper"}
    experiment = spec.Experiment.model_validate(head | content.model_dump(mode="json"))
    return spec.Cell(name=name, experiment=experiment, scales={"paper": content, "small": content}, mutants={})


def made_run(seed=0, digest="d" * 64, order="o" * 64, scale="small", variant=None, **over):
    cell = made_cell(**over)
    return runs.Run(cell, scale, seed, cell.scales[scale], Dataset("mnist", {}, digest, order), variant)


def made_record(run=None, error=2.0, wrong=None, **change):
    """A finished run; `wrong` (bool, for each test image) says which were wrong, and so determines the error.

    At the last epoch the error is a tenth smaller, and other images were wrong.
    """
    run = run or made_run()
    images, told = 10_000, {}
    if wrong is not None:
        error, images = 100 * int(wrong.sum()) / len(wrong), len(wrong)
        told = {"wrong_best": outcomes.pack(wrong), "wrong_last": outcomes.pack(np.roll(wrong, 1))}
    row = EpochRow(epoch=1, rate=1e-3, train_loss=0.1, valid_wrong=4, valid_loss=0.2, seconds=1.0)
    told |= {"test_error": error, "last_test_error": 0.9 * error, "test_images": images}
    result = Result(best_epoch=1, valid_error=2.0, valid_images=200, **told)
    record = run.record("2026-01-01T00:00:00+00:00", 1.0, status="finished", result=result, curve=[row])
    return record.model_copy(update=change)
