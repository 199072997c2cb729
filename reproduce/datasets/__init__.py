"""The data sets that experiment files may name: one module each, which says all that is special about one."""

from reproduce.datasets.cifar10 import CIFAR10
from reproduce.datasets.description import Description
from reproduce.datasets.mnist import MNIST
from reproduce.datasets.svhn import SVHN, SVHN_TEST10K

DATASETS: dict[str, Description] = {one.name: one for one in (MNIST, CIFAR10, SVHN, SVHN_TEST10K)}


def add(found: Description) -> None:
    """Let experiment files name this data set. ValueError if its name is taken."""
    if found.name in DATASETS:
        raise ValueError(f"data set {found.name!r} is registered already")
    DATASETS[found.name] = found
