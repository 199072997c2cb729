"""The CPU backend: building and caching, no compiler, threads, forks."""

import copy
import ctypes
import errno
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from made import raising

from kernels import Thresholds, cache, cpu, pack, xnor_matmul, xnor_matmul_threshold
from kernels.bench import on_cpu, timing
from kernels.cpu import build

pytestmark = pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler here")

CHECK = """
import numpy as np
from kernels import cpu, pack, xnor_matmul

def check(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 2, (50, 700)) * 2 - 1, rng.integers(0, 2, (300, 700)) * 2 - 1
    assert np.array_equal(xnor_matmul(a, b), a @ b.T)
"""


def start(script, **environment):
    command = [sys.executable, "-W", "always", "-c", CHECK + textwrap.dedent(script)]
    where = {"env": {**os.environ, **environment}, "cwd": build.SOURCES.parents[2]}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **where)


def run(script, **environment):
    process = start(script, **environment)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    return out, err


@pytest.mark.parametrize("body", ["echo boom >&2; exit 3", "exit 0"])
def test_a_failing_compiler_is_reported_once_and_numpy_is_used(tmp_path, fake_compiler, body):
    compiler = fake_compiler(body)
    _, err = run("check(1); check(2); print(cpu.describe())", CC=compiler, KERNELS_CACHE=str(tmp_path / "cache"))
    assert err.count("RuntimeWarning") == 1 and "1-bit kernels run in NumPy" in err
    assert ("boom" in err) == ("boom" in body)


@pytest.mark.parametrize(
    ("compiler", "words"),
    [
        ('gcc "', "CC='gcc \"' is no command: No closing quotation"),
        ("/dev", "/dev: Permission denied"),
        ("hangs", "was not done after 1 seconds"),
        ("babbles", "boom \ufffd\ufffd"),
        ("/nonexistent/cc", "no C compiler answers"),
    ],
)
def test_an_unusable_compiler_is_reported_in_one_line_and_numpy_is_used(tmp_path, fake_compiler, compiler, words):
    bodies = {"hangs": "exec sleep 60", "babbles": "printf 'boom \\377\\376\\n' >&2; exit 1"}
    limit = 1 if compiler == "hangs" else 100
    if body := bodies.get(compiler):
        compiler = fake_compiler(body)
    script = f"from kernels.cpu import build; build.COMPILE_SECONDS = {limit}; check(1); print(cpu.isas())"
    out, err = run(script, CC=compiler, KERNELS_CACHE=str(tmp_path / "cache"), PYTHONIOENCODING="utf-8")
    assert "('numpy',)" in out and err.count("RuntimeWarning") == 1 and words in err


def test_a_compiler_whose_version_is_not_utf_8_is_used(tmp_path, quick):
    script = Path(quick)
    script.write_text(script.read_text().replace("echo fake", "printf 'fake \\377'"))
    out, err = run("check(1); print(cpu.isas())", CC=quick, KERNELS_CACHE=str(tmp_path / "cache"))
    assert "portable" in out and "Warning" not in err


def test_a_forced_instruction_set_is_not_silently_replaced(monkeypatch):
    monkeypatch.setenv("KERNELS_ISA", "avx9")
    with pytest.raises(ValueError, match="KERNELS_ISA='avx9' does not run here"):
        xnor_matmul(np.ones((1, 1)), np.ones((1, 1)))


def test_the_library_is_built_once_and_found_again(tmp_path, quick, monkeypatch):
    monkeypatch.setenv("CC", quick)
    monkeypatch.setenv("KERNELS_CACHE", str(tmp_path / "a" / "b"))
    build.load()
    monkeypatch.setattr(build, "compile_library", lambda *_: pytest.fail("compiled again"))
    build.load()
    assert [path.suffix for path in (tmp_path / "a" / "b").iterdir()] == [".so"]


