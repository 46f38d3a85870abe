"""What every rank finds in its environment."""

from __future__ import annotations

import subprocess

import pytest

from launch.environment import forwarded, parse_assignment, rank_environment, shell_line
from launch.errors import UsageError
from launch.flavours import INTEL, MPICH, OPENMPI_4, OPENMPI_5, Flavour
from launch.hosts import Host
from launch.placement import Available, make_plan

CORES = [Available(Host("a"), (0, 1, 2, 3))]
FREE = make_plan(2, 2, "none", CORES)
CROWDED = make_plan(2, 3, "none", CORES)


@pytest.mark.parametrize("flavour", [MPICH, OPENMPI_4, OPENMPI_5])
def test_threads_for_numba_and_one_for_blas(flavour: Flavour) -> None:
    assert rank_environment(FREE, flavour, {}) == {
        "NUMBA_NUM_THREADS": "2",
        "OMP_NUM_THREADS": "2",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "DDP_WORLD_SIZE": "2",
        "DDP_THREADS": "2",
    }


@pytest.mark.parametrize(
    ("flavour", "variable"),
    [
        (MPICH, "MPIR_CVAR_ENABLE_HEAVY_YIELD"),
        (OPENMPI_4, "OMPI_MCA_mpi_yield_when_idle"),
        (OPENMPI_5, "OMPI_MCA_mpi_yield_when_idle"),
    ],
)
def test_waiting_gives_up_the_core_only_where_cores_are_shared(flavour: Flavour, variable: str) -> None:
    added = rank_environment(CROWDED, flavour, {}).keys() - rank_environment(FREE, flavour, {}).keys()
    assert added == {"OMP_WAIT_POLICY", variable}
    assert rank_environment(CROWDED, flavour, {})["OMP_WAIT_POLICY"] == "passive"
    assert rank_environment(CROWDED, flavour, {})[variable] == "1"


def test_intel_mpi_is_told_not_to_bind() -> None:
    assert rank_environment(FREE, INTEL, {})["I_MPI_PIN"] == "0"


def test_other_hosts_get_what_changes_a_rank_and_nothing_of_this_host() -> None:
    present = dict.fromkeys(
        ["PATH", "PYTHONPATH", "NUMBA_CACHE_DIR", "OMP_NUM_THREADS", "TMPDIR", "HOSTNAME", "HOME", "DDP_X"], "x"
    )
    assert forwarded(present, {"OMP_NUM_THREADS": "2"}) == ["DDP_X", "NUMBA_CACHE_DIR", "PATH", "PYTHONPATH"]


def test_the_users_variables_win() -> None:
    user = {"OMP_WAIT_POLICY": "active", "X": "", "NUMBA_NUM_THREADS": "3"}
    environment = rank_environment(CROWDED, MPICH, user)
    assert {name: environment[name] for name in user} == user


@pytest.mark.parametrize("name", ["NUMBA_NUM_THREADS", "OMP_NUM_THREADS"])
def test_the_number_of_threads_is_given_once(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name}=7 differs from 2"):
        rank_environment(FREE, MPICH, {name: "7"})


@pytest.mark.parametrize(("text", "pair"), [("A=b", ("A", "b")), ("A=", ("A", "")), ("_a1=x=y z", ("_a1", "x=y z"))])
def test_assignment(text: str, pair: tuple[str, str]) -> None:
    assert parse_assignment(text) == pair


@pytest.mark.parametrize("text", ["A", "=b", "1A=b", "a b=c", "", "A-B=c"])
def test_malformed_assignment(text: str) -> None:
    with pytest.raises(UsageError, match="is not NAME=VALUE") as error:
        parse_assignment(text)
    assert repr(text) in str(error.value)


def test_a_shell_reads_the_line_as_meant() -> None:
    hard = "a b'c\"$HOME;|\\ =#"
    line = shell_line(["printenv", "HARD", "SAME"], {"HARD": hard, "SAME": "s"}, {"SAME": "s"})
    assert "SAME=" not in line
    done = subprocess.run(
        ["sh", "-c", line],
        env={"SAME": "s", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == f"{hard}\ns\n"
