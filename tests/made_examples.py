"""The examples, and artificial data sets for them, for a test that trains them."""

import json

import numpy as np
from made import change, made_images

from reproduce import extensions, spec, yamlfile
from reproduce.datasets import DATASETS, data
from reproduce.datasets.description import last_validate

FOLDER = spec.EXPERIMENTS / "examples"
NAMES = ("NETS", "ACTIVATIONS", "WEIGHTS", "NORMS", "OPTIMIZERS", "RATES", "LOSSES", "PREPROCESSING")
REGISTRIES = [getattr(spec, name) for name in NAMES]
SIZES = {"train": 1200, "valid": 200, "test": 200}


def registered():
    """The state that modules given by --use change."""
    return [DATASETS, extensions._USED, *(part for r in REGISTRIES for part in (r.schemas, r._made))]


def made_data(monkeypatch, folder, name, image=(28, 28), classes=10):
    """A small data set of made images under a known name, in a data folder; its digest is known."""
    files = {"train": SIZES["train"] + SIZES["valid"], "test": SIZES["test"]}
    arrays = {}
    for seed, (part, n) in enumerate(files.items()):
        arrays[f"x_{part}"], y = made_images(n, image, seed)
        arrays[f"y_{part}"] = y % classes
    digest = data.content_digest(arrays)
    change(monkeypatch, name, files=files, split=last_validate(200), digest=digest, sources=())
    folder.mkdir(exist_ok=True)
    np.savez(folder / f"{name}.npz", **arrays)


def shortened(source, folder):
    """An example's file for so few images, one epoch."""
    content = yamlfile.read_yaml(source)
    content["data"] |= SIZES
    content["train"] |= {"epochs": 1, "batch": 20}
    for key, value in {"hidden": [64, 64], "channels": [16, 32], "dense": [32], "widths": [16, 32]}.items():
        if key in content["net"]:
            content["net"][key] = value
    folder.mkdir(exist_ok=True)
    path = folder / source.name
    path.write_text(json.dumps(content))
    return path
