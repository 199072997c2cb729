"""Packed arrays on an NVIDIA GPU, held by CuPy; conversion of CuPy arrays and torch CUDA tensors.

CuPy is imported only when an array is on the GPU or a CUDA backend is chosen: this module can be imported
anywhere.
"""

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from kernels.arrays import check_plain
from kernels.operands import KINDS, MAX_K, Packed, Rows, words_for

ROW_WORDS = 2  # rows are multiples of 16 bytes, as the copy engines need them


@dataclass(frozen=True, eq=False)
class GpuPacked(Packed):
    """A ±1 array of shape (*lead, k) whose bits are on a GPU.

    `words` is a C-contiguous CuPy uint64 array of shape (*lead, 2 ceil(k / 128)), bits as in `Packed`. Bits beyond
    k must be zero (not checked), and nothing may write to the words afterwards, because other layouts of them are
    kept in `derived`. Work on them is queued on CuPy's current stream.

    Raises ValueError or TypeError if `words` is not such an array.
    """

    def __post_init__(self) -> None:
        words = self.words
        if type(words).__module__.partition(".")[0] != "cupy" or words.dtype != np.uint64:
            raise TypeError(f"packed words on a GPU are a CuPy uint64 array, not {type(words).__name__}")
        if not 1 <= self.k <= MAX_K:
            raise ValueError(f"K must be between 1 and {MAX_K}, not {self.k}")
        if words.ndim < 1 or words.shape[-1] != gpu_words_for(self.k) or not words.flags.c_contiguous:
            raise ValueError(
                f"K = {self.k} takes {gpu_words_for(self.k)} contiguous words a row, not shape {words.shape}"
            )
        if self.address % 16:
            raise ValueError("packed words on a GPU must begin at a multiple of 16 bytes")

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles go through host memory."""
        return to_gpu, (to_host(self),)

    @property
    def address(self) -> int:
        """The address of the words in the GPU's memory."""
        return int(self.words.data.ptr)  # type: ignore[attr-defined]  # CuPy's `data`


def gpu_words_for(k: int) -> int:
    """Number of 64-bit words that a row of k bits takes on the GPU."""
    return -(-words_for(k) // ROW_WORDS) * ROW_WORDS


def to_gpu(p: Packed) -> GpuPacked:
    """A copy of a packed array on CuPy's current device; an array on a GPU is returned as it is."""
    if isinstance(p, GpuPacked):
        return p
    import cupy

    words = np.zeros((*p.words.shape[:-1], gpu_words_for(p.k)), np.uint64)
    words[..., : p.words.shape[-1]] = p.words
    return GpuPacked(cupy.asarray(words), p.k)


def kept_on_gpu(p: Packed) -> GpuPacked:
    """`to_gpu`, with the copy kept in `p.derived`: for weights."""
    if isinstance(p, GpuPacked):
        return p
    import cupy

    key = ("on gpu", cupy.cuda.Device().id)
    kept: GpuPacked | None = p.derived.get(key)
    if kept is None:
        kept = to_gpu(p)
        cupy.cuda.get_current_stream().synchronize()  # so that any stream may use it
        p.derived[key] = kept
    return kept


def to_host(p: Packed) -> Packed:
    """A copy of a packed array in host memory; an array that is there already is returned as it is."""
    if not isinstance(p, GpuPacked):
        return p
    words = p.words.get()  # type: ignore[attr-defined]  # CuPy's
    return Packed(np.ascontiguousarray(words[..., : words_for(p.k)]), p.k)


def gpu_output(shape: tuple[int, ...], out: Any) -> Any:
    """`out`, or a new CuPy int32 array where it is None. ValueError where `out` does not fit."""
    import cupy

    if out is None:
        return cupy.empty(shape, cupy.int32)
    fits = isinstance(out, cupy.ndarray) and out.shape == shape and out.dtype == cupy.int32
    if not (fits and out.flags.c_contiguous and out.device.id == cupy.cuda.Device().id):
        raise ValueError(f"out must be a C-contiguous CuPy int32 array of shape {shape} beside the operands")
    return out


def moved(x: Any) -> Any:
    """A NumPy array as a CuPy array on the current device."""
    import cupy

    return cupy.asarray(x)


def as_torch(x: Any) -> Any:
    """A CuPy array as a torch tensor over the same memory."""
    from torch.utils.dlpack import from_dlpack

    return from_dlpack(x)


def on_gpu(x: object) -> bool:
    """Whether x is a packed array, CuPy array or torch tensor on a GPU."""
    cupy, torch = sys.modules.get("cupy"), sys.modules.get("torch")
    return (
        isinstance(x, GpuPacked)
        or (cupy is not None and isinstance(x, cupy.ndarray))
        or (torch is not None and isinstance(x, torch.Tensor) and x.device.type == "cuda")
    )


def rows_of(x: Any) -> tuple[Rows, tuple[int, ...]]:
    """A CuPy array or torch CUDA tensor (*lead, K) as CuPy rows (rows, K), and its leading shape.

    Copies only arrays that are not C-contiguous. bfloat16 as uint16. Raises as `operands.rows_of` does.
    """
    check_plain(x)
    array, kind = as_cupy(x)
    if kind not in KINDS:
        raise TypeError(f"cannot pack {kind}: one of {', '.join(KINDS)} is needed")
    if array.ndim < 1:
        raise ValueError("cannot pack a scalar: the last axis is the packed one")
    k = array.shape[-1]
    if not 1 <= k <= MAX_K:
        raise ValueError(f"K, the length of the last axis, must be between 1 and {MAX_K}, not {k}")
    lead = array.shape[:-1]
    return Rows(array.reshape(int(np.prod(lead)), k), kind), lead


def as_cupy(x: Any) -> tuple[Any, str]:
    """A CuPy array or torch CUDA tensor as a C-contiguous CuPy array, and the name of its elements."""
    import cupy

    torch = sys.modules.get("torch")
    if torch is None or not isinstance(x, torch.Tensor):
        with x.device:
            whole = cupy.ascontiguousarray(x) if x.ndim else x  # CuPy makes (1,) of a scalar
            return whole, str(x.dtype.name)
    if x.layout != torch.strided:
        raise TypeError(f"cannot pack a {x.layout} tensor: a dense one is needed")
    x = x.detach().resolve_neg().contiguous()
    # DLPack makes CuPy's current stream wait for torch's. Not every version takes these two types: as integers
    as_integers = {torch.bfloat16: torch.int16, torch.bool: torch.uint8}
    kind = str(x.dtype).removeprefix("torch.")
    return cupy.from_dlpack(x.view(as_integers.get(x.dtype, x.dtype))), kind
