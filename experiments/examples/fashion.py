"""Fashion-MNIST: 28×28 gray pictures of clothes. The last 10,000 training images validate, as for MNIST."""

from pathlib import Path

from reproduce import datasets
from reproduce.datasets.description import Arrays, Description, Source, as_bytes, last_validate


def torchvision_fashion(scratch: Path) -> Arrays:
    from torchvision.datasets import FashionMNIST

    train, test = (FashionMNIST(str(scratch), train=train, download=True) for train in (True, False))
    return as_bytes(train.data.numpy(), train.targets.numpy(), test.data.numpy(), test.targets.numpy())


datasets.add(
    Description(
        name="fashion",
        title="Fashion-MNIST",
        image=(28, 28),
        classes=10,
        files={"train": 60000, "test": 10000},
        splits={"train": 50000, "valid": 10000, "test": 10000},
        split=last_validate(10000),
        digest=None,  # not pinned; torchvision checks the md5 of each downloaded file
        how="`reproduce data fashion --use …/fashion.py` downloads it through torchvision (30 MB)",
        sources=(Source(torchvision_fashion, "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"),),
    )
)
