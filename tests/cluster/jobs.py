"""Jobs on the cluster's hosts, started on node1 by the launcher or by plain mpirun of one of two MPIs."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.discovery import flavour_of, query_library
from launch.errors import UsageError
from tests.cluster.cluster import Cluster, name
from tests.cluster.processes import Process, children
from tests.system.jobs import RANK_VARIABLES, ROOT, TIMEOUT_S, Finished, Job, records

PYTHONS = {
    "mpich": sys.executable,
    "openmpi": os.environ.get("DDP_OPENMPI_PYTHON", str(ROOT / ".venv-openmpi" / "bin" / "python")),
}
"""By the launcher's word for an MPI, the Python that loads it."""
TRAIN = ("-m", "ddp.train")
THROTTLED = ("-m", "tests.system.planted", "throttled")
JOB = ("--model.hidden", "[48]", "--threads", "1", "--output.log_every", "1", "--train.evaluate_every", "0")
ENDLESS = (*JOB, "--train.epochs", "1000000", "--output.name", "run")
SHORT, LONG = ((*JOB, "--train.epochs", "1000", "--output.name", "run", "--train.steps", n) for n in ("60", "300"))
ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    # Every host takes the machine's cores for its own, so nothing else tells the ranks that they share them.
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "MPIR_CVAR_ENABLE_HEAVY_YIELD": "1",
}
POLL_S = 0.02


Bits = Callable[[tuple[str, ...]], str]
"""`undisturbed(arguments)` of the fixture of that name."""
Ends = Callable[["ClusterJob", str, float], Finished]
"""`ends(job, fault, since)` of the fixture of that name."""


@dataclass(frozen=True)
class Mpi:
    """One of the two, and the Python of its environment, with its mpirun beside it."""

    option: str
    python: str

    def mpirun(self, ranks: int, hostfile: Path, program: Sequence[str]) -> list[str]:
        """As a user would type it."""
        mpirun = str(Path(self.python).with_name("mpirun"))
        if self.option == "mpich":
            return [mpirun, "-f", str(hostfile), "-n", str(ranks), self.python, *program]
        exported = [word for variable in ("PYTHONPATH", "NUMBA_CACHE_DIR") for word in ("-x", variable)]
        options = ["--hostfile", str(hostfile), "-n", str(ranks), "--bind-to", "none"]
        return [mpirun, *options, *exported, self.python, *program]

    def write_hostfile(self, path: Path, hosts: Sequence[int], slots: int = 1) -> Path:
        """In this MPI's own form."""
        form = "{}:{}\n" if self.option == "mpich" else "{} slots={}\n"
        path.write_text("".join(form.format(name(host), slots) for host in hosts))
        return path


def find_mpi(option: str) -> Mpi | str:
    """One of the two; or why it is not here."""
    python = PYTHONS[option]
    if not Path(python).exists():
        return f"there is no {python}: make openmpi"
    try:
        found = flavour_of(query_library(python), "auto").option
    except UsageError as error:
        return str(error)
    return Mpi(option, python) if found == option else f"{python} loads {found}, not {option}"


class ClusterJob(Job):
    """A job whose launcher or mpirun runs on node1."""

    def __init__(self, cluster: Cluster, command: Sequence[str], cwd: Path, **environment: str) -> None:
        """Start it."""
        self.cluster = cluster
        super().__init__(cluster.command(1, command, cwd), cwd, {**ENVIRONMENT, **environment})

    def signal(self, number: int) -> None:
        """Send a signal to what was started: nsenter does not pass it on to its child."""
        (child,) = children(self.process.pid)
        os.kill(child, number)

    def kill(self) -> None:
        """End it on all hosts."""
        self.cluster.kill_jobs()
        super().kill()

    def left(self) -> list[str]:
        """What still runs, on any host; but for sshd itself, which on a host that is cut off cannot know of it."""
        found = [(host, process) for host in self.cluster.numbers() for process in self.cluster.processes(host)]
        return [f"{name(host)}: {process}" for host, process in found if not process.arguments[0].startswith("sshd: ")]

    def end(self, within_s: float = TIMEOUT_S) -> Finished:
        """Wait for the end of it all on all hosts; fail the test, and end it, if that takes longer."""
        deadline = time.monotonic() + within_s
        try:
            finished = self.finish(within_s)
            while left := self.left():
                assert time.monotonic() < deadline, "\n".join([f"after {within_s:g} s still there:", *left])
                time.sleep(POLL_S)
        finally:
            self.kill()
        return finished

    def rank(self, number: int) -> tuple[int, Process]:
        """A rank, and its host.

        Raises:
            KeyError: if it does not run.
        """
        for host in self.cluster.numbers():
            ranks = [process for process in self.cluster.processes(host) if rank_of(process) == number]
            for process in ranks:
                if process.parent not in {other.pid for other in ranks}:
                    return host, process
        raise KeyError(number)

    def kill_rank(self, number: int) -> int:
        """Kill a rank with signal 9; its host."""
        host, process = self.rank(number)
        os.kill(process.pid, signal.SIGKILL)
        return host

    def wait_for_training(self, steps: int = 1, run: str = "run") -> None:
        """Until so many steps are logged since it was started."""
        metrics = self.cwd / "runs" / run / "metrics.jsonl"
        deadline = time.monotonic() + TIMEOUT_S
        while not (metrics.exists() and metrics.read_text().rpartition('"start"')[2].count('"event": "step"') >= steps):
            assert self.process.poll() is None, self.output().text
            assert time.monotonic() < deadline, self.output().text
            time.sleep(POLL_S)


def rank_of(process: Process) -> int | None:
    """Its rank, if it is one; hydra's and Open MPI's own processes have none."""
    for variable in RANK_VARIABLES:
        value = process.environment.get(variable.decode())
        if value is not None:
            return int(value)
    return None


def launch_command(mpi: Mpi, ranks: int, hostfile: Path, *options: str, fault: str | None = None) -> list[str]:
    """`python -m launch run` on those hosts, without the trainer's arguments; or with a planted trainer."""
    program = ["-m", "launch"] if fault is None else ["-m", "tests.cluster.planted_launch", fault]
    placed = ["run", "-n", str(ranks), "--hostfile", str(hostfile), "--threads", "1"]
    return [mpi.python, *program, *placed, *options, "--"]


def final_sha256(cwd: Path, run: str = "run") -> str:
    """The bits that a run ended with.

    Raises:
        AssertionError: if it did not come to its end.
    """
    last = records(cwd / "runs" / run)[-1]
    assert last["event"] == "end", last
    return str(last["parameters_sha256"])
