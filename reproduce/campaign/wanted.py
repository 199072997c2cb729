"""Which runs a campaign is to make: cells × seeds at a scale, and a machine's share of them."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from reproduce import spec, yamlfile

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """One run to be made, before its data have been looked for."""

    cell: spec.Cell
    scale: spec.Scale
    seed: int
    settings: spec.Settings
    variant: str | None = None

    @contextlib.contextmanager
    def environment(self) -> Iterator[None]:
        """A block with the products ($REPRODUCE_PRODUCTS) that all arms of the run's ablation are trained with."""
        chosen = self.cell.ablation.products if self.cell.ablation else None
        with patch.dict(os.environ, {"REPRODUCE_PRODUCTS": chosen} if chosen else {}):
            yield


def auto_scale(cells: Sequence[spec.Cell], device: str) -> spec.Scale:
    """paper with CUDA, else small; if no cell has that, but all have the same other scale, that one."""
    usual: spec.Scale = "paper" if device == "cuda" else "small"
    own = {cell.experiment.scale for cell in cells}
    return own.pop() if len(own) == 1 and not any(cell.at(usual) for cell in cells) else usual


def runs_wanted(
    cells: Sequence[spec.Cell], scale: spec.Scale, seeds: Sequence[int] | None, say: Say, first: int = 0
) -> list[Wanted]:
    """Cells × seeds at a scale, seed by seed, so that an interrupted campaign still covers every cell.

    Without `seeds` each cell gets as many as its file says, numbered from `first`. Raises ValueError if no cell
    has that scale.
    """
    every = seeds or range(first, first + max(cell.experiment.seeds for cell in cells))
    found = []
    for number, seed in enumerate(every):
        for cell in cells:
            settings = cell.at(scale)
            if settings is not None and (seeds or number < cell.experiment.seeds):
                found.append(Wanted(cell, scale, seed, settings))
            elif settings is None and not number:
                say(f"{cell.name} has no {scale} scale; left out")
    if not found:
        raise ValueError(f"no cell with a {scale} scale: nothing to run")
    return found


def check_pairs(cells: Sequence[spec.Cell]) -> None:
    """ValueError if arms of an ablation would be trained in different ways on this CPU, and be no pairs."""
    from reproduce.nets import products
    from reproduce.training import step

    reasons: dict[Path | None, dict[str, str | None]] = {}
    for cell in cells:
        settings = cell.at("small")
        if cell.ablation and not cell.ablation.products and settings and products.mode("cpu") == "fixed16":
            reasons.setdefault(cell.path, {})[cell.arm] = step.why_autograd(settings)
    for path, arms in reasons.items():
        by_autograd = [arm for arm, reason in arms.items() if reason]
        if 0 < len(by_autograd) < len(arms):
            arm = by_autograd[0]
            where = "" if path is None else f"{yamlfile.shown(path)}: "
            raise ValueError(
                f"{where}the steps of arm {arm} go through autograd ({arms[arm]}), those of others do not: add "
                "`products: float32`, or they cannot be compared"
            )


def share(plan: Sequence[Wanted], part: str) -> list[Wanted]:
    """Part i of n of a plan, for "i/n" with 1 <= i <= n: every n-th run. ValueError for anything else."""
    found = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", part)
    if not found or int(found[1]) > int(found[2]):
        raise ValueError(f"--shard takes i/n with 1 <= i <= n, not {part!r}")
    return list(plan[int(found[1]) - 1 :: int(found[2])])


def describe(item: Wanted) -> str:
    name = f"{item.cell.experiment.row}, {item.cell.dataset_at(item.scale)}, {item.scale} scale, seed {item.seed}"
    return f"{name}, {item.variant}" if item.variant else name
