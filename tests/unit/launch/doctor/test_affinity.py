"""Cores against threads, from what ranks told."""

from __future__ import annotations

from typing import Any

from launch.doctor.affinity import check_affinity, check_plain_mpirun
from launch.doctor.capture import Captured
from launch.doctor.finding import Finding
from launch.doctor.ranks import Diagnosis
from launch.flavours import OPENMPI_5


def rank(number: int, host: str, *cores: int) -> dict[str, Any]:
    return {"rank": number, "host": host, "cores": list(cores), "blas_threads": 1, "variables": {}}


def launched(*ranks: dict[str, Any], kernels: list[dict[str, Any]] | None = None) -> Diagnosis:
    stages = {"ranks": {"ranks": list(ranks)}} | ({"kernels": {"ranks": kernels}} if kernels else {})
    return Diagnosis(Captured(0, "", ""), stages=stages)


def check(diagnosis: Diagnosis, threads: int, **environment: str) -> Finding:
    (finding,) = check_affinity(diagnosis, threads, {"a": 4, "b": 4}, environment, own_cores=4)
    return finding


def plain(threads: int, *ranks: dict[str, Any], **environment: str) -> Finding:
    diagnosis = Diagnosis(Captured(0, "", ""), started=list(ranks))
    (finding,) = check_plain_mpirun(diagnosis, threads, 4, environment, OPENMPI_5)
    return finding


def test_enough_cores() -> None:
    finding = check(launched(rank(0, "a", 0, 1), rank(1, "a", 2, 3), rank(2, "b", 0, 1, 2, 3)), 2)
    assert (finding.state, finding.measured) == ("ok", "3 ranks with 2 to 4 cores each, for 2 threads each")


def test_a_rank_with_fewer_cores_than_threads_is_named_with_both() -> None:
    finding = check(launched(rank(0, "a", 0, 1), rank(1, "b", 3)), 2)
    assert finding.state == "error"
    assert finding.measured == "rank 1 on b has 1 core (3) for 2 threads"
    assert "--threads 1" in finding.fix


def test_the_variable_that_binds_is_named() -> None:
    finding = check(launched(rank(0, "a", 0)), 2, HYDRA_BINDING="core")
    assert finding.fix == "unset HYDRA_BINDING, or give --threads 1"


def test_a_launcher_without_cores_of_its_own() -> None:
    (finding,) = check_affinity(launched(rank(0, "a", 0)), 2, {"a": 1}, {}, own_cores=1)
    assert "this process has 1 core itself" in finding.fix


def test_ranks_on_the_same_core_while_others_are_idle() -> None:
    finding = check(launched(rank(0, "a", 0), rank(1, "a", 0)), 1)
    assert finding.state == "error"
    assert finding.measured == "2 ranks on a have 1 core (0) between them for 1 thread each, of the 4 there"


def test_more_ranks_than_cores_are_not_a_matter_of_binding() -> None:
    assert check(launched(*(rank(number, "a", 0, 1, 2, 3) for number in range(8))), 1).state == "ok"


def test_threads_bound_by_openmp_count() -> None:
    bound = [{"rank": 0, "host": "a", "cores": [2]}]
    finding = check(launched(rank(0, "a", 0, 1, 2, 3), kernels=bound), 2, GOMP_CPU_AFFINITY="2")
    assert finding.state == "error"
    assert "rank 0 on a has 1 core (2) for 2 threads" in finding.measured
    assert "GOMP_CPU_AFFINITY" in finding.fix


def test_without_ranks_nothing_is_ok() -> None:
    (finding,) = check_affinity(Diagnosis(Captured(None, "", "")), 1, {}, {}, 4)
    assert finding.state == "warning"
    assert "did not end within" in finding.measured


def test_an_mpi_that_binds_by_itself_is_warned_of() -> None:
    finding = plain(2, rank(1, "a", 1), rank(0, "a", 0))
    assert finding.state == "warning"
    assert finding.measured.startswith("binds: rank 0 on a has 1 core (0) for 2 threads, rank 1 on a has 1 core (1)")
    assert finding.fix.startswith("mpirun --map-by :OVERSUBSCRIBE --bind-to none, or python -m launch run")


def test_a_user_who_binds_is_told_by_which_variable() -> None:
    finding = plain(2, rank(0, "a", 0), PRTE_MCA_hwloc_default_binding_policy="core")
    assert finding.state == "error"
    assert finding.fix.startswith("unset PRTE_MCA_hwloc_default_binding_policy, or mpirun")


def test_a_plain_mpirun_that_does_not_bind() -> None:
    assert plain(2, rank(0, "a", 0, 1), OMPI_MCA_hwloc_base_binding_policy="none").state == "ok"


def test_a_plain_mpirun_that_starts_nothing() -> None:
    captured = Captured(1, "", "not enough slots\n------\n")
    (finding,) = check_plain_mpirun(Diagnosis(captured), 1, 4, {}, OPENMPI_5)
    assert finding.state == "warning"
    assert "not enough slots" in finding.measured


def test_a_plain_mpirun_with_threads_of_blas() -> None:
    ranks = [rank(0, "a", 0, 1, 2, 3), rank(1, "a", 0, 1, 2, 3)]
    for one in ranks:
        one.update(
            blas_threads=4, variables={"NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "4", "MKL_NUM_THREADS": "1"}
        )
    finding = plain(1, *ranks)
    assert (finding.state, finding.measured) == ("warning", "2 ranks x 4 threads of BLAS x 1 on 4 cores")
    assert finding.fix.startswith("unset OPENBLAS_NUM_THREADS, or")
    assert plain(1, ranks[0]).state == "ok"
