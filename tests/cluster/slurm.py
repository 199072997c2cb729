"""A SLURM cluster on this machine for tests: munge, slurmctld, several slurmd on ports of their own, as root."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue")


def missing() -> str | None:
    """Why no cluster can be started here; None if it can."""
    absent = [name for name in PROGRAMS if not shutil.which(name, path=_path())]
    if absent:
        return f"not installed: {', '.join(absent)} (Debian: slurm-wlm, munge)"
    return None if os.geteuid() == 0 else "needs root"


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


class Cluster:
    """Nodes of one CPU each, all on the loopback. SLURM itself makes a requeued job wait for two minutes."""

    def __init__(self, root: Path, nodes: int) -> None:
        self.root, self.names = root, [f"node{i + 1}" for i in range(nodes)]
        self.conf = root / "slurm.conf"
        self.environment = os.environ | {"SLURM_CONF": str(self.conf), "PATH": _path()}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Raises RuntimeError, with the end of the logs, if the nodes are not idle in time."""
        (self.root / "state").mkdir(parents=True)
        key = self.root / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        self.conf.write_text(self._configuration())
        munge = ["munged", "--foreground", "--force", f"--key-file={key}"]
        munge += [f"--{kind}-file={self.root / f'munge.{kind}'}" for kind in ("log", "pid", "seed")]
        self._run("munged", [*munge, f"--socket={self.root / 'munge.socket'}"])
        self._until(lambda: (self.root / "munge.socket").exists(), 10, "munge")
        self._run("slurmctld", ["slurmctld", "-D", "-f", str(self.conf)])
        for name in self.names:
            self._run(name, ["slurmd", "-D", "-N", name, "-f", str(self.conf)])
        self._until(
            lambda: self.ask("sinfo", "-h", "-N", "-o", "%t").split() == ["idle"] * len(self.names), 60, "nodes"
        )

    def stop(self) -> None:
        if self.conf.exists():
            subprocess.run(["scancel", "--user=root"], env=self.environment, capture_output=True, timeout=30)
            time.sleep(1)
        for name in self.names:
            self._kill_jobs(name)
        for process in reversed(self._running.values()):
            process.terminate()
        for process in self._running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()

    def ask(self, *words: str) -> str:
        """The output of a SLURM command; empty if it fails."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60)
        return done.stdout if done.returncode == 0 else ""

    def kill_node(self, name: str) -> None:
        """Kills a node like a power failure: the daemon, its steps and all of their processes at once."""
        self._running[name].kill()
        self._running[name].wait()
        self._kill_jobs(name)

    def _kill_jobs(self, name: str) -> None:
        """Sends SIGKILL to the jobs of a node: their processes and the slurmstepd above them."""
        found = set()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                variables = (folder / "environ").read_bytes().split(b"\0")
                if not {f"SLURM_CONF={self.conf}".encode(), f"SLURMD_NODENAME={name}".encode()} <= set(variables):
                    continue
                found.add(int(folder.name))
                parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[1]
                if "slurmstepd" in Path(f"/proc/{parent}/comm").read_text():
                    found.add(int(parent))
        for process in sorted(found):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def _run(self, name: str, words: list[str]) -> None:
        with open(self.root / f"{name}.log", "wb") as log:
            self._running[name] = subprocess.Popen(words, env=self.environment, stdout=log, stderr=log)

    def _until(self, true: object, seconds: float, what: str) -> None:
        end = time.monotonic() + seconds
        while not true():  # type: ignore[operator]
            if time.monotonic() > end:
                logs = "".join(
                    f"\n{p.name}: {p.read_text(errors='replace')[-600:]}" for p in self.root.glob("*.log")
                )
                raise RuntimeError(f"{what} did not come up in {seconds:.0f} s{logs}")
            time.sleep(0.3)

    def _configuration(self) -> str:
        host, root = socket.gethostname(), self.root
        ports = _free_ports(1 + len(self.names))
        lines = [
            "ClusterName=tests",
            f"SlurmctldHost={host}(127.0.0.1)",
            "SlurmUser=root",
            f"SlurmctldPort={ports[0]}",
            "AuthType=auth/munge",
            f"AuthInfo=socket={root / 'munge.socket'}",
            f"StateSaveLocation={root / 'state'}",
            f"SlurmdSpoolDir={root}/spool-%n",
            f"SlurmctldPidFile={root}/slurmctld.pid",
            f"SlurmdPidFile={root}/slurmd-%n.pid",
            "ProctrackType=proctrack/pgid",
            "TaskPlugin=task/none",
            "MpiDefault=none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_CPU",
            "SlurmdParameters=config_overrides",
            "SlurmdTimeout=10",
            "KillWait=5",
            "ReturnToService=2",
            "MailProg=/bin/true",
            "SchedulerParameters=bf_interval=5,sched_interval=5,batch_sched_delay=1",
        ]
        for name, port in zip(self.names, ports[1:], strict=True):
            lines.append(
                f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 State=UNKNOWN"
            )
        lines.append("PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP")
        return "\n".join(lines) + "\n"


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def cluster(root: Path, nodes: int) -> Iterator[Cluster]:
    """A running cluster in the folder `root`; it is stopped at the end."""
    made = Cluster(root, nodes)
    try:
        made.start()
        yield made
    finally:
        made.stop()
