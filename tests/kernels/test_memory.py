import re
import sys
from pathlib import Path

import numpy as np
import pytest

from kernels.cpu.step import memory


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's large pages")
def test_contents_are_kept_and_pages_are_large_if_the_system_allows():
    x = np.arange(3 << 20, dtype=np.float32)
    memory.in_large_pages(x)
    memory.in_large_pages(x[:100])
    np.testing.assert_array_equal(x, np.arange(3 << 20, dtype=np.float32))
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    release = re.match(r"(\d+)\.(\d+)", Path("/proc/sys/kernel/osrelease").read_text())
    if not setting.exists() or "[never]" in setting.read_text() or tuple(map(int, release.groups())) < (6, 1):
        pytest.skip("this kernel makes no large pages on demand")
    maps = Path("/proc/self/smaps").read_text().split("VmFlags")
    (own,) = [one for one in maps if _holds(one, x.ctypes.data + x.nbytes // 2)]
    assert int(re.search(r"AnonHugePages: *(\d+)", own)[1]) > 0  # as many as there was contiguous memory for


def _holds(entry, address):
    found = re.search(r"^([0-9a-f]+)-([0-9a-f]+) ", entry, re.M)
    return found is not None and int(found[1], 16) <= address < int(found[2], 16)
