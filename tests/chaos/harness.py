"""Kills a small campaign at random moments until it ends, and compares its files with those of an undisturbed one.

    python tests/chaos/harness.py --kills 200 --record results/reliability

The campaign: two seeds of an MLP on made images, a checkpoint after every epoch, a slow disk for
records and nets. Each call is a process, forked from one that has imported everything, so that kills hit the
training and not the imports. After each kill every file under its final name must be whole, and no record once
written may have changed; at the end the records must be those of the undisturbed campaign, except for times.
Any violation ends the harness with exit code 1 and a description.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("KERNELS_THREADS", "1")
sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from made import made_images, settings, without_times  # noqa: E402

from reproduce import files, report, spec  # noqa: E402, F401
from reproduce.campaign import worker  # noqa: E402, F401
from reproduce.cli import app as cli  # noqa: E402
from reproduce.datasets import DATASETS, data, fetch  # noqa: E402, F401
from reproduce.records import machine, read_record, runs, weights  # noqa: E402
from reproduce.training import checkpoint as checkpoint_file  # noqa: E402
from reproduce.training import train  # noqa: E402

torch.set_num_threads(1)
LIMIT = 5.0  # seconds from SIGTERM or Ctrl-C to the end
GO_ON = "the same command resumes from the last checkpoint"
SEEDS, EIGHT_SEEDS = 2, 6


class Breach(AssertionError):
    """Something was lost, half-written, made twice or different."""


def demand(holds: object, what: object) -> None:
    if not holds:
        raise Breach(str(what))


# --- the campaign ---------------------------------------------------------------------------------------------


def prepare(folder: Path) -> None:
    """Writes experiment file and data set under `folder`, and registers them in this process and its forks."""
    arrays = {}
    for part, n, seed in (("train", 60000, 1), ("test", 10000, 2)):
        arrays[f"x_{part}"], arrays[f"y_{part}"] = made_images(n, seed=seed)
    (folder / "data").mkdir()
    np.savez(folder / "data" / "mnist.npz", **arrays)
    path = folder / "experiments" / "table1" / "made.yaml"
    path.parent.mkdir(parents=True)
    over = settings(
        data={"train": 2000, "valid": 1000, "test": 1000}, train={"epochs": 8}, net={"hidden": [96, 96]}
    )
    content = {"row": "BNN (Theano)", "dataset": "MNIST", "follows": "a harness", "scale": "small"}
    path.write_text(json.dumps(content | over.model_dump(mode="json")))
    about = dataclasses.replace(DATASETS["mnist"], digest=data.content_digest(arrays), sources=())
    DATASETS["mnist"] = about
    spec.cells.__defaults__ = (None, folder / "experiments")
    train.CHECKPOINT_SECONDS = 0.0
    vars(files)["open"] = SlowFile
    machine.code()


class SlowFile(io.FileIO):
    """A file on a slow disk: data are written in pieces."""

    def write(self, content: bytes) -> int:
        for piece in range(8):
            size = -(-len(content) // 8)
            super().write(content[piece * size : (piece + 1) * size])
            time.sleep(0.002)
        return len(content)


def call(folder: Path, store: Path, log: Path, seeds: int = SEEDS) -> int:
    """Starts `reproduce run` in its own process, with its output in `log`; returns the process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        words = ["--scale", "small", "--seeds", str(seeds), "--device", "cpu", "--threads", "1"]
        sys.argv = ["reproduce", "run", *words, "--results", str(store), "--data", str(folder / "data")]
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def ended(pid: int, within: float) -> int | None:
    """The exit code (negative: the signal) if the process ends within this many seconds, else None."""
    end = time.monotonic() + within
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.002)


# --- what must hold -------------------------------------------------------------------------------------------


def whole(store: Path, before: dict[str, bytes]) -> dict[str, bytes]:
    """The records now. Checks that all files are whole and the records of `before` unchanged."""
    now = {p.name: p.read_bytes() for p in (store / "runs").glob("*.json")} if store.exists() else {}
    for name, content in before.items():
        demand(now.get(name) == content, f"record {name} changed or is lost")
    for name in now:
        read_record(store / "runs" / name)
    for path in store.glob("work/*.ckpt"):
        checkpoint_file.saved(path)
    for path in store.glob("nets/*.safetensors"):
        weights.load(path)
    return now


def same(store: Path, reference: Path) -> None:
    """Checks that every record and net equals the undisturbed campaign's, and that there are no other files."""
    wanted = {p.name for p in (reference / "runs").iterdir()}
    demand(
        {p.name for p in (store / "runs").iterdir()} == wanted, f"records: {sorted((store / 'runs').iterdir())}"
    )
    for name in wanted:
        one, other = without_times(store / "runs" / name), without_times(reference / "runs" / name)
        demand(one == other, f"{name} differs from the undisturbed run's")
    for path in (reference / "nets").iterdir():
        one, other = weights.load(store / "nets" / path.name), weights.load(path)
        demand(
            one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one), f"{path.name} differs"
        )
    demand(
        {p.name for p in (store / "nets").iterdir()} == {p.name for p in (reference / "nets").iterdir()}, "nets"
    )
    left = [p.name for p in (store / "work").iterdir() if p.suffix != ".lock"]
    demand(not left, f"left behind: {left}")


def trained(log: Path) -> int:
    """Number of runs that finished in the calls that wrote `log`."""
    return len(re.findall(r"^    test error ", log.read_text(), re.MULTILINE))


