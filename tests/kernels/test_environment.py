"""The caller's environment: no home folder, empty and wrong variables, CPU quotas."""

import os
import subprocess
import sys

import numpy as np
import pytest

from kernels import cpu, pack
from kernels.cpu import build
from kernels.environment import VariableError, cores, cpu_quota, user_cache, variable

NO_HOME = """
import os, pwd
os.environ.pop("HOME", None)
def unknown(*_): raise KeyError("uid not found")
pwd.getpwuid = unknown
"""


def without_home(script, **environment):
    """A Python process whose user has no home folder and no passwd entry: its output and warnings."""
    kept = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME", "KERNELS_CACHE")}
    command = [sys.executable, "-W", "always", "-c", NO_HOME + script]
    where = {"env": {**kept, **environment}, "cwd": build.SOURCES.parents[2], "timeout": 100}
    done = subprocess.run(command, capture_output=True, text=True, **where)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("value", [None, "", " "])
def test_blank_variables_count_as_unset(monkeypatch, value):
    wanted = None
    for name in ("KERNELS_ISA", "KERNELS_THREADS", "KERNELS_CACHE", "XDG_CACHE_HOME", "CC"):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
        assert variable(name) is None
    wanted = cpu.isas()[0]
    assert cpu.describe() == f"cpu ({wanted}, {cores()} threads)"
    assert build.find_compiler()[0] in (["cc"], ["gcc"], ["clang"])
    assert pack(np.ones((1, 3))).shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "value"), [("KERNELS_ISA", "AVX2"), ("KERNELS_THREADS", "two"), ("KERNELS_THREADS", "257")]
)
def test_a_wrong_value_is_one_line_that_names_the_variable(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(VariableError) as error:
        pack(np.ones((1, 3)))
        cpu.thread_count()
    assert name in str(error.value) and value in str(error.value) and "\n" not in str(error.value)


def test_without_a_home_folder_kernels_serve_the_process_and_say_what_to_set(quick):
    script = "import numpy as np, kernels; print(kernels.pack(np.ones((2, 3))).words.ravel())"
    said = without_home(script, CC=quick)
    assert "[7 7]" in said and "set KERNELS_CACHE" in said and said.count("RuntimeWarning") == 1


def test_without_a_home_folder_a_given_cache_is_used(tmp_path, quick):
    cache = tmp_path / "cache"
    said = without_home(
        "import kernels, numpy as np; kernels.pack(np.ones(3))", KERNELS_CACHE=str(cache), CC=quick
    )
    assert "Warning" not in said and [path.suffix for path in cache.iterdir()] == [".so"]


def test_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_cache("x") == tmp_path / ".cache" / "x"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert user_cache("x") == tmp_path / "xdg" / "x"


# --- CPU quota ------------------------------------------------------------------------------------------------


def cgroups(folder, own, **files):
    """An artificial /proc/self/cgroup and /sys/fs/cgroup with these files; "__" stands for "/"."""
    (folder / "cgroup").write_text(own)
    for name, content in files.items():
        path = folder / "mount" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return cpu_quota(folder / "cgroup", folder / "mount")


V2 = "0::/job/step\n"
V1 = "4:memory:/job\n3:cpu,cpuacct:/job\n1:name=systemd:/\n"


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        (V2, {}, None),
        (V2, {"job__step__cpu.max": "max 100000\n"}, None),
        (V2, {"job__step__cpu.max": "150000 100000\n"}, 1.5),
        (V2, {"job__step__cpu.max": "max 100000\n", "job__cpu.max": "200000 100000\n"}, 2.0),
        (V2, {"job__step__cpu.max": "400000 100000\n", "job__cpu.max": "50000 100000\n"}, 0.5),
        ("0::/\n", {"cpu.max": "300000 100000\n"}, 3.0),
        ("0::/elsewhere/deep\n", {"cpu.max": "300000 100000\n"}, 3.0),  # a container sees only its own cgroup
        (V1, {"cpu__job__cpu.cfs_quota_us": "-1\n", "cpu__job__cpu.cfs_period_us": "100000\n"}, None),
        (V1, {"cpu__job__cpu.cfs_quota_us": "250000\n", "cpu__job__cpu.cfs_period_us": "100000\n"}, 2.5),
        (V1, {"cpu,cpuacct__cpu.cfs_quota_us": "50000\n", "cpu,cpuacct__cpu.cfs_period_us": "50000\n"}, 1.0),
        (V1, {"memory__job__cpu.max": "100000 100000\n"}, None),
    ],
)
def test_a_cpu_quota_is_read_at_every_level(tmp_path, own, files, quota):
    assert cgroups(tmp_path, own, **files) == quota


def test_without_cgroups_there_is_no_quota(tmp_path):
    assert cpu_quota(tmp_path / "none", tmp_path) is None


@pytest.mark.parametrize(("quota", "count"), [(None, 8), (16.0, 8), (8.0, 8), (2.5, 3), (2.0, 2), (0.1, 1)])
def test_threads_are_no_more_than_the_quota_allows(monkeypatch, quota, count):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr("kernels.environment.own_quota", lambda: quota)
    monkeypatch.delenv("KERNELS_THREADS", raising=False)
    assert cores() == count == cpu.thread_count()
