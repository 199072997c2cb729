"""Preprocessing against direct formulas in float64."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from made import convnet_settings, made_splits, settings
from scipy import ndimage

from reproduce import spec
from reproduce.training import preprocess

CPU = torch.device("cpu")


def prepared(steps, flat=False, shape=(32, 32, 3), **sizes):
    split = made_splits(shape, **sizes)
    base = settings if flat else convnet_settings
    data = base(data={"preprocess": [{"step": "range", "low": 0, "high": 1}, *steps]}).data
    return split, preprocess.prepare(split, data, flat, CPU)


def rows(ready, part="train"):
    data = ready[part]
    x = data.images(torch.arange(len(data)))
    return (x.permute(0, 2, 3, 1) if x.dim() == 4 else x).reshape(len(data), -1).double().numpy()


def floats(split, part="train"):
    return split[part][0].reshape(len(split[part][0]), -1) / 255


def test_affine_steps_keep_the_data_in_uint8():
    data = settings().data
    split = made_splits()
    ready = preprocess.prepare(split, data, True, CPU)
    assert ready["train"].rows.dtype == torch.uint8
    np.testing.assert_allclose(rows(ready), 2 * floats(split) - 1, atol=1e-6)
    assert ready["train"].labels.tolist() == split["train"][1].tolist()
    split, ready = prepared([{"step": "center"}, {"step": "standardize"}], flat=True, shape=(28, 28))
    centred = floats(split) - floats(split).mean(0)
    assert ready["train"].rows.dtype == torch.uint8
    np.testing.assert_allclose(rows(ready), centred / centred.std(), atol=1e-5)


def test_images_are_channels_last_views_of_the_right_pixels():
    split, ready = prepared([])
    x = ready["train"].images(torch.tensor([5, 3]))
    assert x.shape == (2, 3, 32, 32) and x.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(x[1, 2, 7, 9].item(), split["train"][0][3, 7, 9, 2] / 255, atol=1e-6)


def test_zca_whitens_the_training_split_and_only_fits_on_it():
    split = made_splits((4, 4, 3), train=3000)
    x = torch.from_numpy(split["train"][0].reshape(3000, -1) / 255.0).float()
    mean, matrix = preprocess.zca(x, 1e-9)
    white = ((x - mean) @ matrix).double().numpy()
    np.testing.assert_allclose(white.T @ white / len(white), np.eye(48), atol=2e-3)
    mean, matrix = preprocess.zca(x, 0.1)
    wide = x.double().numpy() - x.double().numpy().mean(0)
    values, vectors = np.linalg.eigh(wide.T @ wide / len(wide))
    np.testing.assert_allclose(matrix.numpy(), vectors / np.sqrt(values + 0.1) @ vectors.T, atol=1e-5)


@pytest.mark.parametrize("threads", ["1", "2"])
def test_no_other_librarys_threads_change_whitened_images(threads):
    script = "import sys, torch, test_preprocess as t; sys.stdout.buffer.write(t.whitened().numpy().tobytes())"
    environment = os.environ | {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == whitened().numpy().tobytes()


def whitened():
    split = made_splits((16, 16, 3), train=1000)
    _, matrix = preprocess.zca(torch.from_numpy(split["train"][0].reshape(1000, -1) / 255.0).float(), 0.1)
    return matrix


def window(size):
    at = np.arange(size) - size // 2
    found = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / 8)
    return found / found.sum()


# --- every sequence of steps ----------------------------------------------------------------------------------

STEPS = [
    {"step": "standardize"},
    {"step": "center"},
    {"step": "gcn", "scale": 2.0, "use_std": False, "sqrt_bias": 0.5},
    {"step": "gcn", "scale": 1.0, "use_std": True, "sqrt_bias": 10.0},
    {"step": "zca", "bias": 0.1},
    {"step": "lcn", "as_in": "dp", "kernel": 3, "threshold": 1e-4},
    {"step": "lcn", "as_in": "pylearn2", "kernel": 5, "threshold": 1e-4},
    {"step": "divide_by_max"},
]
SEQUENCES = [list(steps) for n in (0, 1, 2) for steps in itertools.product(STEPS, repeat=n)]


def plainly(step, parts):
    """One step in NumPy float64: rows (N, 6, 6, 3) of each split."""
    train = parts["train"]
    match step["step"]:
        case "range":
            return {k: step["low"] + (step["high"] - step["low"]) * x / 255 for k, x in parts.items()}
        case "standardize":
            return {k: (x - train.mean()) / train.std() for k, x in parts.items()}
        case "center":
            return {k: x - train.mean(0) for k, x in parts.items()}
        case "divide_by_max":
            return {k: x / x.max() for k, x in parts.items()}
        case "gcn":
            axes = (1, 2, 3)
            found = {}
            for k, x in parts.items():
                x = x - x.mean(axes, keepdims=True)
                power = x.var(axes, ddof=1, keepdims=True) if step["use_std"] else (x**2).sum(axes, keepdims=True)
                found[k] = step["scale"] * x / np.sqrt(step["sqrt_bias"] + power)
            return found
        case "zca":
            flat = train.reshape(len(train), -1)
            values, vectors = np.linalg.eigh(np.cov(flat.T, bias=True))
            white = vectors / np.sqrt(values + step["bias"]) @ vectors.T
            return {k: ((x.reshape(len(x), -1) - flat.mean(0)) @ white).reshape(x.shape) for k, x in parts.items()}
        case "lcn":
            found = {}
            for k, x in parts.items():
                smooth = window(step["kernel"])[None, :, :, None]
                v = x - ndimage.convolve(x, smooth, mode="constant")
                if step["as_in"] == "dp":
                    found[k] = v / (v.std((1, 2), ddof=1, keepdims=True) + step["threshold"])
                    continue
                local = np.sqrt(np.maximum(ndimage.convolve(x**2, smooth, mode="constant"), 0))
                mean = local.mean((1, 2), keepdims=True)
                found[k] = x.copy()
                divisor = np.maximum(np.maximum(local, mean), step["threshold"])
                found[k][..., 0] = (v / divisor)[..., 0]
            return found
    raise AssertionError(step)


def compare_with_formulas(steps, split):
    data = convnet_settings(data={"preprocess": steps}).data
    ready = preprocess.prepare(split, data, False, CPU)
    expected = {k: x.astype(np.float64) for k, (x, _) in split.items()}
    for step in steps:
        expected = plainly(step, expected)
    for part in split:
        wanted = expected[part].reshape(len(expected[part]), -1)
        np.testing.assert_allclose(rows(ready, part), wanted, atol=2e-4 * np.abs(wanted).max(), err_msg=part)


@pytest.mark.parametrize("low", [-1, 0])
@pytest.mark.parametrize("steps", SEQUENCES, ids=lambda steps: "-".join(s["step"] for s in steps) or "none")
def test_every_sequence_of_steps_is_what_its_formulas_give(steps, low):
    steps = [{"step": "range", "low": low, "high": 1}, *steps]
    split = made_splits((12, 20, 3), train=150, valid=20, test=30)
    split = {k: (x[:, 1:7, 2:8], y) for k, (x, y) in split.items()}  # a crop that contains a patch in some images
    compare_with_formulas(steps, split)


@pytest.mark.parametrize("step", [s for s in STEPS if s["step"] != "divide_by_max"], ids=lambda s: s["step"])
def test_steps_use_every_image_of_a_set_larger_than_the_parts_in_which_it_is_read(step):
    """Parts are of 5,000 or 10,000 images; the last one here has 7."""
    steps = [{"step": "range", "low": 0, "high": 1}, step]
    split = {k: (x[:, 1:6, 2:7], y) for k, (x, y) in made_splits((12, 20, 3), train=10_007).items()}
    compare_with_formulas(steps, split)


def test_an_image_without_contrast_becomes_zero_by_gcn_without_a_bias():
    """As in the paper's cells; pylearn2 divides by 1 there."""
    step = {"step": "gcn", "scale": 55.0, "use_std": False, "sqrt_bias": 0.0}
    split = made_splits((12, 20, 3))
    split["train"][0][3] = 0
    steps = [{"step": "range", "low": 0, "high": 1}, step]
    ready = preprocess.prepare(split, convnet_settings(data={"preprocess": steps}).data, False, CPU)
    found = rows(ready)
    assert not found[3].any()
    others = np.delete(split["train"][0], 3, axis=0)
    wanted = plainly(step, {"train": others / 255})["train"].reshape(len(others), -1)
    np.testing.assert_allclose(np.delete(found, 3, axis=0), wanted, atol=1e-3)


def test_a_step_that_would_divide_by_zero_is_named():
    with pytest.raises(spec.SpecError, match=r"^data.preprocess: standardize: .* nothing to divide by$"):
        prepared([{"step": "center"}, {"step": "standardize"}], train=1)
