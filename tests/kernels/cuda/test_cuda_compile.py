"""Every CUDA kernel is compiled for its targets, without a GPU, into the intended instructions."""

import os

import numpy as np
import pytest
import torch
from made import raising
from sample import sample

from kernels.bench import cublas
from kernels.cuda import check, nvrtc, tensormap, tiles

CASES = [(kernel, target) for kernel in tiles.KERNELS for target in kernel.architectures]
SAMPLE = [(tiles.XNOR, tiles.XNOR.architectures[-1])]
MOST_REGISTERS = {
    "naive": 64, "rows": 64, "xnor": 192, "bmma": 255, "wgmma": 168, "bytes": 168, "updates": 64, "passes": 96,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def compiler():
    try:
        return nvrtc.compiler()
    except nvrtc.CompileError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("kernel", "target"),
    [
        pytest.param(*case, marks=[] if case in SAMPLE else pytest.mark.exhaustive, id=f"{case[0].name}-{case[1]}")
        for case in CASES
    ],
)
def test_kernel_assembles_within_bounds(kernel, target):
    tool = check.nvdisasm()
    reports = check.check(kernel, target, tool)
    assert [r.complaints for r in reports] == [()] * len(kernel.entries)
    assert max(r.registers for r in reports) <= MOST_REGISTERS[kernel.name]
    if tool is None:
        pytest.skip("compiled, not disassembled: nvdisasm is not installed (pip install nvidia-cuda-nvdisasm)")
    if kernel is tiles.BMMA:
        assert [set(r.tensor) for r in reports] == [{"BMMA.168256.AND.POPC"}] * 2
    if kernel is tiles.BYTES:
        assert [set(r.tensor) for r in reports] == [{"IMMA.16832.U8.S8"}] * 2
    if kernel is tiles.WGMMA:
        assert [set(r.tensor) for r in reports] == [{"BGMMA.64x256x256.AND.POPC"}] * 2


@pytest.mark.parametrize("target", sample(["90", "80", "100"]))
def test_wgmma_is_refused_where_there_is_none(target):
    with pytest.raises(nvrtc.CompileError, match="wgmma"):
        nvrtc.compile_cubin(tiles.WGMMA.source, "wgmma", target)


@pytest.mark.parametrize("kernel", [tiles.XNOR, tiles.BMMA, tiles.BYTES], ids=lambda kernel: kernel.name)
def test_asynchronous_copies_are_refused_before_sm_80(kernel):
    with pytest.raises(nvrtc.CompileError, match="sm_80"):
        nvrtc.compile_cubin(kernel.source, kernel.name, "75")


def test_registers_move_between_warpgroups_as_the_machine_allows():
    registers, consumers = tiles.REGISTERS_AN_SM, tiles.WGMMA["CONSUMERS"]
    given = tiles.WGMMA["PRODUCER_REGISTERS"], tiles.WGMMA["CONSUMER_REGISTERS"]
    assert all(24 <= count <= 256 and count % 8 == 0 for count in given)  # PTX ISA, setmaxnreg
    assert 128 * (given[0] + consumers * given[1]) <= min(registers, 128 * (consumers + 1) * 168)


def test_tiles_cover_whole_rows_of_bits():
    """A row of bits is padded to 128; bits beyond the tiles would not be written."""
    assert all(kernel["TILE_N"] % 128 == 0 for kernel in (tiles.XNOR, tiles.BMMA, tiles.BYTES))
    assert tiles.WGMMA_N % 128 == 0


def test_a_bad_source_says_why():
    with pytest.raises(nvrtc.CompileError, match="identifier"):
        nvrtc.compile_cubin("__global__ void f() { nonsense; }", "bad", "80")


def test_cubins_are_kept_by_content(tmp_path, monkeypatch):
    monkeypatch.setenv("KERNELS_CACHE", str(tmp_path / "cache"))
    first = nvrtc.cubin_path(tiles.NAIVE.source, "naive", "80")
    assert first.parent == tmp_path / "cache" and first.read_bytes()[:4] == b"\x7fELF"
    written = first.stat().st_mtime_ns
    assert nvrtc.cubin_path(tiles.NAIVE.source, "naive", "80") == first and first.stat().st_mtime_ns == written
    assert nvrtc.cubin_path(tiles.NAIVE.source + "\n", "naive", "80") != first
    assert nvrtc.cubin_path(tiles.NAIVE.source, "naive", "86") != first
    sound = first.read_bytes()
    first.write_bytes(sound[:-9])
    assert nvrtc.cubin_path(tiles.NAIVE.source, "naive", "80").read_bytes() == sound


def test_an_unwritable_cache_does_not_prevent_compilation(tmp_path, monkeypatch):
    monkeypatch.setenv("KERNELS_CACHE", str(tmp_path))
    monkeypatch.setattr(nvrtc, "keep", raising(OSError("read-only")))
    path = nvrtc.cubin_path(tiles.NAIVE.source, "naive", "89")
    assert path.read_bytes()[:4] == b"\x7fELF" and not os.listdir(tmp_path)


def test_a_missing_nvrtc_is_named(monkeypatch):
    monkeypatch.setenv("KERNELS_NVRTC", "/nowhere/libnvrtc.so")
    with pytest.raises(nvrtc.CompileError, match=r"\(KERNELS_NVRTC\); tried /nowhere"):
        nvrtc.compiler.__wrapped__()


@pytest.mark.parametrize("wrong", [(8, 1, 16, 64), (16, 1, 24, 64), (16, 0, 16, 64), (16, 1, 16, 257)])
def test_tensor_maps_the_driver_would_refuse(wrong):
    with pytest.raises(ValueError, match="no tensor map"):
        tensormap.fields(*wrong)


def test_library_products_on_the_host():
    """The host part of the library products; float32 and bfloat16 products run on a CPU too."""
    rng = np.random.default_rng(1)
    a, b = (torch.from_numpy(rng.integers(0, 2, (17, 24)) * 2 - 1) for _ in range(2))
    before = torch.backends.cuda.matmul.fp32_precision
    for way in cublas.WAYS:
        got = cublas.matmul(*cublas.operands(a, b, way), way)
        assert torch.equal(got.double(), (a @ b.T).double())
    assert torch.backends.cuda.matmul.fp32_precision == before
