"""Products of random ±1 matrices on a GPU: every CUDA backend, the naive kernel, NVIDIA's libraries.

Rows as in `on_cpu`. Operands and results stay on the GPU. Kernels alone are timed by device events; packing is
timed by a clock on the host, because it waits for the GPU to report a NaN (`clock`). A candidate that raises, or
whose integers differ from the float32 product, has no row; its error is reported instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import kernels
from kernels import Thresholds, cuda
from kernels.backend import GPU
from kernels.bench import clock, cublas, timing
from kernels.cuda import arrays

if TYPE_CHECKING:
    from torch import Tensor

Say = Callable[[str], None]
SIZES = (1024, 2048, 4096, 8192)
BACKENDS = ("cuda-wgmma", "cuda-bmma", "cuda-xnor")
"""The backend most like the paper's kernel is last: the report compares the last one with the paper's."""
NAIVE, FP32 = "naive float32 (cuda-naive)", "torch float32"
LIBRARY = {FP32: "float32", "torch tf32": "tf32", "torch bfloat16": "bfloat16", "torch int8 (_int_mm)": "int8"}
DEVICE = "cuda"  # torch's name of CuPy's device
REPEATS = 50  # most calls between two events; a launch queue holds about a thousand

Failures = list[dict[str, str]]


def products(say: Say, broken: Mapping[str, str], quick: bool = False) -> tuple[list[dict[str, Any]], Failures]:
    """Rows for the products of each size, and the candidates that failed.

    broken: backends to leave out, and why. quick: tiny sizes, for tests.
    """
    rows: list[dict[str, Any]] = []
    failed: Failures = []
    for size in (32, 64) if quick else SIZES:
        what = f"product of {size}×{size} matrices"
        say(what)
        errors = {f"xnor {name}": reason for name, reason in broken.items() if name in BACKENDS}
        times, readings = _times(size, broken, quick, errors)
        failed += [{"what": what, "candidate": name, "error": error} for name, error in errors.items()]
        rows += _rows(what, size, times, readings)
    return rows, failed


def _times(
    size: int, broken: Mapping[str, str], quick: bool, errors: dict[str, str]
) -> tuple[timing.Times, dict[str, float] | None]:
    """Times of the candidates with right results, and the GPU's clocks afterwards; adds to `errors` by name."""
    import torch

    torch.manual_seed(size)
    left, right = (torch.randint(0, 2, (size, size), dtype=torch.int8, device=DEVICE) * 2 - 1 for _ in range(2))
    rng = np.random.default_rng(size)
    rule = Thresholds(rng.integers(-size // 8, size // 8 + 1, size), rng.random(size) < 0.5)
    want = cublas.matmul(*cublas.operands(left, right, "float32"), "float32").to(torch.int32)
    candidates, waiting = _candidates(left, right, rule, broken, errors)
    for name in list(candidates):
        try:
            wrong = _wrong(name, candidates[name](), want, rule)
        except Exception as error:  # a failed launch, no memory, an error of the driver
            wrong = timing.said(error)
        if wrong:
            errors[name] = wrong
            del candidates[name]
    events = clock.Events()
    turns = {name: clock.waiting if name in waiting else events for name in candidates}
    budget, least, floor = (0.05, 3, 0.0) if quick else (5.0, 5, 0.01)
    times = timing.interleave(candidates, budget, least, 15, floor, turns, REPEATS, errors)
    return times, clock.readings()


def _candidates(
    left: Tensor, right: Tensor, rule: Thresholds, broken: Mapping[str, str], errors: dict[str, str]
) -> tuple[dict[str, Callable[[], Any]], set[str]]:
    """The candidates for int8 ±1 operands (M, K), (N, K) by name, and the names of those that wait for the GPU."""
    import cupy
    import torch

    real = [arrays.as_cupy(x.to(torch.float32))[0] for x in (left, right)]
    out = cupy.empty((len(left), len(right)), cupy.int32)
    found: dict[str, Callable[[], Any]] = {}
    waiting = set()
    for name in BACKENDS:
        try:
            if name in broken or GPU[name].unavailable():
                continue
            a, b = (kernels.pack(x, name) for x in real)
        except Exception as error:
            errors[f"xnor {name}"] = timing.said(error)
            continue
        found[f"xnor {name}, kernel alone"] = partial(kernels.xnor_matmul, a, b, name, out)
        found[f"xnor {name}, to bits by thresholds"] = partial(kernels.xnor_matmul_threshold, a, b, rule, name)
        found[f"xnor {name}, with packing"] = partial(kernels.xnor_matmul, real[0], real[1], name, out)
        waiting.add(f"xnor {name}, with packing")
    if "cuda-naive" not in broken:
        turned = cupy.ascontiguousarray(arrays.as_cupy(right.t().to(torch.float32))[0])
        found[NAIVE] = partial(cuda.naive_product, real[0], turned)
    for name, way in LIBRARY.items():
        found[name] = partial(cublas.matmul, *cublas.operands(left, right, way), way)
    return found, waiting


def _wrong(name: str, found: Any, want: Tensor, rule: Thresholds) -> str | None:
    """The error of a candidate's result in words, or None. bfloat16 may round its sums to 8 bits."""
    import torch

    if isinstance(found, kernels.GpuPacked):
        right = kernels.pack(np.where(rule.apply(want.cpu().numpy()), np.int8(1), np.int8(-1)))
        count = int(np.bitwise_count(kernels.to_host(found).words ^ right.words).sum())
        return f"wrong results: {count} of {want.numel()} bits" if count else None
    result = found if isinstance(found, torch.Tensor) else arrays.as_torch(found)
    if name == "torch bfloat16":
        off = (result.float() - want.float()).abs() > want.float().abs() / 64
    else:
        off = result.to(torch.int32) != want
    count = int(off.sum())
    return f"wrong results: {count} of {want.numel()} integers" if count else None


def _rows(what: str, size: int, times: timing.Times, readings: dict[str, float] | None) -> list[dict[str, Any]]:
    bounds = clock.bounds(readings)
    fp32, rows = bounds["fp32_peak"], []
    for name in times:
        found = timing.row(what, name, times, 2.0 * size**3, size=size)
        rate = found["operations_per_second"]
        bound = "fp32_peak" if name in (NAIVE, FP32) else None
        bound = "popcount_peak" if name.startswith("xnor cuda-xnor") else bound
        peak = bounds[bound] if bound else None
        found |= {"bound": bound, "peak": peak, "share_of_bound": None if peak is None else rate / peak}
        found |= {"of_fp32_peak": None if fp32 is None else rate / fp32, "readings": readings}
        rows.append(found | {"clock": "host" if name.endswith("with packing") else "events"})
    return rows
