"""Whole trainings: each way to compute a step differs from float64 only by chance; a missing mask is detected."""

import numpy as np
import pytest
import torch
from made import made_images, settings
from scipy import stats

from reproduce.training import preprocess, train

CPU = torch.device("cpu")
SEEDS = range(8)
MARGIN = 2.0  # points of validation error within which two ways count as equal; a missing mask costs 6


def noisy(n, seed):
    """The artificial images with so much noise that nets err on more than a quarter."""
    x, y = made_images(n, seed=seed)
    noise = np.random.default_rng(seed + 100).integers(-200, 200, x.shape)
    return np.clip(x.astype(int) + noise, 0, 255).astype(np.uint8), y


def errors(tmp_path, double=False, masked=True):
    """Validation error in percent after three epochs, one for each seed."""
    s = settings(
        data={"train": 8000, "valid": 2000},
        net={"hidden": [64, 64, 64], "dropout_in": 0.0, "dropout_hidden": 0.0, "ste_mask": masked},
        train={"batch": 50, "rate": {"start": 3e-3, "end": 3e-3}},
    )
    splits = {"train": noisy(8000, 1), "valid": noisy(2000, 2), "test": noisy(200, 3)}
    data = preprocess.prepare(splits, s.data, True, CPU)
    if double:
        for part, d in data.items():
            rows = d.images(torch.arange(len(d))).double()
            data[part] = preprocess.DeviceData(rows, d.labels, (), 1.0, torch.zeros(()))
    found = []
    for seed in SEEDS:
        outcome = train.fit(s, data, seed, tmp_path / "none.ckpt", CPU, checkpoint_seconds=1e9)
        assert len(outcome.curve) == 3
        found.append(100 * outcome.curve[-1]["valid_wrong"] / 2000)
    return np.array(found)


class Double(train.Classifier):
    """Training in float64."""

    def __init__(self, *args):
        super().__init__(*args)
        self.double()


@pytest.mark.slow
def test_validation_error_is_that_of_float64_and_a_missing_mask_shows(way, tmp_path, monkeypatch):
    mine, unmasked = errors(tmp_path), errors(tmp_path, masked=False)
    monkeypatch.setattr(train, "Classifier", Double)
    exact = errors(tmp_path, double=True)
    print(way, mine.mean(), exact.mean(), unmasked.mean())
    against = stats.ttest_ind(mine, exact, equal_var=False)
    assert against.pvalue > 0.01
    low, high = against.confidence_interval(0.9)  # two one-sided tests at 5 %
    assert -MARGIN < low and high < MARGIN
    for other in (mine, exact):
        told = stats.ttest_ind(unmasked, other, equal_var=False)
        assert told.pvalue < 1e-3 and told.confidence_interval(0.9)[0] > MARGIN
