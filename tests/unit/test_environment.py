"""What the launcher's environment tells, before MPI is there to ask."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ddp.comm import environment as module
from ddp.comm.environment import (
    launched_local_size,
    launched_rank,
    launched_world_size,
    launcher,
    parameter_log,
    prepare,
    terminal_width,
)


@pytest.mark.parametrize(
    ("environment", "local_size", "world_size", "rank"),
    [
        ({}, 1, 1, 0),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_RANK": "5"}, 4, 8, 5),
        ({"MPI_LOCALNRANKS": "2", "PMI_SIZE": "6", "PMI_RANK": "3"}, 2, 6, 3),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "7"}, 4, 8, 7),
        ({"SLURM_STEP_TASKS_PER_NODE": "2,1", "SLURM_STEP_NUM_TASKS": "3"}, 2, 3, 0),
        ({"SLURM_NTASKS": "5", "SLURM_PROCID": "0"}, 1, 5, 0),
        ({"DDP_WORLD_SIZE": "3", "PMI_SIZE": "1", "SLURM_NTASKS": "5"}, 1, 3, 0),
        ({"PMI_SIZE": "many"}, 1, 1, 0),
    ],
)
def test_launchers_are_understood(environment: dict[str, str], local_size: int, world_size: int, rank: int) -> None:
    assert launched_local_size(environment) == local_size
    assert launched_world_size(environment) == world_size
    assert launched_rank(environment) == rank


def test_an_open_mpi_job_inside_a_slurm_step_is_open_mpis() -> None:
    environment = {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8", "OMPI_COMM_WORLD_SIZE": "4"}
    assert launched_world_size(environment) == 4
    assert "Open MPI" in launcher(environment)


@pytest.mark.parametrize(("ranks", "is_patient"), [("1", False), ("2", False), ("3", True)])
def test_ranks_that_share_cores_are_asked_to_yield(
    monkeypatch: pytest.MonkeyPatch, ranks: str, is_patient: bool
) -> None:
    """A rank that is bound to a core of its own does not share it."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1} if process == os.getppid() else {1})
    environment = {"MPI_LOCALNRANKS": ranks, "PMI_SIZE": ranks}
    prepare(environment)
    for name in ("OMP_WAIT_POLICY", *module.YIELD):
        assert (name in environment) is is_patient
    assert environment["OPENBLAS_NUM_THREADS"] == "1"


def test_slurm_says_how_many_of_the_cores_are_the_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)) if process == os.getppid() else {1})
    environment = {"SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_TASKS_PER_NODE": "3", "SLURM_CPUS_ON_NODE": "2"}
    prepare(environment)
    assert "OMP_WAIT_POLICY" in environment


def test_what_the_user_has_set_stays() -> None:
    environment = {"OPENBLAS_NUM_THREADS": "3"}
    prepare(environment)
    assert environment["OPENBLAS_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("environment", "is_terminal", "width"),
    [
        ({}, False, None),
        ({}, True, 77),
        ({"PMI_SIZE": "2"}, True, None),
        ({"PMI_SIZE": "2", "DDP_TERMINAL": "99"}, False, 99),
    ],
)
def test_the_terminal_is_ours_or_the_launchers(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], is_terminal: bool, width: int | None
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    monkeypatch.setenv("COLUMNS", "77")
    assert terminal_width(environment) == width


def test_the_log_of_parameters_is_where_the_launcher_says() -> None:
    assert parameter_log({}) is None
    assert parameter_log({"DDP_PARAMETER_LOG": ""}) is None
    assert parameter_log({"DDP_PARAMETER_LOG": "/a/b c"}) == Path("/a/b c")
