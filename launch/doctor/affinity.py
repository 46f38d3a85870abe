"""The cores that ranks really have, against the threads that they run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from launch.doctor.finding import Finding, State, listing, not_made
from launch.doctor.ranks import Diagnosis, unfinished
from launch.flavours import Flavour
from launch.placement import ranges
from launch.wording import count

BINDING_VARIABLES = (
    "OMPI_MCA_hwloc_base_binding_policy", "OMPI_MCA_rmaps_base_mapping_policy", "OMPI_MCA_hwloc_base_cpu_list",
    "PRTE_MCA_hwloc_default_binding_policy", "PRTE_MCA_rmaps_default_mapping_policy", "PRTE_MCA_hwloc_default_cpu_list",
    "HYDRA_BINDING", "HYDRA_MAPPING", "I_MPI_PIN", "I_MPI_PIN_DOMAIN", "I_MPI_PIN_PROCESSOR_LIST",
    "SLURM_CPU_BIND", "GOMP_CPU_AFFINITY", "OMP_PROC_BIND", "OMP_PLACES", "KMP_AFFINITY",
)  # fmt: skip
"""By which a user's environment gives ranks or threads their cores."""

Rank = Mapping[str, Any]


def set_by_user(environment: Mapping[str, str]) -> list[str]:
    """Which of these variables are set."""
    return [name for name in BINDING_VARIABLES if environment.get(name)]


def check_affinity(
    diagnosis: Diagnosis, threads: int, cores: Mapping[str, int], environment: Mapping[str, str], own_cores: int
) -> list[Finding]:
    """The ranks as the launcher starts them.

    Args:
        diagnosis: of the job.
        threads: per rank.
        cores: of the hosts, by their own names.
        environment: the launcher's, where binding may come from.
        own_cores: those that the launcher itself may run on.
    """
    if "ranks" not in diagnosis.stages:
        return [unfinished("affinity", diagnosis, "ranks")]
    kernels = diagnosis.stages.get("kernels", {}).get("ranks", [])
    bound_later = {rank["rank"]: rank["cores"] for rank in kernels if "cores" in rank}  # by the OpenMP library
    ranks = [
        {**rank, "cores": bound_later.get(rank["rank"], rank["cores"])} for rank in diagnosis.stages["ranks"]["ranks"]
    ]
    details = {"cores": {rank["rank"]: rank["cores"] for rank in ranks}}
    if problem := _problem(ranks, threads, cores):
        return [Finding("affinity", "error", problem, _fix(ranks, environment, own_cores), details)]
    return [Finding("affinity", "ok", _in_words(ranks, threads), "", details)]


def check_plain_mpirun(
    diagnosis: Diagnosis, threads: int, own_cores: int, environment: Mapping[str, str], flavour: Flavour
) -> list[Finding]:
    """The ranks as `mpirun -n P` without the launcher's options starts them on this host."""
    check = "plain mpirun"
    ranks = diagnosis.started
    if not ranks:
        return [not_made(check, f"it says {diagnosis.captured.last_words}", "use python -m launch run")]
    problem = _problem(ranks, threads, {rank["host"]: own_cores for rank in ranks})
    if not problem:
        return [_plain_blas(ranks, threads, own_cores) or Finding(check, "ok", _in_words(ranks, threads))]
    blamed = set_by_user(environment)
    state: State = "error" if blamed else "warning"  # its own default is no one's mistake, and the launcher's is better
    unset = f"unset {' '.join(blamed)}, or " if blamed else ""
    unbound = " ".join([*flavour.unbound, *(f"{name}={value}" for name, value in flavour.unbound_environment.items())])
    fix = f"{unset}mpirun {unbound}, or python -m launch run, which sees to it"
    return [Finding(check, state, f"binds: {problem}", fix, {"variables": blamed})]


def _plain_blas(ranks: Sequence[Rank], threads: int, own_cores: int) -> Finding | None:
    """BLAS threads that the user asks for: the kernels need none, and those that wait spin."""
    blas = max(rank["blas_threads"] for rank in ranks)
    if blas == 1 or len(ranks) * blas * threads <= own_cores:
        return None
    asked = ranks[0]["variables"].items()
    names = [name for name, value in asked if name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS") and value != "1"]
    measured = f"{count(len(ranks), 'rank')} x {blas} threads of BLAS x {threads} on {count(own_cores, 'core')}"
    return Finding("plain mpirun", "warning", measured, f"unset {' '.join(names)}, or use python -m launch run")


def _problem(ranks: Sequence[Rank], threads: int, cores: Mapping[str, int]) -> str:
    """Which ranks have fewer cores than threads, or fewer between them than the host would give; empty if none."""
    confined = [
        f"rank {rank['rank']} on {rank['host']} has {count(len(rank['cores']), 'core')} ({ranges(rank['cores'])})"
        f" for {count(threads, 'thread')}"
        for rank in sorted(ranks, key=lambda rank: int(rank["rank"]))
        if len(rank["cores"]) < threads
    ]
    if confined:
        return listing(confined, most=3)
    crowded = []
    for host in dict.fromkeys(rank["host"] for rank in ranks):
        masks = [set(rank["cores"]) for rank in ranks if rank["host"] == host]
        union = set[int]().union(*masks)
        if len(union) < min(len(masks) * threads, cores.get(host, 0)):
            crowded.append(
                f"{count(len(masks), 'rank')} on {host} have {count(len(union), 'core')} ({ranges(union)}) between them"
                f" for {count(threads, 'thread')} each, of the {cores[host]} there"
            )
    return listing(crowded, most=3)


def _fix(ranks: Sequence[Rank], environment: Mapping[str, str], own_cores: int) -> str:
    fewest = min(len(rank["cores"]) for rank in ranks)
    if blamed := set_by_user(environment):
        return f"unset {' '.join(blamed)}, or give --threads {fewest}"
    if own_cores <= fewest:
        why = f"this process has {count(own_cores, 'core')} itself: start it without taskset, or ask for more cores"
        return f"{why}; or give --threads {fewest}"
    return f"find what binds ranks there (the MPI's configuration files, a cpuset), or give --threads {fewest}"


def _in_words(ranks: Sequence[Rank], threads: int) -> str:
    sizes = sorted({len(rank["cores"]) for rank in ranks})
    cores = count(sizes[0], "core") if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} cores"
    each = " each" if len(ranks) > 1 else ""
    return f"{count(len(ranks), 'rank')} with {cores}{each}, for {count(threads, 'thread')}{each}"
