"""Timing candidates against each other: interleaved, medians, bootstrap intervals of ratios."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Times = dict[str, NDArray[np.float64]]
Call = Callable[[], object]
Turn = Callable[[Call, int], float]  # mean seconds per call over a number of calls
UNSTEADY = 0.10  # a spread over this is warned about
LONG = 1.0  # seconds: a call that takes so long is warm after one call
PAUSE = 0.003  # seconds between turns: threads of the previous candidate spin for a while


def by_wall_clock(call: Call, repeats: int) -> float:
    """Mean seconds per call over `repeats` calls in a row."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def interleave(
    candidates: Mapping[str, Call],
    budget: float,
    least: int = 5,
    most: int = 31,
    floor: float = 0.02,
    turns: Mapping[str, Turn] | None = None,
    repeats_most: int = 1 << 30,
    failed: dict[str, str] | None = None,
) -> Times:
    """Seconds per call of each candidate, one number per round, after warm-up calls; each round has its own order.

    As many rounds as fit into `budget` seconds, but between `least` and `most`. In each turn a candidate is called
    often enough to fill `floor` seconds, at most `repeats_most` times. `turns`: clocks other than `by_wall_clock`,
    by candidate. With `failed`, a candidate that raises is left out and its error is stored there by its name;
    without, the error is raised.
    """
    names, turns, repeats = list(candidates), turns or {}, {}
    times: dict[str, list[float]] = {name: [] for name in names}

    def attempt(name: str, count: int) -> float | None:
        try:
            return turns.get(name, by_wall_clock)(candidates[name], count)
        except Exception as error:  # any error of a library
            if failed is None:
                raise
            failed[name] = said(error)
            times.pop(name, None)
            return None

    for name in names:
        one = attempt(name, 1)
        if one is not None and one < LONG:
            one = attempt(name, 1)
        repeats[name] = min(repeats_most, max(1, math.ceil(floor / max(one or floor, 1e-9))))
    order = np.random.default_rng(0)
    end = time.perf_counter() + budget
    for round_number in range(most):
        if round_number >= least and time.perf_counter() > end:
            break
        for index in order.permutation(len(names)):  # otherwise a candidate would always follow the same other one
            name = names[index]
            if name not in times:
                continue
            time.sleep(PAUSE)
            if repeats[name] > 1:
                attempt(name, 1)  # the turns of the others leave the caches cold
            if name in times and (taken := attempt(name, repeats[name])) is not None:
                times[name].append(taken)
    return {name: np.array(taken) for name, taken in times.items()}


def said(error: Exception) -> str:
    """An error as one line."""
    words = str(error).strip().splitlines()
    return f"{type(error).__name__}: {words[0]}" if words else type(error).__name__


def once(call: Callable[[], object]) -> NDArray[np.float64]:
    """Seconds of a single call, without warm-up: for calls that take too long to repeat."""
    start = time.perf_counter()
    call()
    return np.array([time.perf_counter() - start])


def spread(times: NDArray[np.float64]) -> float:
    """Distance between the 10th and the 90th percentile as a share of the median."""
    low, high = np.percentile(times, [10, 90])
    return float((high - low) / np.median(times))


def ratio(slow: NDArray[np.float64], fast: NDArray[np.float64], draws: int = 4000) -> dict[str, float | None]:
    """How many times faster `fast` is: the `ratio` of medians, `low` and `high` of its 95 % bootstrap interval.

    Rounds are drawn as pairs, since a disturbance of the machine affects both. The interval is None if the two
    were not timed in the same rounds, or in fewer than three.
    """
    found = float(np.median(slow) / np.median(fast))
    if len(slow) != len(fast) or len(slow) < 3:
        return {"ratio": found, "low": None, "high": None}
    drawn = np.random.default_rng(0).integers(0, len(slow), (draws, len(slow)))
    ratios = np.median(slow[drawn], axis=1) / np.median(fast[drawn], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return {"ratio": found, "low": float(low), "high": float(high)}


def row(what: str, candidate: str, times: Times, operations: float, **rest: Any) -> dict[str, Any]:
    """One row of a record: median and range of `candidate`, and how many times faster it is than each other one.

    operations: of one call, 2 per multiply-add.
    """
    mine = times[candidate]
    seconds = float(np.median(mine))
    return {
        "what": what,
        "candidate": candidate,
        "seconds": seconds,
        "fastest": float(mine.min()),
        "slowest": float(mine.max()),
        "rounds": len(mine),
        "spread": spread(mine),
        "operations_per_second": operations / seconds,
        "times_faster_than": {other: ratio(theirs, mine) for other, theirs in times.items() if other != candidate},
        **rest,
    }


def warnings(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each row that was unsteady."""
    return [
        f"{r['what']}, {r['candidate']}: unsteady, 10th to 90th percentile {100 * r['spread']:.0f} % of the median"
        for r in rows
        if r["spread"] > UNSTEADY
    ]
