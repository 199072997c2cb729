"""Runs the CUDA sources on the host (cuda_host.h), and a CuPy that keeps its arrays there.

With `installed()` the CUDA backends do everything that they do on a GPU, except that CuPy's function is replaced:
the replacement accepts the arguments that CuPy accepts, and runs the same source compiled for the host. So the
host code, the index arithmetic and the semantics of each instruction are tested.
"""

import contextlib
import ctypes
import functools
import hashlib
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from kernels.cuda import launch, nvrtc, tensormap

SHIM = Path(__file__).with_name("cuda_host.h")
ENTRY = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\([^)]*\)\s*)?(\w+)\(([^)]*)\)')
MACRO = re.compile(r"^PACK\((\w+), ([\w ]+)\)", re.M)


def _entries(source):
    """Name and parameter types of each kernel."""
    for name, parameters in ENTRY.findall(source):
        if "##" not in name and name != "pack_":
            yield name, [re.sub(r"\w+$", "", p.strip()).strip() for p in parameters.split(",")]
    for name, element in MACRO.findall(source):
        yield f"pack_{name}", [f"const {element}*", "u32*", "int*", "long long", "long long", "long long"]


def _wrapper(name, parameters):
    values = []
    for i, kind in enumerate(parameters):
        kind = kind.replace("__grid_constant__", "").replace("const ", "").strip()
        values.append(f"*({kind}*)values[{i}]")
    return (
        f'extern "C" int run_{name}(const unsigned* grid, const unsigned* block, void** values) {{\n'
        f"    return run_grid(grid, block, [=] {{ {name}({', '.join(values)}); }});\n}}\n"
    )


@functools.cache
def library(kernel, folder):
    """The kernel's source compiled for the host, once for all processes that use `folder`."""
    text = kernel.source
    shared = "#define __shared__ static\n" if kernel.name in ("naive", "updates", "passes") else ""
    wrappers = "".join(_wrapper(*entry) for entry in _entries(text))
    code = f'{shared}#include "{SHIM}"\n{text}\n{wrappers}'
    stem = Path(folder, f"{kernel.name}-{hashlib.sha256(code.encode()).hexdigest()[:16]}")
    command = ["g++", "-std=c++17", "-O2", "-w", "-shared", "-fPIC", "-fno-strict-aliasing"]
    target = stem.with_suffix(".so")
    with FileLock(stem.with_suffix(".lock")):
        if not target.exists():
            stem.with_suffix(".cpp").write_text(code)
            subprocess.run([*command, str(stem.with_suffix(".cpp")), "-o", str(target)], check=True)
    return ctypes.CDLL(str(target))


def refuse(value):
    """TypeError for a kernel argument that CuPy refuses: a NumPy array that does not hold exactly one element."""
    if type(value) is np.ndarray and value.size != 1:
        raise TypeError(f"a numpy.ndarray of shape {value.shape}: only those of size one can be passed by value")


def function(folder, kernel, entry):
    """Replacement of CuPy's function of an entry."""

    def launched(grid, block, values, shared_mem=0):
        for value in values:
            refuse(value)
        assert shared_mem == kernel.shared_bytes
        run(folder, kernel, entry, grid, block, values)

    return launched


def run(folder, kernel, entry, grid, block, values):
    """One launch with NumPy arguments; AssertionError if the threads deadlock."""
    grid, block = ((ctypes.c_uint32 * 3)(*(*size, 1, 1)[:3]) for size in (grid, block))
    built = library(kernel, str(folder))
    ctypes.c_uint32.in_dll(built, "shared_limit").value = kernel.shared_bytes
    conflicts = ctypes.c_uint32.in_dll(built, "bank_conflicts")
    conflicts.value = 0
    addresses = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
    status = getattr(built, f"run_{entry}")(grid, block, addresses)
    assert status == 0, f"{entry}: {['', 'deadlock', 'copies left over'][status]}"
    assert conflicts.value == 0, f"{entry}: {conflicts.value} bank conflicts"


class Array(np.ndarray):
    """Replacement of a CuPy array."""

    @property
    def data(self):
        return types.SimpleNamespace(ptr=self.ctypes.data)

    @property
    def device(self):
        return Device()

    def get(self):
        return np.array(self)


Array.__module__ = "cupy"


class Device:
    """The only device, with the interface of CuPy's."""

    id = 0
    compute_capability = "90"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def __eq__(self, other):
        return self.id == other.id


def fresh(shape, dtype=np.float64):
    """Memory filled with garbage that begins at a multiple of 256, as CuPy's does."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = np.full(size + 255, 0xCB, np.uint8)
    start = -room.ctypes.data % 256
    return room[start : start + size].view(dtype).reshape(shape).view(Array)


def asarray(x):
    made = fresh(np.shape(x), np.asarray(x).dtype)
    made[...] = x
    return made


@contextlib.contextmanager
def installed(folder, monkeypatch, multiprocessors=3):
    """Within the block the CUDA backends run on the host; the test is skipped without g++."""
    if shutil.which("g++") is None:
        pytest.skip("the emulator needs g++")
    cupy = types.ModuleType("cupy")
    properties = {"multiProcessorCount": multiprocessors, "name": b"host"}
    runtime = types.SimpleNamespace(getDeviceCount=lambda: 1, getDeviceProperties=lambda _: properties)
    stream = types.SimpleNamespace(synchronize=lambda: None, ptr=0)
    cupy.ndarray, cupy.empty, cupy.asarray = Array, fresh, asarray
    cupy.ascontiguousarray = lambda x: (x if x.flags.c_contiguous else asarray(x)).reshape(x.shape or 1)
    cupy.zeros = lambda shape, dtype: asarray(np.zeros(shape, dtype))
    cupy.cuda = types.SimpleNamespace(Device=Device, runtime=runtime, get_current_stream=lambda: stream)
    cupy.from_dlpack = lambda x: asarray(np.from_dlpack(x))
    for kind in ("int32", "int64", "uint64", "float32"):
        setattr(cupy, kind, getattr(np, kind))

    class Driver:
        """Replaces the driver: makes the tensor map that copy_box of cuda_host.h reads."""

        @staticmethod
        def cuTensorMapEncodeTiled(made, kind, rank, address, sizes, strides, box, *_):
            words = [address.value, sizes[0], sizes[1], box[1], *[0] * 12]
            ctypes.memmove(made.value, (ctypes.c_uint64 * 16)(*words), 128)
            return 0

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "cupy", cupy)
        patch.setattr(launch, "loaded", lambda which, entry, _: function(folder, which, entry))
        patch.setattr(launch, "no_gpu", lambda: None)
        patch.setattr(launch, "on", lambda stream: contextlib.nullcontext())
        patch.setattr(tensormap, "driver", lambda: Driver)
        patch.setattr(nvrtc, "compiler", lambda: types.SimpleNamespace(version=(0, 0)))
        launch.attribute.cache_clear()
        yield cupy
        launch.attribute.cache_clear()
