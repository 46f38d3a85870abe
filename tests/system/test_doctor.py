"""`python -m launch doctor` on this host, with real ranks: what is planted is found, what is healthy is left alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launch.flavours import MPICH, OPENMPI_4, OPENMPI_5, Flavour
from tests.system.jobs import LAUNCH, Job

VARIABLES = {
    MPICH: {"HYDRA_BINDING": "core"},
    OPENMPI_4: {"OMPI_MCA_hwloc_base_binding_policy": "core"},
    OPENMPI_5: {"PRTE_MCA_hwloc_default_binding_policy": "core"},
}
"""By which a user's environment makes a plain mpirun give each rank one core."""
OTHER = {"MPICH": "mpirun (Open MPI) 5.0.11", "Open MPI": "HYDRA build details:"}

Doctor = Callable[..., "Report"]


class Report:
    """What the doctor says, and its exit code."""

    def __init__(self, code: int, text: str) -> None:
        document = json.loads(text)
        self.code = code
        self.checks: list[dict[str, Any]] = document["checks"]

    def of(self, state: str) -> list[str]:
        """The checks with that state."""
        return [check["check"] for check in self.checks if check["state"] == state]

    def __getitem__(self, name: str) -> dict[str, Any]:
        (found,) = (check for check in self.checks if check["check"] == name)
        return found


@pytest.fixture
def doctor(tmp_path: Path, mpirun: str) -> Doctor:
    """Runs it where the right mpirun is first on PATH."""
    path = os.pathsep.join([str(Path(mpirun).parent), os.environ.get("PATH", os.defpath)])

    def run(*arguments: str, before: tuple[str, ...] = (), **environment: str) -> Report:
        command = [*before, *LAUNCH, "doctor", "--json", *arguments]
        job = Job(command, tmp_path, {"PATH": path, **environment})
        finished = job.finish()
        assert job.remaining() == []
        assert finished.err == ""
        return Report(finished.code, finished.out)

    return run


def needs_two_cores() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs 2 cores")


def test_a_healthy_host(doctor: Doctor, tmp_path: Path) -> None:
    needs_two_cores()
    report = doctor("-n", "2", "--threads", "1")
    assert report.of("error") == []
    assert report.code == 0
    assert report["world"]["measured"] == "2 ranks in one world, on 1 host"
    assert report["threading layer"]["details"]["layers"].keys() <= {"omp", "tbb", "workqueue"}
    assert report["threads"]["measured"].startswith("2 ranks x 1 of BLAS x 1 of Numba")
    (link,) = report["network"]["details"]["links"]
    assert link["ranks"] == [0, 1]
    assert all(peak > 0 for peak in report["peak"]["details"].values())
    assert {path.suffix for path in tmp_path.iterdir()} == {".out", ".err"}  # of this test: the doctor leaves nothing


def test_threads_are_counted(doctor: Doctor) -> None:
    needs_two_cores()
    report = doctor("-n", "1", "--threads", "2")
    assert report["threads"]["measured"].startswith("1 rank x 1 of BLAS x 2 of Numba and OpenMP")
    assert report["affinity"]["state"] == "ok"


def test_another_mpis_mpirun_first_on_path(doctor: Doctor, flavour: Flavour, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "mpirun").write_text(f"#!/bin/sh\necho '{OTHER[flavour.vendor]}'\n")
    (folder / "mpirun").chmod(0o755)
    report = doctor("-n", "1", PATH=f"{folder}:{os.environ['PATH']}")
    assert report.of("error") == ["mpirun"]
    assert report.code == 1
    assert str(folder / "mpirun") in report["mpirun"]["measured"]
    assert "export PATH=" in report["mpirun"]["fix"]
    assert report["world"]["state"] == "ok"  # the launcher takes the right one


def test_a_launcher_confined_to_one_core(doctor: Doctor) -> None:
    core = min(os.sched_getaffinity(0))
    report = doctor("-n", "1", "--threads", "2", before=("taskset", "-c", str(core)))
    assert report.of("error") == ["affinity"]
    assert report.code == 1
    assert report["affinity"]["measured"].endswith(f"has 1 core ({core}) for 2 threads")
    assert report["affinity"]["measured"].startswith(f"rank 0 on {os.uname().nodename} ")
    assert "this process has 1 core itself" in report["affinity"]["fix"]


def test_a_users_variable_that_binds(doctor: Doctor, flavour: Flavour) -> None:
    needs_two_cores()
    variable = VARIABLES[flavour]
    report = doctor("-n", "1", "--threads", "2", **variable)
    assert report.of("error") == ["plain mpirun"]
    assert report.code == 1
    assert " has 1 core (" in report["plain mpirun"]["measured"]
    assert report["plain mpirun"]["fix"].startswith(f"unset {next(iter(variable))}, or ")


def test_threads_bound_by_openmp(doctor: Doctor) -> None:
    needs_two_cores()
    core = min(os.sched_getaffinity(0))
    report = doctor("-n", "1", "--threads", "2", GOMP_CPU_AFFINITY=str(core), NUMBA_THREADING_LAYER="omp")
    assert "affinity" in report.of("error")
    assert "GOMP_CPU_AFFINITY" in report["affinity"]["fix"]


def test_threads_of_blas_that_the_user_asks_for(doctor: Doctor, flavour: Flavour) -> None:
    cores = len(os.sched_getaffinity(0))
    needs_two_cores()
    if flavour is not MPICH:
        pytest.skip("this MPI gives each rank one core, and so BLAS one thread")
    report = doctor("-n", "2", "--threads", "1", OPENBLAS_NUM_THREADS=str(cores))
    assert report["plain mpirun"]["state"] == "warning"
    assert "OPENBLAS_NUM_THREADS" in report["plain mpirun"]["fix"]
    assert report["threads"]["measured"].startswith("2 ranks x 1 of BLAS")  # the launcher sets it


def test_an_unsafe_threading_layer(doctor: Doctor) -> None:
    report = doctor("-n", "1", NUMBA_THREADING_LAYER="workqueue")
    assert report["threading layer"]["state"] == "warning"
    assert report["threading layer"]["measured"].startswith("workqueue on ")
    assert report.code == 0


def test_a_threading_layer_that_is_not_there(doctor: Doctor) -> None:
    report = doctor("-n", "1", NUMBA_THREADING_LAYER="none")
    assert "threading layer" in report.of("error")
    assert "kernels do not run on rank 0" in report["threading layer"]["measured"]
    assert report.code == 1


def test_more_threads_than_cores(doctor: Doctor) -> None:
    threads = str(len(os.sched_getaffinity(0)))
    report = doctor("-n", "2", "--threads", threads)
    assert report["threads"]["state"] == "warning"
    assert "ranks x threads be at most" in report["threads"]["fix"]


def test_a_run_directory_that_cannot_be_made(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    report = doctor("-n", "1", "--directory", "file/runs")
    assert report.of("error") == ["directory"]
    assert report["directory"]["measured"] == f"{tmp_path}/file/runs cannot be written to on this host: Not a directory"
    assert report.code == 1