def test_other_flags_make_another_library(tmp_path, quick, monkeypatch):
    monkeypatch.setenv("CC", quick)
    monkeypatch.setenv("KERNELS_CACHE", str(tmp_path / "cache"))
    build.load()
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-DOTHER"))
    build.load()
    assert len(list((tmp_path / "cache").iterdir())) == 2


def changed(content):
    """One bit changed, in the middle of the code."""
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :]


@pytest.mark.parametrize("damage", [lambda c: c[: len(c) // 2], lambda c: c[:5000], changed, lambda c: b""])
def test_a_damaged_library_is_not_loaded_but_built_anew(tmp_path, quick, damage):
    """In its own process, because a truncated library can end it with SIGBUS."""
    cache = tmp_path / "cache"
    run("check(1)", KERNELS_CACHE=str(cache), CC=quick)
    (path,) = cache.iterdir()
    sound = path.read_bytes()
    path.write_bytes(damage(sound))
    out, err = run("check(1); print(cpu.isas())", KERNELS_CACHE=str(cache), CC=quick)
    assert "portable" in out and "Warning" not in err
    assert [path.read_bytes() for path in cache.iterdir()] == [sound]


def test_a_cache_on_a_noexec_file_system(tmp_path, quick, monkeypatch):
    """Imitates a file system mounted with noexec: the system refuses to load libraries from there."""
    monkeypatch.setenv("CC", quick)
    monkeypatch.setenv("KERNELS_CACHE", str(tmp_path / "cache"))
    build.load()
    load = ctypes.CDLL

    def refuse(path):
        if str(tmp_path / "cache") in str(path):
            raise OSError(f"{path}: failed to map segment from shared object")
        return load(path)

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    monkeypatch.setattr(build, "compile_library", lambda *_: pytest.fail("compiled again"))
    assert build.load().kernels_level() >= 0


@pytest.mark.skipif(not hasattr(os, "umask"), reason="no umask here")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_permissions_follow_the_umask_so_that_others_can_use_a_shared_cache(tmp_path, quick, mask, mode):
    before = os.umask(mask)
    try:
        run("check(1)", KERNELS_CACHE=str(tmp_path / "shared"), CC=quick)
    finally:
        os.umask(before)
    (path,) = (tmp_path / "shared").iterdir()
    assert path.stat().st_mode & 0o777 == mode


def test_a_cache_folder_that_cannot_be_made(tmp_path, quick, monkeypatch):
    monkeypatch.setenv("CC", quick)
    (tmp_path / "file").write_text("")  # nobody, not even root, can create a folder below a file
    monkeypatch.setenv("KERNELS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(RuntimeWarning, match="cannot be kept in .*file/cache"):
        library = build.load()
    assert library.kernels_level() >= 0


def test_a_full_cache_folder(tmp_path, quick, monkeypatch):
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setenv("KERNELS_CACHE", str(cache))
    monkeypatch.setenv("CC", quick)
    monkeypatch.setattr(os, "fsync", raising(OSError(errno.ENOSPC, "no room")))
    with pytest.warns(RuntimeWarning, match="no room"):
        library = build.load()
    assert library.kernels_level() >= 0
    assert list(cache.iterdir()) == []  # no half-written file is left


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("KERNELS_CACHE", "/x/y")
    assert str(cache.cache_folder()) == "/x/y"
    monkeypatch.delenv("KERNELS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "xnor-kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / ".cache" / "xnor-kernels"


@pytest.mark.exhaustive
def test_processes_and_threads_that_build_at_once(tmp_path, quick):
    compiler = Path(quick)
    compiler.write_text(compiler.read_text().replace("for target", "sleep 1; for target"))  # so that all begin
    cache = tmp_path / "cache"
    script = """
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(check, range(8)))
    """
    processes = [start(script, KERNELS_CACHE=str(cache), CC=quick) for _ in range(3)]
    for process in processes:
        _, err = process.communicate(timeout=100)
        assert process.returncode == 0 and "Warning" not in err, err
    assert [path.suffix for path in cache.iterdir()] == [".so"]


def test_several_threads_calling_at_once(way, signs):
    def call(i):
        m, n, k = 20 + 13 * i % 60, 40 + 31 * i % 300, 1 + 97 * i % 2000
        a, b = signs(m, k, seed=i), signs(n, k, seed=i + 1)
        return all(np.array_equal(xnor_matmul(a, b, way), a @ b.T) for _ in range(3))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(40)))


def test_several_threads_sharing_one_right_operand(signs):
    b, a = signs(300, 900, seed=1), [signs(20 + i, 900, seed=i) for i in range(16)]
    shared = pack(b)
    with ThreadPoolExecutor(8) as pool:
        products = list(pool.map(lambda x: xnor_matmul(x, shared), a))
    assert all(np.array_equal(c, x @ b.T) for c, x in zip(products, a, strict=True))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_do_not_keep_addresses(way, signs, copied):
    a, b = pack(signs(5, 70)), pack(signs(20, 70, seed=1))
    rule = Thresholds(np.arange(-10, 10))
    want = xnor_matmul_threshold(a, b, rule, way).words  # fills `derived` of all three
    for other in map(copied, (a, b, rule)):
        assert other.derived == {} and "address" not in vars(other)
    assert np.array_equal(xnor_matmul_threshold(*map(copied, (a, b, rule)), way).words, want)


@pytest.mark.parametrize("threads", [1, 2, 3, 7, 256])
def test_any_number_of_threads(signs, monkeypatch, threads):
    monkeypatch.setenv("KERNELS_THREADS", str(threads))
    a, b = signs(300, 500), signs(200, 500, seed=1)
    assert np.array_equal(cpu.matmul(pack(a), pack(b)), a @ b.T)


def test_a_call_returns_when_every_thread_is_done(signs, monkeypatch):
    monkeypatch.setenv("KERNELS_THREADS", "8")
    a, b = signs(256, 20_000), signs(192, 20_000, seed=1)
    want = (a.astype(np.float32) @ b.T.astype(np.float32)).astype(np.int32)
    left, right, out = pack(a), pack(b), np.empty((256, 192), np.int32)
    for _ in range(100):  # eight tasks of a tenth of a millisecond
        out[:] = 7
        assert np.array_equal(cpu.matmul(left, right, out), want)


def test_an_invalid_number_of_threads(monkeypatch):
    p = pack(np.ones((1, 1)))
    for threads in ("0", "-1", "many"):
        monkeypatch.setenv("KERNELS_THREADS", threads)
        with pytest.raises(ValueError):
            cpu.matmul(p, p)


def test_a_forked_process_starts_its_own_threads():
    run(
        """
        import os
        check(1)
        for i in range(3):
            child = os.fork()
            if child == 0:
                try:
                    check(i)
                    tasks = "/proc/self/task"
                    assert not os.path.exists(tasks) or len(os.listdir(tasks)) == 4
                    os._exit(0)
                finally:
                    os._exit(1)
            assert os.waitpid(child, 0)[1] == 0
        check(2)
        """,
        KERNELS_THREADS="4",
    )


@pytest.mark.timed
def test_roofline_is_above_a_product(monkeypatch):
    if "avx512" not in cpu.isas():
        assert on_cpu.peak("xnor_roofline") is None
        return
    monkeypatch.setenv("KERNELS_THREADS", "1")
    rate = on_cpu.peak("xnor_roofline", 0.1)
    a, b = (pack(np.random.default_rng(i).integers(0, 2, (2048, 2048)).astype(bool)) for i in range(2))
    out = np.empty((2048, 2048), np.int32)
    times = timing.interleave({"product": lambda: cpu.matmul(a, b, out)}, 0.0, least=5, most=5)
    reached = 2 * 2048**3 / times["product"].min()
    assert rate is not None and 0.4 * rate < reached < 1.05 * rate
    monkeypatch.setenv("KERNELS_ISA", "portable")
    assert on_cpu.peak("xnor_roofline", 0.01) is None
