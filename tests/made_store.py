"""A store of artificial records: every cell of the report except ablations, as if all had been trained."""

import itertools
import shutil

import numpy as np
import torch

from reproduce import files, report
from reproduce.datasets.data import Dataset
from reproduce.records import EpochRow, Result, filter_counts, runs

HOSTILE = "<script>document.title = 'run'</script> \"& $x_{$ \u4e2d"
SPREAD = (-0.04, 0.03, 0.0, -0.02, 0.05)  # of five seeds, in points around the intended error


def full_store(folder):
    """Write `folder`/runs, and the committed benchmarks beside it; the machine has a name that must be escaped."""
    (folder / "runs").mkdir(parents=True)
    shutil.copytree(runs.PUBLISHED / "kernels", folder / "kernels")
    for number, cell in enumerate(c for c in report.cells() if not c.ablation):
        published = cell.experiment.published
        aim = (published.value if published else 10.0) * (1, 1.005, 1.3, 0.7)[number % 4]
        scale = cell.experiment.scale
        for seed, off in enumerate(SPREAD):
            record = made_run(cell, scale, seed, aim + off)
            content = record.model_dump(mode="json", exclude_none=True)
            files.write_sealed(folder / "runs" / f"{record.stem}.json", content)


def made_run(cell, scale, seed, error):
    settings = cell.scales[scale]
    run = runs.Run(cell, scale, seed, settings, Dataset(settings.data.name, {}, "d" * 64, "o" * 64))
    epochs = 500 if settings.data.name == "cifar10" else 2
    curve = []
    for e, fall in ((e, np.exp(-e / 60)) for e in range(1, epochs + 1)):
        found = {"train_loss": 0.02 + fall, "valid_wrong": int(20 * error + 1500 * fall), "valid_loss": 0.3}
        curve.append(EpochRow(epoch=e, rate=1e-3, seconds=1.0, **found))
    errors = {"valid_error": error, "test_error": error, "last_test_error": error + 0.1}
    result = Result(best_epoch=epochs, valid_images=2000, test_images=10_000, **errors)
    told = {"status": "finished", "result": result, "curve": curve, "filters": made_filters(settings, seed)}
    record = run.record("2026-01-01T00:00:00+00:00", 60.0, **told)
    of = {"machine": record.machine | {"name": HOSTILE}, "code": record.code | {"dirty": seed == 0}}
    return record.model_copy(update=of)


def made_filters(settings, seed):
    """Filter counts of a binary ConvNet with random signs; None for other nets."""
    if settings.net.kind != "convnet" or settings.net.weights != "binary":
        return None
    widths = [3, *(w // 4 for w in settings.net.channels for _ in range(2))]
    rng = np.random.default_rng(seed)
    shapes = ((out, maps, 3, 3) for maps, out in itertools.pairwise(widths))
    made = (torch.from_numpy(rng.standard_normal(shape)) for shape in shapes)
    return filter_counts.of_net({f"{i}.layer.weight": weights for i, weights in enumerate(made)})
