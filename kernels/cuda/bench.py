"""First timings on a GPU: python -m kernels.cuda.bench [--sizes 1024 8192] [--json FILE].

For each size the square product of random ±1 operands, packed beforehand, by every CUDA backend, as integers and
as bits, then by cuBLAS; kernels only, device events, warm-up left out, medians of runs that rotate among the
candidates. The first result of each candidate is compared with the others'. Exit code 2 without a GPU.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kernels import cuda, pack
from kernels.cuda import cublas, launch
from kernels.packed import Packed, Thresholds

ROUNDS, SECONDS = 15, 0.02


def candidates(a: Any, b: Any, rule: Thresholds, naive_until: int) -> dict[str, Callable[[], Any]]:
    """What is timed for CuPy int8 ±1 operands (M, K) and (N, K), by name."""
    import cupy
    from torch.utils.dlpack import from_dlpack

    calls: dict[str, Callable[[], Any]] = {}
    left, right = pack(a), pack(b)
    out = cupy.empty((a.shape[0], b.shape[0]), cupy.int32)
    for backend in (cuda.WGMMA, cuda.BMMA, cuda.XNOR):
        if backend.unavailable() is None:
            calls[f"{backend.name}, integers"] = _product(backend, left, right, out)
            calls[f"{backend.name}, bits"] = _bits(backend, left, right, rule)
    if max(a.shape + b.shape) <= naive_until:
        floats = a.astype(cupy.float32), cupy.ascontiguousarray(b.T.astype(cupy.float32))
        calls["cuda-naive"] = lambda: cuda.naive_product(*floats)
    signs = from_dlpack(a), from_dlpack(b)
    for way in cublas.WAYS:
        calls[f"cublas {way}"] = _comparator(*cublas.operands(*signs, way), way)
    calls["pack int8"] = lambda: pack(a)
    return calls


def _product(backend: cuda.CudaBackend, a: Packed, b: Packed, out: Any) -> Callable[[], Any]:
    return lambda: backend.matmul(a, b, out)


def _bits(backend: cuda.CudaBackend, a: Packed, b: Packed, rule: Thresholds) -> Callable[[], Any]:
    return lambda: backend.matmul_threshold(a, b, rule)


def _comparator(a: Any, b: Any, way: str) -> Callable[[], Any]:
    return lambda: cublas.matmul(a, b, way)


def milliseconds(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median time of each call, in rounds; a round repeats a call for about SECONDS."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    repeats = {}
    for name, call in calls.items():
        call()
        repeats[name] = max(1, int(SECONDS * 1e3 / max(_timed(call, 1), 1e-3)))
    for _ in range(ROUNDS):
        for name, call in calls.items():
            times[name].append(_timed(call, repeats[name]))
    return {name: statistics.median(found) for name, found in times.items()}


def _timed(call: Callable[[], Any], repeats: int) -> float:
    import cupy

    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return float(cupy.cuda.get_elapsed_time(start, end)) / repeats


def agree(calls: dict[str, Callable[[], Any]]) -> dict[str, bool]:
    """Whether each candidate's integers, or bits, are the first one's of their kind."""
    first: dict[str, Any] = {}
    same = {}
    for name, call in calls.items():
        kind = next((kind for kind in ("integers", "bits") if kind in name), None)
        if kind is not None:
            found = call().get()
            same[name] = bool(np.array_equal(found, first.setdefault(kind, found)))
    return same


def main(arguments: list[str] | None = None) -> int:
    """Prints the table; see the module."""
    parser = argparse.ArgumentParser(prog="python -m kernels.cuda.bench", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 4096, 8192])
    parser.add_argument("--naive-until", type=int, default=8192, help="largest size for cuda-naive")
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    options = parser.parse_args(arguments)
    if reason := launch.no_gpu():
        print(reason, file=sys.stderr)
        return 2
    import cupy

    rows = []
    print(f"{launch.gpu_name()}, {launch.multiprocessors()} multiprocessors")
    for n in options.sizes:
        rng = np.random.default_rng(n)
        a, b = (cupy.asarray(rng.integers(0, 2, (n, n), dtype=np.int8) * 2 - 1) for _ in range(2))
        rule = Thresholds(rng.integers(-50, 51, n), rng.random(n) < 0.5)
        calls = candidates(a, b, rule, options.naive_until)
        same, times = agree(calls), milliseconds(calls)
        for name, ms in times.items():
            tops = None if name.startswith("pack") else 2 * n**3 / ms / 1e9
            rows.append({"size": n, "name": name, "ms": ms, "tops": tops, "same": same.get(name)})
            said = {True: "same", False: "DIFFERENT", None: ""}[same.get(name)]
            print(
                f"{n:6} {name:24} {ms:10.4f} ms {'' if tops is None else f'{tops:9.1f} TOPS'}  {said}", flush=True
            )
    if options.json:
        record = {"gpu": launch.gpu_name(), "rows": rows}
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    return int(any(row["same"] is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
