"""Runs compared by which test images they got wrong: disagreement, and McNemar's exact test."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from reproduce import outcomes
from reproduce.records import Record
from reproduce.report.html.parts import Column, Section, Table
from reproduce.report.sections.table1 import with_note, with_order

SAME, DIFFERENT, IDENTICAL = "no difference seen", "different", "the same runs"


@dataclass(frozen=True)
class McNemar:
    """Two runs on the same images: how many images only one of the two got wrong, and McNemar's exact test."""

    images: int
    only_first: int
    only_second: int

    @property
    def disagreement(self) -> float:
        """Images that one run got right and the other wrong, in percent of all."""
        return 100 * (self.only_first + self.only_second) / self.images

    @property
    def p(self) -> float:
        """Two-sided p-value of the split, if either run were equally likely to be the wrong one."""
        of = self.only_first + self.only_second
        return float(stats.binomtest(self.only_first, of).pvalue) if of else 1.0


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> McNemar:
    """Two runs compared by which images they got wrong, both (N,) and of the same images in the same order."""
    return McNemar(len(first), int((first & ~second).sum()), int((second & ~first).sum()))


def image_by_image(first: Record, second: Record) -> McNemar | str:
    """Compare two finished runs at their best validation epochs on common test images; or why that cannot be.

    A run is tested on the first images of its data set's test split. So of two runs on the same data in the same
    order, both were tested on as many of these images as the one with fewer.
    """
    one, two = first.result, second.result
    if one is None or two is None or one.wrong_best is None or two.wrong_best is None:
        return "not known which images were wrong"
    if (first.data.name, first.data.digest) != (second.data.name, second.data.digest):
        return "other test images"
    if first.data.order != second.data.order:
        return "images in another order"
    shared = min(one.test_images, two.test_images)
    wrong = (
        outcomes.unpack(text, r.test_images)[:shared] for text, r in ((one.wrong_best, one), (two.wrong_best, two))
    )
    return mcnemar(*wrong)


def pairs(first: Sequence[Record], second: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Runs of the same seeds; where there are none, the runs in the order of their seeds."""
    both = [(a, b) for a in first for b in second if a.seed == b.seed]
    return both or list(zip(*(sorted(g, key=lambda r: r.seed) for g in (first, second)), strict=False))


def frame(sides: Sequence[tuple[dict[str, object], list[Record], list[Record]]]) -> pd.DataFrame:
    """A line for each pair of runs: disagreement in percent, McNemar's exact test, or why they are not compared.

    Of each of the `sides` there are what is compared (columns), and the runs of both.
    `within_first` and `within_second`: the mean disagreement of two runs of one side, as a yardstick.
    """
    lines = []
    for what, first, second in sides:
        within = {"within_first": _within(first), "within_second": _within(second)}
        for one, two in pairs(first, second):
            line = what | within | {"seed_first": one.seed, "seed_second": two.seed}
            of = image_by_image(one, two)
            if isinstance(of, str):
                lines.append(line | {"verdict": f"not compared: {of}"})
                continue
            line |= {"images": of.images, "only_first": of.only_first, "only_second": of.only_second}
            words = IDENTICAL if (one.key, one.started) == (two.key, two.started) else SAME
            words = DIFFERENT if of.p < 0.05 else words
            lines.append(line | {"disagreement": of.disagreement, "p": of.p, "verdict": words})
    columns = "cell row dataset scale order first second seed_first seed_second images".split()
    columns += ["only_first", "only_second", "disagreement", "within_first", "within_second", "p", "verdict"]
    return pd.DataFrame(lines, columns=[*columns, "dirty", "note", "records"])


def _within(group: Sequence[Record]) -> float | None:
    """Mean disagreement, in percent, of two runs of a group; None where there are no two that can be compared."""
    found = [image_by_image(a, b) for a, b in itertools.combinations(group, 2)]
    known = [of.disagreement for of in found if isinstance(of, McNemar)]
    return float(np.mean(known)) if known else None


def section(
    sides: Sequence[tuple[dict[str, object], list[Record], list[Record]]], caption: str, named: Sequence[Column]
) -> Section:
    """The table of all pairs of runs; `named` are the columns that say which second side it is, if need be."""
    found = frame(sides)
    columns = (
        *(Column("row", "row"), Column("dataset", "data set"), Column("scale", "scale"), *named),
        *(Column("seed_first", "seed", 0), Column("seed_second", "and", 0), Column("images", "images", 0)),
        *(Column("only_first", "only first wrong", 0), Column("only_second", "only second wrong", 0)),
        Column("disagreement", "disagree", 2, "%"),
        Column("within_first", "within first", 2, "%", "mean disagreement of two runs of the first side"),
        Column("within_second", "within second", 2, "%", "mean disagreement of two runs of the second side"),
        *(Column("p", "p", 4, "", "McNemar's exact test, two-sided"), Column("verdict", "verdict")),
    )
    text = (
        "Runs of the same seed, or, without a common one, in the order of their seeds, at the best validation "
        "epoch, on the test images that both were tested on. Two runs disagree on an image that one got right and "
        "the other wrong. McNemar's exact test asks whether such images are split evenly between the two; "
        "“different” means p < 0.05, which one pair in twenty reaches by chance. The test is about two nets; "
        "whether two recipes differ shows in whether their runs disagree more than runs of one recipe do.",
    )
    table = Table("compare-images", caption, found, with_note(found, *with_order(found, *columns)))
    return Section("compare-images", "Image by image", text, (table,))
