"""Arguments that CuPy's launcher accepts: the emulator's rule, and CuPy's own if installed (no GPU is needed)."""

import types

import emulator
import numpy as np
import pytest

from kernels.cuda import launch

TAKEN = {
    "an eight-byte word": np.array([5], np.int64),
    "a structure": launch.structure(1, None, 0.5),
    "a tensor map": launch.by_value(np.zeros(128, np.uint8)),
}
REFUSED = {
    "three words": np.array([1, 2, 3], np.int64),
    "bytes of a tensor map": np.zeros(128, np.uint8),
    "nothing": np.zeros(0, np.int64),
}


def by_cupy(value):
    """CuPy's launch without a function: it checks the arguments before it looks for a driver."""
    cupy = pytest.importorskip("cupy")
    from cupy.cuda.function import Function

    try:
        Function.__new__(Function)((1,), (1,), (value,), stream=types.SimpleNamespace(ptr=0))
    except cupy.cuda.runtime.CUDARuntimeError:
        return
    except cupy.cuda.driver.CUDADriverError:
        return


@pytest.mark.parametrize("check", [emulator.refuse, by_cupy])
def test_only_arrays_of_one_element_are_passed_by_value(check):
    for value in TAKEN.values():
        check(value)
    for value in REFUSED.values():
        with pytest.raises(TypeError, match="size one"):
            check(value)


def test_a_structure_is_its_fields_eight_bytes_each():
    array = np.zeros(4, np.float32).view(emulator.Array)
    made = launch.structure(array, None, -3, 0.1)
    assert made.shape == (1,) and made.nbytes == 32
    words = made.view(np.int64)
    assert words[:3].tolist() == [array.data.ptr, 0, -3] and words[3:].view(np.float64) == 0.1
