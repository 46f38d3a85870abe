"""Starts jobs by plain mpirun, as a user does: `mpirun -n P python -m ddp.train ...`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from launch.discovery import find_mpirun, flavour_of, query_library
from launch.flavours import Flavour
from tests.system.jobs import TRAIN, Job, Start, mpirun_command


@pytest.fixture(autouse=True)
def no_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A study would simulate hundreds of hosts for half a minute where SimGrid is installed."""
    monkeypatch.setenv("DDP_SIMGRID_PYTHON", "")


@pytest.fixture(scope="session")
def flavour() -> Flavour:
    """The kind of mpirun that starts the MPI library of this Python."""
    return flavour_of(query_library(), "auto")


@pytest.fixture(scope="session")
def mpirun(flavour: Flavour) -> str:
    """Its path."""
    return find_mpirun(flavour, Path(sys.executable).parent, os.environ.get("PATH", os.defpath))


@pytest.fixture(scope="module")
def start(flavour: Flavour, mpirun: str) -> Iterator[Start]:
    """Starts `program` on a number of ranks by plain mpirun; nothing of it outlives the tests of a file."""
    jobs: list[Job] = []

    def _start(ranks: int, *arguments: str, cwd: Path, program: Sequence[str] = TRAIN, **environment: str) -> Job:
        command = mpirun_command(flavour, mpirun, ranks, [*program, *arguments], environment)
        jobs.append(Job(command, cwd, environment))
        return jobs[-1]

    yield _start
    for job in jobs:
        job.kill()
