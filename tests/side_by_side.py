"""`reproduce` on the images and experiments of a folder, as a program, and in the processes that it starts.

    python tests/side_by_side.py FOLDER WORDS...

FOLDER: data/mnist.npz and experiments/, as `tests/campaign/test_parallel.py` makes them.
"""

import dataclasses
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from made import FEWER

from reproduce import spec
from reproduce.cli import app as cli
from reproduce.datasets import DATASETS, data

folder = Path(os.environ.setdefault("SIDE_BY_SIDE", sys.argv[1]))  # started processes see another argv
with np.load(folder / "data" / "mnist.npz") as arrays:
    digest = data.content_digest(dict(arrays))
DATASETS["mnist"] = dataclasses.replace(DATASETS["mnist"], digest=digest, **FEWER)
spec.cells.__defaults__ = (None, folder / "experiments")

if __name__ == "__main__":
    sys.argv[1:] = [*sys.argv[2:], "--data", str(folder / "data")]
    cli.main()
