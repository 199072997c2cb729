"""Compiles CUDA sources to machine code with NVRTC, which needs no GPU, and keeps it in the kernels' cache.

NVRTC is searched for in $KERNELS_NVRTC (a path), in the `nvidia` packages that the wheels of torch and CuPy depend
on, then by the system's loader; `compiler()` says which it is. A cubin's name is a digest of
source, options, target and NVRTC's version (see kernels.cache).
"""

import ctypes
import hashlib
import importlib.util
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kernels.cache import find, keep
from kernels.environment import variable

OPTIONS = ("--std=c++17", "--ptxas-options=-v", "--ptxas-options=-warn-spills")
_SONAMES = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")


class CompileError(RuntimeError):
    """There is no NVRTC, or it refused a source; the message has its report."""


@dataclass(frozen=True)
class Compiler:
    """An NVRTC, where it was found, and its version."""

    library: ctypes.CDLL
    path: str
    version: tuple[int, int]


@dataclass(frozen=True)
class Compiled:
    """Machine code for one target, and the report of NVRTC and its assembler."""

    cubin: bytes
    log: str


@cache
def compiler() -> Compiler:
    """The NVRTC in use. Raises CompileError if none can be loaded."""
    tried = []
    for candidate in _candidates():
        try:
            library = _load(candidate)
            major, minor = ctypes.c_int(), ctypes.c_int()
            if library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)) == 0:
                return Compiler(library, candidate, (major.value, minor.value))
        except (OSError, AttributeError) as error:
            tried.append(f"{candidate} ({error})")
    chosen = " (KERNELS_NVRTC)" if variable("KERNELS_NVRTC") else ""
    raise CompileError(f"NVRTC cannot be loaded{chosen}; tried {'; '.join(tried) or 'nothing'}")


def _candidates() -> list[str]:
    if chosen := variable("KERNELS_NVRTC"):
        return [chosen]
    found: list[str] = []
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for part in ("cu13", "cuda_nvrtc"):
            found += [str(path) for soname in _SONAMES for path in Path(folder, part, "lib").glob(soname)]
    return [*found, *_SONAMES]


def _load(candidate: str) -> ctypes.CDLL:
    """The library. Its builtins, which it looks for by name, are loaded first if they are beside it."""
    for builtins in sorted(Path(candidate).parent.glob("libnvrtc-builtins.so.*")) if "/" in candidate else ():
        ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(candidate)


def compile_cubin(source: str, name: str, architecture: str) -> Compiled:
    """Machine code of `source` for sm_`architecture` (such as "80" or "90a"). Raises CompileError."""
    found = compiler()
    library, program = found.library, ctypes.c_void_p()
    _check(
        found,
        library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), f"{name}.cu".encode(), 0, None, None),
        "creating a program",
    )
    try:
        options = [option.encode() for option in (f"--gpu-architecture=sm_{architecture}", *OPTIONS)]
        status = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        size = ctypes.c_size_t()
        _check(found, library.nvrtcGetProgramLogSize(program, ctypes.byref(size)), "reading its log")
        log = ctypes.create_string_buffer(size.value)
        _check(found, library.nvrtcGetProgramLog(program, log), "reading its log")
        text = log.value.decode(errors="replace").strip()
        if status:
            raise CompileError(f"NVRTC refused {name} for sm_{architecture}: {text or _words(found, status)}")
        _check(found, library.nvrtcGetCUBINSize(program, ctypes.byref(size)), "asking for a cubin")
        cubin = ctypes.create_string_buffer(size.value)
        _check(found, library.nvrtcGetCUBIN(program, cubin), "reading a cubin")
        return Compiled(cubin.raw, text)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _words(found: Compiler, status: int) -> str:
    found.library.nvrtcGetErrorString.restype = ctypes.c_char_p
    words = found.library.nvrtcGetErrorString(status)
    return words.decode() if isinstance(words, bytes) else str(status)


def _check(found: Compiler, status: int, what: str) -> None:
    if status:
        raise CompileError(f"NVRTC failed at {what}: {_words(found, status)}")


def cubin_path(source: str, name: str, architecture: str) -> Path:
    """A file with the machine code of `source`, from the cache or compiled now.

    If the cache cannot be written, the file is a temporary one of this process. Raises CompileError.
    """
    found = compiler()
    key = repr((source, OPTIONS, architecture, found.version)).encode()
    stem = f"{name}-sm_{architecture}-{hashlib.sha256(key).hexdigest()[:24]}"
    scratch = _scratch() / f"{stem}.cubin"
    if scratch.is_file():
        return scratch
    if kept := find(stem, ".cubin"):
        return kept
    cubin = compile_cubin(source, name, architecture).cubin
    try:
        return keep(stem, ".cubin", cubin)
    except OSError:
        scratch.write_bytes(cubin)
        return scratch


@cache
def _scratch() -> Path:
    """A temporary folder that lives as long as the process."""
    _kept.append(tempfile.TemporaryDirectory(prefix="xnor-kernels-"))
    return Path(_kept[-1].name)


_kept: list["tempfile.TemporaryDirectory[str]"] = []
