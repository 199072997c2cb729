import numpy as np
import pytest
import torch

from reproduce import data, spec

torch.set_num_threads(1)  # the nets here are tiny, and the other core may be busy


def settings(**over):
    """Small, valid settings (an MLP on MNIST); `over` is merged into data, net and train."""
    vanilla = {"kind": "vanilla", "eps": 1e-4, "alpha": 0.1}
    base = {
        "data": {
            "name": "mnist",
            "train": 600,
            "valid": 200,
            "test": 200,
            "preprocess": [{"step": "range", "low": -1, "high": 1}],
            "drop_incomplete": True,
        },
        "net": {
            "kind": "mlp",
            "hidden": [32, 32],
            "dropout_in": 0.2,
            "dropout_hidden": 0.1,
            "weights": "binary",
            "activation": "sign",
            "norm": vanilla,
            "output_norm": vanilla,
            "init": "uniform",
            "bias_init": "zero",
        },
        "train": {
            "optimizer": {"kind": "adam", "beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
            "rate": {"kind": "exponential", "start": 3e-3, "end": 1e-4},
            "weight_rate": "glorot",
            "bias_rate": "plain",
            "norm_rate": "plain",
            "clip": "weights",
            "batch": 100,
            "epochs": 3,
        },
    }
    return spec.Settings.model_validate(spec._merged(base, over))


CONVNET = {
    "data": {"name": "cifar10"},
    "net": {
        "kind": "convnet",
        "channels": [4, 8],
        "dense": [16],
        "weights": "binary",
        "activation": "sign",
        "norm": {"kind": "vanilla", "eps": 1e-4, "alpha": 0.1},
        "output_norm": {"kind": "vanilla", "eps": 1e-4, "alpha": 0.1},
        "init": "uniform",
        "bias_init": "zero",
    },
}


def convnet_settings(**over):
    base = settings().model_dump(mode="json")
    base["net"] = CONVNET["net"]
    base["data"]["name"] = "cifar10"
    return spec.Settings.model_validate(spec._merged(base, over))


def made_images(n, shape=(28, 28), seed=0):
    """Ten classes that can be told apart: one bright patch a class under noise; uint8 images, labels."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 10, n).astype(np.uint8)
    x = rng.integers(0, 80, (n, *shape)).astype(np.uint8)
    for i, label in enumerate(y):
        x[i, 2 + 4 * (label // 5) : 6 + 4 * (label // 5), 4 * (label % 5) : 4 * (label % 5) + 4] += 120
    return x, y


def made_splits(shape=(28, 28), train=600, valid=200, test=200):
    sizes = {"train": train, "valid": valid, "test": test}
    return {part: made_images(n, shape, seed) for seed, (part, n) in enumerate(sizes.items())}


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    """A data folder with made images under the name mnist, its digest pinned for the test."""
    x_train, y_train = made_images(60000, seed=1)
    x_test, y_test = made_images(10000, seed=2)
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    folder = tmp_path / "data"
    folder.mkdir()
    np.savez(folder / "mnist.npz", **arrays)
    monkeypatch.setitem(data.DIGESTS, "mnist", data.content_digest(arrays))
    return folder
