"""Jobs of several processes, each with a time-out that ends all of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from launch.flavours import Flavour, build_command
from launch.placement import available_here, make_plan

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 120.0
TRAIN = (sys.executable, "-m", "ddp.train")
LAUNCH = (sys.executable, "-m", "launch")
MARKER = "DDP_TEST_JOB"
"""The variable of the environment by which all processes of a job are found, whatever became of their parents."""

RANK_VARIABLES = (b"PMI_RANK", b"OMPI_COMM_WORLD_RANK")

SET_FOR_TESTS = (
    "MKL_NUM_THREADS",
    "MPI4PY_CHECK_MPIEXEC",
    "NUMBA_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "OPENBLAS_NUM_THREADS",
)
"""What tests/conftest.py sets for its own process; a job must manage without, as at a user's."""


@dataclass(frozen=True)
class Finished:
    """How a job ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


@dataclass
class Job:
    """A job that runs: in `cwd`, its output in files there, which no forgotten process can keep open for us."""

    command: Sequence[str]
    cwd: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name = uuid.uuid4().hex
        self.out, self.err = self.cwd / f"{self.name}.out", self.cwd / f"{self.name}.err"
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        inherited = {name: value for name, value in os.environ.items() if name not in SET_FOR_TESTS}
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.cwd,
                env={**inherited, "PYTHONPATH": path, **self.environment, MARKER: self.name},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,  # a process group of its own, for Ctrl-C
            )

    def finish(self, timeout_s: float = TIMEOUT_S) -> Finished:
        """Wait for the end; kill everything and fail the test if it does not come."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"no end within {timeout_s} s: {' '.join(self.command)}\n{self.output().text}")
        return Finished(code, *self._texts())

    def output(self) -> Finished:
        """What was written so far."""
        return Finished(-1, *self._texts())

    def _texts(self) -> tuple[str, str]:
        return self.out.read_text(), self.err.read_text()

    def remaining(self) -> list[int]:
        """The processes of this job that still run, 2 s after they should have ended at the latest."""
        deadline = time.monotonic() + 2
        while (pids := self.pids()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return pids

    def pids(self) -> list[int]:
        """The processes that run now: mpirun, its daemons and the ranks."""
        mark = f"{MARKER}={self.name}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            # Those of other users cannot be read; those that have just ended, and zombies, have nothing to read.
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found

    def ranks(self) -> list[int]:
        """The processes of the ranks that run now, in the order of their ranks."""
        found = {}
        for pid in self.pids():
            with contextlib.suppress(OSError):
                for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    name, _, value = entry.partition(b"=")
                    if name in RANK_VARIABLES:
                        found[int(value)] = pid
        return [found[rank] for rank in sorted(found)]

    def shared_memory(self) -> set[Path]:
        """The files in /dev/shm that processes of this job use now: whoever kills these must delete those."""
        found = set()
        for pid in self.pids():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                    path = line.split(maxsplit=5)[5:]
                    if path and path[0].startswith("/dev/shm/") and not path[0].endswith(" (deleted)"):
                        found.add(Path(path[0]))
        return found

    def kill(self) -> None:
        """Kill every process, and delete what the MPI library then leaves behind."""
        shared = self.shared_memory()
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        for path in shared:
            path.unlink(missing_ok=True)


def mpirun_command(
    flavour: Flavour, mpirun: str, ranks: int, program: Sequence[str], exported: Iterable[str] = ()
) -> list[str]:
    """The command of plain mpirun for `program`; `exported` names the variables that ranks must see."""
    return build_command(
        make_plan(ranks, None, "auto", available_here()),
        flavour,
        mpirun=mpirun,
        program=program,
        exported=exported,
        as_root=os.geteuid() == 0,
    )


Start = Callable[..., Job]
"""`start(ranks, *arguments, cwd, program=TRAIN, **environment)` of the fixture of that name."""


def records(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
