"""SVHN: house numbers, 32×32 in colour. Its train and extra files are one training file here.

`svhn_test10k` is the first 10,000 images of the test file, by index: 7,000 train, 1,000 validate, 2,000 test.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reproduce.datasets.description import Arrays, Description, Source, Split, as_bytes, content_digest

TEST10K = "fc776d7cc4faf7fd0145f70cd9c08332819756c0345e332d8bae18cb1b382170"
PLACE = "http://ufldl.stanford.edu"


def torchvision_svhn(scratch: Path) -> Arrays:
    from torchvision.datasets import SVHN

    train, extra, test = (SVHN(str(scratch), split=s, download=True) for s in ("train", "extra", "test"))
    x = np.concatenate([train.data, extra.data]).transpose(0, 2, 3, 1)
    y = np.concatenate([train.labels, extra.labels])
    return as_bytes(x, y, test.data.transpose(0, 2, 3, 1), test.labels)


def torchvision_svhn_test10k(scratch: Path) -> Arrays:
    from torchvision.datasets import SVHN

    test = SVHN(str(scratch), split="test", download=True)
    none = np.zeros(0, np.uint8)
    arrays = as_bytes(none, none, test.data[:10000].transpose(0, 2, 3, 1), test.labels[:10000])
    return {key: arrays[key] for key in ("x_test", "y_test")}


def _split(arrays: Arrays) -> dict[str, Split]:
    """The validation images are the first 400 a class of the train file and 200 a class of the extra file."""
    x, y = arrays["x_train"], arrays["y_train"]
    valid = np.zeros(len(y), bool)
    for start, stop, each in ((0, 73257, 400), (73257, len(y), 200)):
        for label in range(10):
            valid[start + np.flatnonzero(y[start:stop] == label)[:each]] = True
    return {
        "train": (x[~valid], y[~valid]),
        "valid": (x[valid], y[valid]),
        "test": (arrays["x_test"], arrays["y_test"]),
    }


def _split_test10k(arrays: Arrays) -> dict[str, Split]:
    x, y = arrays["x_test"], arrays["y_test"]
    parts = {"train": slice(7000), "valid": slice(7000, 8000), "test": slice(8000, None)}
    return {name: (x[part], y[part]) for name, part in parts.items()}


def _first_test_images(arrays: Arrays) -> bool:
    """Whether the first 10,000 test images are the known ones; the digest in the file itself proves nothing."""
    return content_digest({key: arrays[key][:10000] for key in ("x_test", "y_test")}) == TEST10K


SVHN = Description(
    name="svhn",
    title="SVHN",
    image=(32, 32, 3),
    classes=10,
    files={"train": 604388, "test": 26032},
    splits={"train": 598388, "valid": 6000, "test": 26032},
    split=_split,
    digest=None,  # torchvision checks the md5 of the .mat files
    how="`reproduce data svhn` downloads train, extra and test through torchvision (1.6 GB)",
    sources=(Source(torchvision_svhn, PLACE),),
    known=_first_test_images,
)
SVHN_TEST10K = Description(
    name="svhn_test10k",
    title="SVHN-test10k",
    image=(32, 32, 3),
    classes=10,
    files={"test": 10000},
    splits={"train": 7000, "valid": 1000, "test": 2000},
    split=_split_test10k,
    digest=TEST10K,
    how="`reproduce data svhn_test10k` takes it from SVHN's test file (64 MB, torchvision)",
    sources=(Source(torchvision_svhn_test10k, PLACE),),
    part_of="SVHN",
)