# --- disturbing -----------------------------------------------------------------------------------------------


def moment(rng: random.Random, store: Path, whole_call: float) -> None:
    """Waits for a random moment: any time during a call, or when a file is being written or was renamed."""
    if rng.random() < 0.5:
        time.sleep(rng.uniform(0, 1.1 * whole_call))
        return
    seen, end = listing(store), time.monotonic() + 1.1 * whole_call
    for _ in range(rng.randint(1, 12)):
        while (now := listing(store)) == seen and time.monotonic() < end:
            pass
        seen = now
    time.sleep(rng.choice([0, 0, rng.uniform(0, 0.004)]))


def listing(store: Path) -> set[tuple[str, int]]:
    found = set()
    for name in ("runs", "work", "nets"):
        with contextlib.suppress(OSError), os.scandir(store / name) as entries:
            found |= {(e.name, e.inode()) for e in entries}
    return found


def campaigns(folder: Path, kills: int, number: int, rng: random.Random, whole_call: float) -> dict:
    """Sends signal `number` to campaigns `kills` times in all; returns the figures."""
    name = signal.Signals(number).name
    figures = {"signals": 0, "campaigns": 0, "calls": 0, "without_a_word": 0, "longest_end_seconds": 0.0}
    while figures["signals"] < kills:
        store, log = folder / name / "store", folder / name / "log"
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
        before: dict[str, bytes] = {}
        while True:
            start = log.stat().st_size if log.exists() else 0
            pid = call(folder, store, log)
            figures["calls"] += 1
            moment(rng, store, whole_call)
            code = ended(pid, 0 if figures["signals"] < kills else 600)
            if code is None:
                os.kill(pid, number)
                began = time.monotonic()
                code = ended(pid, 600 if number == signal.SIGKILL else LIMIT)
                if code is None:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    raise Breach(f"{name}: not ended within {LIMIT} s")
                figures["signals"] += code != 0
                said = log.read_text()[start:] if log.exists() else ""
                if number != signal.SIGKILL and code != 0:
                    figures["longest_end_seconds"] = max(figures["longest_end_seconds"], time.monotonic() - began)
                    heard = code == 128 + number and GO_ON in said
                    early = code == -number and not said  # before the command has set its signal handlers
                    early = early or (number == signal.SIGINT and not said.count("run(s) at"))
                    demand(heard or early, f"{name}: exit code {code}, said {said[-2000:]!r}")
                    figures["without_a_word"] += not heard
            before = whole(store, before)
            if code == 0:
                break
            demand(
                code in (-number, 128 + number) or number == signal.SIGINT, f"exit code {code}: {log.read_text()}"
            )
            demand("Traceback" not in log.read_text() or number == signal.SIGKILL, log.read_text()[-3000:])
        demand("Traceback" not in log.read_text(), log.read_text()[-3000:])
        same(store, folder / "reference")
        demand(trained(log) <= SEEDS, f"a run was made twice: {log.read_text()}")
        figures["campaigns"] += 1
    return figures


def eight(folder: Path, whole_call: float) -> dict:
    """Eight processes on one store train six runs: each must be trained once."""
    store = folder / "eight"
    logs = [folder / f"eight-{i}.log" for i in range(8)]
    for pid in [call(folder, store, log, EIGHT_SEEDS) for log in logs]:
        demand(ended(pid, 600) == 0, [log.read_text()[-500:] for log in logs])
    count = sum(trained(log) for log in logs)
    demand(
        count == EIGHT_SEEDS == len(list((store / "runs").iterdir())), f"{count} trainings of {EIGHT_SEEDS} runs"
    )
    for path in (folder / "reference" / "runs").iterdir():
        demand(without_times(path) == without_times(store / "runs" / path.name), f"{path.name} differs")
    return {"processes": 8, "runs": EIGHT_SEEDS, "trained": count}


def main() -> int:
    """Runs everything; writes a record if asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="SIGKILLs; of SIGTERM and Ctrl-C a quarter each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, help="folder of the record of figures")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    started = runs.now()
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder = Path(name)
        prepare(folder)
        began = time.monotonic()
        pid = call(folder, folder / "reference", folder / "reference.log")
        demand(ended(pid, 600) == 0, (folder / "reference.log").read_text())
        whole_call = time.monotonic() - began
        try:
            found = {
                "SIGKILL": campaigns(folder, options.kills, signal.SIGKILL, rng, whole_call),
                "SIGTERM": campaigns(folder, -(-options.kills // 4), signal.SIGTERM, rng, whole_call),
                "SIGINT": campaigns(folder, -(-options.kills // 4), signal.SIGINT, rng, whole_call),
                "eight processes": eight(folder, whole_call),
            }
        except (Breach, OSError, ValueError, KeyError, zipfile.BadZipFile) as breach:
            print(f"BREACH: {type(breach).__name__}: {breach}")
            return 1
    for what, figures in found.items():
        print(f"{what}: {json.dumps(figures)}")
    if options.record:
        content = {"format": 1, "kind": "chaos", "started": started, "machine": machine.machine("cpu")}
        content |= {"libraries": machine.libraries(), "code": machine.code()}
        content |= {"seed": options.seed, "undisturbed_call_seconds": whole_call, "found": found}
        stamp = started.replace(":", "").replace("-", "").split("+")[0]
        files.write_sealed(options.record / f"chaos-{stamp}.json", content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
