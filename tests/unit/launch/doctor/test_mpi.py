"""The mpirun that fits the library, and the first one on PATH, with stand-ins."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from launch.discovery import Library
from launch.doctor.mpi import check_library, check_mpirun
from launch.errors import UsageError

OPENMPI_5, MPICH = "mpirun (Open MPI) 5.0.11", "HYDRA build details:"
LIBRARY = Library("Open MPI", (5, 0, 11), "/opt/libmpi.so.40")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Holds `python/`, the folder of this Python, and `first/` and `second/` on PATH."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python" / "python3"))
    monkeypatch.setenv("PATH", f"{tmp_path}/first:{tmp_path}/second:/usr/bin:/bin")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return tmp_path


def mpirun(folder: Path, text: str) -> str:
    folder.mkdir()
    path = folder / "mpirun"
    path.write_text(f"#!/bin/sh\necho '{text}'\n")
    path.chmod(0o755)
    return str(path)


def test_one_that_fits(folder: Path) -> None:
    own = mpirun(folder / "first", OPENMPI_5)
    finding, launcher = check_mpirun(LIBRARY, "auto")
    assert finding.state == "ok"
    assert launcher is not None
    assert launcher.mpirun == own


def test_another_mpis_is_first_on_path(folder: Path) -> None:
    other, own = mpirun(folder / "first", MPICH), mpirun(folder / "second", OPENMPI_5)
    finding, launcher = check_mpirun(LIBRARY, "auto")
    assert finding.state == "error"
    assert launcher is not None
    assert launcher.mpirun == own  # and the examination goes on
    for named in (other, "MPICH", own, "Open MPI 5.0.11", "rank 0 of 1"):
        assert named in finding.measured
    assert finding.fix == f'put that of Open MPI 5 first: export PATH="{folder}/second:$PATH"'


def test_another_mpis_is_first_on_path_and_the_right_one_beside_python(folder: Path) -> None:
    mpirun(folder / "first", "something else")
    own = mpirun(folder / "python", OPENMPI_5)
    finding, launcher = check_mpirun(LIBRARY, "auto")
    assert finding.state == "error"
    assert "of an unknown MPI" in finding.measured
    assert launcher is not None
    assert launcher.mpirun == own


def test_only_another_mpis(folder: Path) -> None:
    mpirun(folder / "first", MPICH)
    finding, launcher = check_mpirun(LIBRARY, "auto")
    assert finding.state == "error"
    assert launcher is None
    assert "mpi4py loads Open MPI 5, but there is only" in finding.measured
    assert "put the mpirun of Open MPI 5 on PATH" in finding.fix


def test_none_on_path_but_one_beside_python(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mpirun(folder / "python", OPENMPI_5)
    monkeypatch.setenv("PATH", str(folder / "first"))
    finding, _ = check_mpirun(LIBRARY, "auto")
    assert finding.state == "ok"
    assert "there is no mpirun on PATH" in finding.measured


def test_another_mpi_than_wanted(folder: Path) -> None:
    mpirun(folder / "first", OPENMPI_5)
    finding, launcher = check_mpirun(LIBRARY, "mpich")
    assert (finding.state, launcher) == ("error", None)
    assert finding.fix.startswith("give --mpi openmpi")


def test_the_library() -> None:
    def none() -> Library:
        raise UsageError("mpi4py finds no MPI library")

    finding, found = check_library(lambda: LIBRARY)
    assert (finding.state, finding.measured, found) == ("ok", "Open MPI 5.0.11 (/opt/libmpi.so.40)", LIBRARY)
    finding, found = check_library(none)
    assert (finding.state, finding.measured, found) == ("error", "mpi4py finds no MPI library", None)
    assert "pip install" in finding.fix
