"""Records of trained nets in other forms: as a file of bits, and exported for other tools."""

from __future__ import annotations

from typing import Any, Literal

from reproduce import spec
from reproduce.records.fields import Count, Measured, Natural, Percent, Sealed


class About(Measured):
    """The run whose net it is."""

    cell: str
    scale: spec.Scale
    seed: Natural
    key: str
    test_error: Percent | None = None
    """By the evaluation during the run."""


class _Net(Sealed):
    about: About
    data: str
    weights: Count
    bytes: Count
    """Size of the file."""
    wrong: Natural
    images: Count


class PackedRecord(_Net):
    """What `reproduce predict --record` and `reproduce publish` keep of a packed net."""

    kind: Literal["net"]
    quick: bool
    backend: str = ""
    """What ran it: "cpu (avx2, 2 threads)", "cuda-xnor (sm_90 on …)"."""
    differing: list[dict[str, Any]] | None = None
    """Images to which the float32 net gives another class (`packed.from_run`); None if they were not compared."""

    @property
    def unexplained(self) -> int | None:
        """How many of `differing` have another class in float64 too, where rounding decides next to nothing."""
        return None if self.differing is None else sum(d.get("float64") != d["packed"] for d in self.differing)


class ExportRecord(_Net):
    """What `reproduce export --record` keeps: the file, by its digest, and its proof."""

    kind: Literal["export"]
    file: str
    file_format: Literal["onnx", "qonnx", "npz"]
    file_sha256: str
