"""Ctrl-C and SIGTERM end commands at any moment."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time

import pytest
from sample import sample

from reproduce import terminal, yamlfile

AT = {
    "code that swallows interrupts": "try: time.sleep(60)\n        except BaseException: pass",
    "a long call into a library": "a = np.random.default_rng(0).normal(size=(5000, 5000)); np.linalg.svd(a)",
}


def started(*words, **environment):
    """A Python process in nothing but this environment."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *words], cwd=yamlfile.ROOT, env=environment, **pipes)


@pytest.mark.parametrize("number", sample([signal.SIGINT, signal.SIGTERM]))
@pytest.mark.parametrize("what", AT)
def test_a_signal_ends_the_command_quickly_with_a_message(what, number):
    program = f"""
import time
import numpy as np
from reproduce.terminal import stoppable
with stoppable("go on so"):
    print("at it", flush=True)
    while True:
        {AT[what]}
"""
    with started("-c", program, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1") as process:
        assert process.stdout.readline() == "at it\n"
        time.sleep(0.5)
        process.send_signal(number)
        code = process.wait(timeout=30)  # tests/chaos measures that it takes no five seconds
        assert (code, process.stderr.read()) == (128 + number, "reproduce: go on so\n")


def test_handlers_are_restored_and_an_interrupt_is_reported(capsys):
    import typer

    from reproduce.terminal import stoppable

    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(typer.Exit) as stop, stoppable("go on so"):
        raise KeyboardInterrupt
    assert stop.value.exit_code == 130 and capsys.readouterr().err == "reproduce: go on so\n"
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_imports_is_reported(tmp_path, number):
    (tmp_path / "typer.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    with started("-m", "reproduce", "list", PYTHONPATH=str(tmp_path)) as process:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(number)
        said = process.communicate(timeout=30)[1]
    assert (process.returncode, said) == (128 + number, "reproduce: stopped before anything began\n")


def test_a_line_is_written_in_one_piece(monkeypatch):
    pieces = []

    class Out(io.StringIO):
        def write(self, text):
            pieces.append(text)
            return len(text)

    monkeypatch.setattr(sys, "stdout", Out())
    terminal.say("two words")
    assert pieces == ["two words\n"]


def test_a_signal_ends_the_command_though_nobody_reads_what_it_prints():
    hears, tells = os.pipe()
    os.set_blocking(tells, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(tells, bytes(4096))
    os.set_blocking(tells, True)
    program = "import time\nfrom reproduce.terminal import stoppable\nwith stoppable('x'):\n"
    program += " print('ready', flush=True)\n time.sleep(60)"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=tells, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(30) == 128 + signal.SIGTERM
        finally:
            process.kill()
            os.close(hears), os.close(tells)
