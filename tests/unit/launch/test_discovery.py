"""The MPI library's word and the mpirun that fits, with stand-ins for both."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from launch.discovery import Library, find_launcher, find_mpirun, flavour_of, query_library
from launch.errors import UsageError
from launch.flavours import INTEL, MPICH, OPENMPI_4, OPENMPI_5, Flavour

OPENMPI_5_TEXT = "mpirun (Open MPI) 5.0.11"
HYDRA_TEXT = "HYDRA build details:"


def executable(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def mpirun(path: Path, version_text: str) -> Path:
    return executable(path, f'[ "$1" = --version ] && echo "{version_text}"')


def test_query_reads_the_answer(tmp_path: Path) -> None:
    answer = '{"vendor": "MPICH", "version": [5, 0, 2], "path": "/opt/libmpi.so.12"}'
    python = executable(tmp_path / "python", f"[ \"$*\" = '-m ddp.comm.library' ] && echo '{answer}'")
    library = query_library(str(python))
    assert library == Library("MPICH", (5, 0, 2), "/opt/libmpi.so.12")
    assert str(library) == "MPICH 5.0.2 (/opt/libmpi.so.12)"


def test_query_hands_on_the_error_line(tmp_path: Path) -> None:
    python = executable(tmp_path / "python", "echo 'error: no libmpi; install one' >&2; exit 2")
    with pytest.raises(UsageError, match=r"^no libmpi; install one$"):
        query_library(str(python))


def test_query_without_the_package(tmp_path: Path) -> None:
    python = executable(tmp_path / "python", "echo 'a traceback' >&2; echo 'No module named x' >&2; exit 1")
    with pytest.raises(UsageError, match=r"^no MPI: No module named x$"):
        query_library(str(python))


@pytest.mark.parametrize(
    ("library", "flavour"),
    [
        (Library("MPICH", (4, 0, 2)), MPICH),
        (Library("Open MPI", (4, 1, 4)), OPENMPI_4),
        (Library("Open MPI", (5, 0, 11)), OPENMPI_5),
        (Library("Intel MPI", (2021, 18, 1)), INTEL),
    ],
)
def test_flavour_of_the_library(library: Library, flavour: Flavour) -> None:
    assert flavour_of(library, "auto") is flavour
    assert flavour_of(library, flavour.option) is flavour


def test_another_mpi_than_the_librarys() -> None:
    with pytest.raises(UsageError, match=r"--mpi openmpi, but mpi4py loads MPICH 5\.0\.2.*--mpi mpich"):
        flavour_of(Library("MPICH", (5, 0, 2)), "openmpi")


def test_a_library_without_a_flavour() -> None:
    with pytest.raises(UsageError, match=r"MVAPICH 3\.0\.0.* by its own mpirun"):
        flavour_of(Library("MVAPICH", (3, 0, 0)), "auto")


def test_the_mpirun_beside_python_comes_first(tmp_path: Path) -> None:
    beside = mpirun(tmp_path / "venv" / "mpirun", HYDRA_TEXT)
    mpirun(tmp_path / "system" / "mpirun", HYDRA_TEXT)
    assert find_mpirun(MPICH, tmp_path / "venv", str(tmp_path / "system")) == str(beside)


def test_the_first_of_the_flavour_on_path(tmp_path: Path) -> None:
    mpirun(tmp_path / "venv" / "mpirun", OPENMPI_5_TEXT)
    mpirun(tmp_path / "a" / "mpirun", OPENMPI_5_TEXT)
    executable(tmp_path / "a" / "mpiexec", "exit 1")
    wanted = mpirun(tmp_path / "b" / "mpirun.mpich", HYDRA_TEXT)
    mpirun(tmp_path / "c" / "mpirun", HYDRA_TEXT)
    path = ":".join(str(tmp_path / name) for name in ("missing", "a", "b", "c"))
    assert find_mpirun(MPICH, tmp_path / "venv", path) == str(wanted)


def test_intels_own_starter_comes_before_its_script(tmp_path: Path) -> None:
    text = "Intel(R) MPI Library for Linux* OS, Version 2021.18"
    mpirun(tmp_path / "mpirun", text)
    starter = mpirun(tmp_path / "mpiexec.hydra", text)
    assert find_mpirun(INTEL, tmp_path / "venv", str(tmp_path)) == str(starter)


def test_only_another_mpirun(tmp_path: Path) -> None:
    other = mpirun(tmp_path / "mpirun", OPENMPI_5_TEXT)
    with pytest.raises(UsageError, match=r"mpi4py loads MPICH") as error:
        find_mpirun(MPICH, tmp_path / "venv", str(tmp_path))
    assert f"{other} of Open MPI 5" in str(error.value)


def test_another_major_version_is_another_mpirun(tmp_path: Path) -> None:
    mpirun(tmp_path / "mpirun", "mpirun (Open MPI) 4.1.4")
    with pytest.raises(UsageError, match=r"loads Open MPI 5, but there is only .* of Open MPI 4"):
        find_mpirun(OPENMPI_5, tmp_path, "")


def test_no_mpirun(tmp_path: Path) -> None:
    (tmp_path / "mpirun").mkdir()
    with pytest.raises(UsageError, match=r"no mpirun.*pip install"):
        find_mpirun(MPICH, tmp_path, str(tmp_path))


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An srun that knows pmi2, a job, and no mpirun."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    return executable(
        tmp_path / "srun", '[ "$*" = --mpi=list ] && echo "MPI plugin types are..." && echo "\tpmi2 none"'
    )


@pytest.mark.parametrize("wanted", ["auto", "srun"])
def test_srun_is_told_what_the_library_speaks(wanted: str, slurm: Path) -> None:
    found = find_launcher(Library("MPICH", (5, 0, 2)), wanted)
    assert found.mpirun == str(slurm)
    assert "--mpi=pmi2" in found.flavour.no_input


@pytest.mark.usefixtures("slurm")
def test_srun_that_does_not_speak_it() -> None:
    with pytest.raises(UsageError, match=r"Open MPI 5\.0\.11 needs srun --mpi=pmix, which is not in .*'pmi2'"):
        find_launcher(Library("Open MPI", (5, 0, 11)), "srun")
    with pytest.raises(UsageError, match=r"not known how srun starts MVAPICH"):
        find_launcher(Library("MVAPICH", (3, 0)), "srun")


@pytest.mark.usefixtures("slurm")
def test_srun_needs_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID")
    with pytest.raises(UsageError, match=r"--mpi srun needs srun and a Slurm job"):
        find_launcher(Library("MPICH", (5, 0, 2)), "srun")
    with pytest.raises(UsageError, match=r"no mpirun"):
        find_launcher(Library("MPICH", (5, 0, 2)), "auto")
