"""The mpirun of another MPI starts every process as rank 0 of 1; its environment gives it away."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.discovery import query_library
from tests.system.jobs import TRAIN, Job

# What each launcher sets for a process that the loaded library does not recognise as one of several.
LAUNCHERS = {
    "Open MPI's mpirun": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    "the mpirun of MPICH or Intel MPI, or srun,": ("PMI_SIZE", "PMI_RANK"),
    "srun": ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    "Slurm": ("SLURM_NTASKS", "SLURM_PROCID"),
    "`python -m launch`": ("DDP_WORLD_SIZE", "PMI_RANK"),
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_first_process_names_launcher_and_library(launcher: str, tmp_path: Path) -> None:
    size, rank = LAUNCHERS[launcher]
    finished = Job(TRAIN, tmp_path, {size: "4", rank: "0"}).finish()
    assert finished.code == 2
    assert finished.out == ""
    (line,) = finished.err.splitlines()
    assert line.startswith(f"error: {launcher} started 4 processes but each is rank 0 of 1: ")
    library = query_library()
    assert f"mpi4py loads {library.vendor} {'.'.join(map(str, library.version))} " in line
    assert "python -m launch run -n P" in line
    assert list(tmp_path.glob("runs")) == []


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_other_processes_are_silent(launcher: str, tmp_path: Path) -> None:
    size, rank = LAUNCHERS[launcher]
    finished = Job(TRAIN, tmp_path, {size: "4", rank: "3"}).finish()
    assert (finished.code, finished.text) == (2, "")


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_one_process_is_no_mistake(launcher: str, tmp_path: Path) -> None:
    size, rank = LAUNCHERS[launcher]
    finished = Job([*TRAIN, "--train.steps", "1"], tmp_path, {size: "1", rank: "0"}).finish()
    assert finished.code == 0, finished.text
