"""Time on a GPU: device events, a synchronised wall clock, clock frequencies, and the bounds they give."""

from __future__ import annotations

import subprocess
import time
from typing import Any

from kernels.bench.timing import Call
from kernels.cuda import launch

FIELDS = ("clocks.sm", "clocks.max.sm", "clocks.mem", "temperature.gpu", "power.draw")
FP32_LANES = {"80": 64}  # of a multiprocessor, else 128 (CUDA C++ Programming Guide, "Arithmetic Instructions")
POPCOUNTS = 16  # of a multiprocessor in a cycle (same table)
_CYCLES = 2.0e9  # cycles in a second: about the fastest clock of these GPUs, so that waits are long enough
_MOST = 2e-3  # the longest wait, in seconds for each call


class Events:
    """Seconds per call between two device events, on the default stream of CuPy and torch.

    The GPU waits until all calls are queued, so that a short kernel's time does not include Python's. For calls
    that wait for the GPU themselves use `waiting`.
    """

    def __init__(self) -> None:
        self.hold = 100e-6

    def __call__(self, call: Call, repeats: int) -> float:
        import torch

        for _ in range(3):
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(int(self.hold * (repeats + 1) * _CYCLES))
            first.record()
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            queued = (time.perf_counter() - start) / repeats
            last.record()
            last.synchronize()
            if queued <= self.hold or self.hold >= _MOST:
                break
            self.hold = min(1.5 * queued, _MOST)
        return float(first.elapsed_time(last)) / 1000 / repeats


def waiting(call: Call, repeats: int) -> float:
    """Seconds per call on the host's clock, from an idle GPU to an idle GPU."""
    import torch

    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def readings() -> dict[str, float] | None:
    """FIELDS as nvidia-smi reports them now, in MHz, °C and W; None if it cannot be run."""
    import cupy

    try:
        bus = cupy.cuda.runtime.deviceGetPCIBusId(cupy.cuda.Device().id)
        command = ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits", "-i", bus]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except Exception:  # no such program, no permission, an older CuPy; the figures are informative only
        return None
    found = {}
    for name, value in zip(FIELDS, done.stdout.strip().split(","), strict=False):
        try:
            found[name] = float(value)
        except ValueError:  # "[N/A]"
            continue
    return found or None


def bounds(read: dict[str, float] | None) -> dict[str, Any]:
    """Operations a second at the highest clock: FP32 multiply-adds, and xor-popcounts on CUDA cores.

    The second bounds `cuda-xnor`: one popcount for 64 bits (cuda/src/xnor.cu). None where the clock is not known.
    """
    mhz = (read or {}).get("clocks.max.sm") or _rated()
    if mhz is None:
        return {"fp32_peak": None, "popcount_peak": None}
    cycles = mhz * 1e6 * launch.multiprocessors()
    lanes = FP32_LANES.get(launch.capability(), 128)
    return {"fp32_peak": 2.0 * lanes * cycles, "popcount_peak": 2.0 * 64 * POPCOUNTS * cycles, "at_mhz": mhz}


def _rated() -> float | None:
    import cupy

    try:
        return float(cupy.cuda.Device().attributes["ClockRate"]) / 1000
    except Exception:  # this driver does not report it
        return None
