"""CIFAR-10: 32×32 colour images; the last 5,000 of the training file validate."""

from __future__ import annotations

from pathlib import Path

from reproduce.datasets.description import Arrays, Description, Source, as_bytes, last_validate


def torchvision_cifar10(scratch: Path) -> Arrays:
    from torchvision.datasets import CIFAR10

    train, test = (CIFAR10(str(scratch), train=train, download=True) for train in (True, False))
    return as_bytes(train.data, train.targets, test.data, test.targets)


CIFAR10 = Description(
    name="cifar10",
    title="CIFAR-10",
    image=(32, 32, 3),
    classes=10,
    files={"train": 50000, "test": 10000},
    splits={"train": 45000, "valid": 5000, "test": 10000},
    split=last_validate(5000),
    digest="22b089df9a71b3101a9b66e28a55c4722ca6989a990ca27889745fab687765ac",
    how="`reproduce data cifar10` downloads it through torchvision (170 MB)",
    sources=(Source(torchvision_cifar10, "https://www.cs.toronto.edu"),),
)
