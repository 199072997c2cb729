"""Loads compiled kernels through CuPy and launches them. Arguments are eight bytes each, or a structure."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.cuda import nvrtc, tiles


@dataclass
class Job:
    """`Job` of src/common.cuh; arrays are CuPy's, None is a null pointer. `k` and `level` are not passed on."""

    a: Any
    b: Any
    m: int
    n: int
    pitch: int
    k: int
    base: Any
    cls: Any = None
    cnt: Any = None
    out: Any = None
    bits: Any = None
    turn: Any = None
    level: Any = None

    @property
    def form(self) -> str:
        """Which of the two entries of a kernel carries out the job."""
        return "product" if self.bits is None else "bits"

    def argument(self) -> NDArray[np.void]:
        """The structure, to be passed by value."""
        bits_pitch = 0 if self.bits is None else self.bits.shape[1] * 2
        base_pitch = 0 if self.base is None else self.base.shape[1]
        return structure(
            self.a, self.b, self.m, self.n, self.pitch, self.base, base_pitch, self.cls, self.cnt, self.out,
            self.bits, bits_pitch, self.turn,
        )  # fmt: skip


def structure(*values: Any) -> NDArray[np.void]:
    """A structure of eight-byte fields, to be passed by value: addresses of CuPy arrays, 0 for None, integers, and
    floats as float64."""
    words = [np.float64(value).view(np.int64) if isinstance(value, float) else _word(value) for value in values]
    return by_value(np.array(words, np.int64))


def by_value(array: NDArray[Any]) -> NDArray[np.void]:
    """The bytes of a contiguous array as one element, because CuPy passes only arrays of size one by value."""
    return array.view(np.dtype((np.void, array.nbytes)))


def _word(value: Any) -> int:
    if value is None:
        return 0
    return int(value.data.ptr) if _is_cupy(value) else int(value)


def _is_cupy(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "cupy"


def kernel(
    which: tiles.Kernel, entry: str, grid: tuple[int, ...], *arguments: Any, block: tuple[int, ...] | None = None
) -> None:
    """Queues `entry` on CuPy's current device and stream. NumPy arrays of one element are passed by value."""
    values = tuple(
        value if type(value) is np.ndarray else np.array([_word(value)], np.int64) for value in arguments
    )
    queued = loaded(which, entry, _device().id)
    queued(grid, block or (which.threads,), values, shared_mem=which.shared_bytes)


def on(stream: int) -> Any:
    """A context in which launches use the stream of another library, given by its handle."""
    import cupy

    return cupy.cuda.ExternalStream(stream)


def rows(entry: str, threads: int, *arguments: Any) -> None:
    """Queues a kernel of src/rows.cu with about `threads` threads, one per piece of work."""
    blocks = max(1, min(-(-threads // tiles.ROWS.threads), multiprocessors() * 32))
    kernel(tiles.ROWS, entry, (blocks,), *arguments)


@cache
def _module(which: tiles.Kernel, device: int) -> Any:
    import cupy

    target = architecture(which)
    if target is None:
        raise RuntimeError(f"{which.name} cannot run on sm_{capability()}")
    return cupy.RawModule(path=str(nvrtc.cubin_path(which.source, which.name, target)))


@cache
def loaded(which: tiles.Kernel, entry: str, device: int) -> Any:
    """The CuPy function of an entry, compiled and loaded on a device."""
    found = _module(which, device).get_function(entry)
    if which.shared_bytes > 48 << 10:
        found.max_dynamic_shared_size_bytes = which.shared_bytes
    return found


@cache
def no_gpu() -> str | None:
    """Why CUDA kernels cannot run here, or None."""
    try:
        import cupy
    except ImportError as error:
        return f"CuPy cannot be imported ({error})"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # CuPy's own classes, which differ between its versions
        return f"no CUDA GPU ({error})"
    return None if count else "no CUDA GPU"


def _device() -> Any:
    import cupy

    return cupy.cuda.Device()


def capability() -> str:
    """Compute capability of the current GPU: "90" for 9.0."""
    return str(_device().compute_capability)


def architecture(which: tiles.Kernel) -> str | None:
    """The target that a kernel is compiled for on the current GPU, or None if it has no such target."""
    return best_target(which.architectures, capability())


def best_target(architectures: tuple[str, ...], capability: str) -> str | None:
    """The newest of `architectures` whose machine code a GPU of this capability runs, or None.

    Machine code runs on later minor versions of its generation, that of an "a" target on its own version only. An
    "a" target is chosen only if the plain one is not offered.
    """
    if f"{capability}a" in architectures and capability not in architectures:
        return f"{capability}a"
    fits = [a for a in architectures if a.isdigit() and a[:-1] == capability[:-1] and int(a) <= int(capability)]
    return max(fits, key=int, default=None)


@cache
def attribute(name: str, device: int) -> Any:
    """A property of a device as the CUDA runtime names it."""
    import cupy

    return cupy.cuda.runtime.getDeviceProperties(device)[name]


def multiprocessors() -> int:
    """Multiprocessors of the current GPU."""
    return int(attribute("multiProcessorCount", _device().id))


def gpu_name() -> str:
    """Name of the current GPU."""
    name = attribute("name", _device().id)
    return name.decode() if isinstance(name, bytes) else str(name)
