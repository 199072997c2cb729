"""Products of random ±1 matrices on the CPU, 1-bit kernels against others: the left bars of the paper's Figure 3.

Every candidate uses all cores. ONNX Runtime takes part where it and the `onnx` package are installed.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from importlib import import_module, util
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import kernels
from kernels import cpu
from kernels.bench import timing

Say = Callable[[str], None]
SIZES = (1024, 2048, 4096, 8192)
NAIVE_REPEATED = 2048  # size up to which the naive kernel is timed in every round; larger ones once
KERNEL, WITH_PACKING, FUSED = "xnor, kernel alone", "xnor, with packing", "xnor, to bits by thresholds"
FP32, FP32_ONEDNN, NAIVE = "torch float32", "oneDNN float32 (by torch)", "naive float32"
INT8, ORT_INT8 = "torch int8 (_int_mm)", "onnxruntime MatMulInteger"


def has_compiler() -> bool:
    """Whether the compiled kernels run here."""
    return cpu.compiled() is not None


def naive(a: NDArray[np.float32], b: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """out (M, N) = a (M, K) b (K, N) by the paper's unoptimized kernel (section 4), as C on all cores.

    Copies 16×16 tiles of both operands and sums each output separately. All arrays float32, C-contiguous.
    Raises ValueError if shapes do not fit or are not multiples of 16, RuntimeError without compiled kernels.
    """
    (m, k), (k2, n) = a.shape, b.shape
    if k != k2 or out.shape != (m, n) or m % 16 or n % 16 or k % 16:
        raise ValueError(f"shapes {a.shape}, {b.shape}, {out.shape}: (M, K), (K, N), (M, N) in multiples of 16")
    if any(x.dtype != np.float32 or not x.flags.c_contiguous for x in (a, b, out)):
        raise ValueError("float32 arrays without gaps are needed")
    if (found := cpu.compiled()) is None:
        raise RuntimeError("the naive kernel needs compiled kernels")
    pointers = [ctypes.c_void_p(x.ctypes.data) for x in (a, b, out)]
    found[0].kernels_naive(cpu.thread_count(), *pointers, *(ctypes.c_int64(size) for size in (m, n, k)))


def fp32_in_registers() -> float | None:
    """Runs fused multiply-adds without loads for some milliseconds, and returns the number of FP32 operations.

    None if this code has no loop for the machine's instructions.
    """
    if (found := cpu.compiled()) is None:
        return None
    return float(2 * found[0].kernels_fma(found[0].kernels_level(), cpu.thread_count(), 1_000_000)) or None


def xnor_in_registers() -> float | None:
    """Runs the AVX-512 tile's steps without loads for some milliseconds; returns the number of 1-bit operations.

    None with other instruction sets.
    """
    if not cpu.has_avx512() or (found := cpu.compiled()) is None:
        return None
    return float(found[0].kernels_spin(found[1], cpu.thread_count(), 500_000) * 32 * 2)


BOUNDS: dict[str, Callable[[], float | None]] = {
    "xnor_roofline": xnor_in_registers,
    "fp32_peak": fp32_in_registers,
}
"""Loops without loads, by name. Their rates bound that of a product. An operation is half a multiply-add."""


def peak(bound: str, seconds: float = 0.2) -> float | None:
    """Operations a second of one of BOUNDS, the best within `seconds`; None if it does not run here."""
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        if (done := BOUNDS[bound]()) is None:
            return None
        best = max(best, done / (time.perf_counter() - start))
    return best


def products(say: Say, quick: bool = False, backend: str = "cpu") -> tuple[list[dict[str, Any]], list[str]]:
    """Rows for the products of each size, and notes on candidates left out. `quick`: tiny sizes, for tests.

    RuntimeError if two candidates give different integers.
    """
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    budget, least = (0.05, 3) if quick else (15.0, 5)
    compiled = has_compiler()
    if not compiled:
        notes.append("no compiler: no naive kernel, and the 1-bit ones run in NumPy")
    for size in (32, 64) if quick else SIZES:
        what = f"product of {size}×{size} matrices"
        say(what)
        rng = np.random.default_rng(size)
        left, right = (rng.integers(0, 2, (size, size), np.int8) * 2 - 1 for _ in range(2))
        candidates, exact = _candidates(left, right, backend, notes)
        if compiled and size <= NAIVE_REPEATED:
            candidates[NAIVE] = _naive(left, right)
        done = {name: count for name, call in BOUNDS.items() if (count := call()) is not None}
        times = timing.interleave(candidates | {name: BOUNDS[name] for name in done}, budget, least)
        bounds = {name: done[name] / float(np.median(times.pop(name))) for name in done}
        exact()
        if compiled and size > NAIVE_REPEATED:
            times[NAIVE] = timing.once(_naive(left, right))
        operations = 2.0 * size**3
        for name in times:
            bound = "fp32_peak" if name in (FP32, FP32_ONEDNN, NAIVE) else None
            bound = "xnor_roofline" if name.startswith("xnor") else bound
            found = timing.row(what, name, times, operations, size=size)
            limit, fp32 = bounds.get(bound or ""), bounds.get("fp32_peak")
            share, against = (found["operations_per_second"] / each if each else None for each in (limit, fp32))
            rows.append(found | {"bound": bound, "peak": limit, "share_of_bound": share, "of_fp32_peak": against})
    if bounds:
        notes.append("bounds are loops in registers, timed in the same rounds as the products; medians")
    if compiled and not quick:
        notes.append(f"the naive kernel is timed in every round up to {NAIVE_REPEATED}, and once beyond")
    return rows, list(dict.fromkeys(notes))


def _candidates(
    left: NDArray[np.int8], right: NDArray[np.int8], backend: str, notes: list[str]
) -> tuple[dict[str, Callable[[], object]], Callable[[], None]]:
    """Every candidate for left · rightᵀ, and a check that they gave the same integers."""
    size = len(left)
    a, b = kernels.pack(left, backend), kernels.pack(right, backend)
    real = left.astype(np.float32), right.astype(np.float32)
    rule = kernels.Thresholds(np.zeros(size, np.int64))
    result = kernels.xnor_matmul(a, b, backend)

    def with_packing() -> object:
        x, y = (kernels.pack(x, backend) for x in real)
        return kernels.xnor_matmul(x, y, backend, out=result)

    found: dict[str, Callable[[], object]] = {
        KERNEL: lambda: kernels.xnor_matmul(a, b, backend, out=result),
        WITH_PACKING: with_packing,
        FUSED: lambda: kernels.xnor_matmul_threshold(a, b, rule, backend),
    }
    others: list[Callable[[], NDArray[Any]]] = []
    with torch.no_grad():
        x, y, z = torch.from_numpy(real[0]), torch.from_numpy(real[1]).T.contiguous(), torch.empty(size, size)
    found[FP32] = lambda: torch.mm(x, y, out=z)
    others.append(lambda: z.numpy())
    if torch.backends.mkldnn.is_available():  # torch.mm uses MKL, which is slow on CPUs of other makers
        p, q = (torch.from_numpy(each).to_mkldnn() for each in real)
        found[FP32_ONEDNN] = lambda: torch.nn.functional.linear(p, q)
        others.append(lambda: torch.nn.functional.linear(p, q).to_dense().numpy())
    u, v = torch.from_numpy(left), torch.from_numpy(right).T.contiguous()
    try:
        whole = torch._int_mm(u, v, out=torch.empty(size, size, dtype=torch.int32))
    except RuntimeError as error:
        notes.append(f"{INT8} left out: {str(error).splitlines()[0]}")
    else:
        found[INT8] = lambda: torch._int_mm(u, v, out=whole)
        others.append(lambda: whole.numpy())
    session = _onnx(left, right, notes)
    if session is not None:
        found[ORT_INT8] = session
        others.append(lambda: session().numpy())

    def exact() -> None:
        for other in others:
            if not np.array_equal(result, other()):
                raise RuntimeError(f"products of size {size} differ")

    return found, exact


def _naive(left: NDArray[np.int8], right: NDArray[np.int8]) -> Callable[[], object]:
    a, b = left.astype(np.float32), np.ascontiguousarray(right.T, np.float32)
    out = np.empty((len(a), b.shape[1]), np.float32)
    return lambda: naive(a, b, out)


def _onnx(left: NDArray[np.int8], right: NDArray[np.int8], notes: list[str]) -> Callable[[], Any] | None:
    """ONNX Runtime's product of unsigned by signed bytes, left operand 128 ± 1, zero point 128: an OrtValue."""
    if not (util.find_spec("onnxruntime") and util.find_spec("onnx")):
        notes.append(f"{ORT_INT8} left out: onnxruntime and onnx are not installed")
        return None
    onnx, runtime = import_module("onnx"), import_module("onnxruntime")
    helper, numpy_helper, kinds = onnx.helper, onnx.numpy_helper, onnx.TensorProto

    constants = [
        numpy_helper.from_array(np.ascontiguousarray(right.T), "b"),
        numpy_helper.from_array(np.array(128, np.uint8), "zero"),
    ]
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b", "zero"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", kinds.UINT8, left.shape)],
        [helper.make_tensor_value_info("c", kinds.INT32, (len(left), len(right)))],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = cpu.thread_count()
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    a = runtime.OrtValue.ortvalue_from_numpy((left.astype(np.int16) + 128).astype(np.uint8))
    out = runtime.OrtValue.ortvalue_from_numpy(np.empty((len(left), len(right)), np.int32))
    binding = session.io_binding()  # the result is written in place, as by the other candidates
    binding.bind_ortvalue_input("a", a)
    binding.bind_ortvalue_output("c", out)

    def run() -> Any:
        session.run_with_iobinding(binding)
        return out

    return run
