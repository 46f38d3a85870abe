"""Numba's threading layer, the threads of all libraries against the cores, and the peak of every host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from launch.doctor.finding import Finding, listing, not_made
from launch.doctor.ranks import Diagnosis, unfinished
from launch.wording import count

SLOW_PEAK = 0.5
"""A host with less than this part of the others' peak per core is told: synchronous SGD waits for it in every step."""
SAFE_LAYERS = ("omp", "tbb")

Rank = Mapping[str, Any]


def check_threading_layer(diagnosis: Diagnosis) -> list[Finding]:
    """Whether Numba runs kernels in parallel, by what, and whether two threads of a rank may do so at once."""
    check = "threading layer"
    if "kernels" not in diagnosis.stages:
        return [unfinished(check, diagnosis, "kernels")]
    ranks = diagnosis.stages["kernels"]["ranks"]
    failed = [rank for rank in ranks if "error" in rank]
    if failed:
        first = failed[0]
        measured = f"kernels do not run on rank {first['rank']} on {first['host']}: {first['error']}"
        fix = "install an OpenMP library (Debian: libgomp1), and see NUMBA_THREADING_LAYER and NUMBA_CACHE_DIR"
        return [Finding(check, "error", measured, fix)]
    layers = Counter(rank["threading_layer"] for rank in ranks)
    details = {"layers": dict(layers)}
    unsafe = [rank for rank in ranks if rank["threading_layer"] not in SAFE_LAYERS]
    if unsafe:
        hosts = listing(list(dict.fromkeys(rank["host"] for rank in unsafe)))
        measured = f"{unsafe[0]['threading_layer']} on {hosts}: slow to start a parallel loop, and not thread-safe"
        fix = "install an OpenMP library there (Debian: libgomp1), and unset NUMBA_THREADING_LAYER"
        return [Finding(check, "warning", measured, fix, details)]
    if len(layers) > 1:
        measured = f"not the same everywhere: {', '.join(sorted(layers))}"
        return [Finding(check, "warning", measured, "install the same OpenMP library on every host", details)]
    return [Finding(check, "ok", f"{next(iter(layers))}: loads, and is thread-safe", "", details)]


def check_loaded_versions(diagnosis: Diagnosis) -> list[Finding]:
    """Whether all ranks have imported the same versions; silent about what `packages` has found to be good."""
    ranks = diagnosis.stages.get("kernels", {}).get("ranks", [])
    loaded = [(rank, package, version) for rank in ranks for package, version in rank.get("loaded", {}).items()]
    findings = []
    for package in dict.fromkeys(package for _, package, _ in loaded):
        found = [(rank, version) for rank, name, version in loaded if name == package]
        common = Counter(version for _, version in found).most_common(1)[0][0]
        odd = {f"{version} on {rank['host']}": None for rank, version in found if version != common}
        if odd:
            measured = f"{package}: ranks have imported {listing(list(odd))}, but {common} elsewhere"
            fix = f"pip install {package}=={common} where it differs, and see PYTHONPATH there"
            findings.append(Finding("packages", "error", measured, fix))
    return findings


def check_threads(diagnosis: Diagnosis, cores: Mapping[str, int]) -> list[Finding]:
    """The threads that ranks really have, of BLAS times those of Numba and OpenMP, against the cores.

    Args:
        diagnosis: of the job.
        cores: of the hosts, by their own names; else those that its ranks have between them.
    """
    stages = diagnosis.stages
    if "kernels" not in stages or "ranks" not in stages:
        return [not_made("threads", diagnosis.reason("kernels"))]
    kernels = {rank["rank"]: rank for rank in stages["kernels"]["ranks"]}
    findings, texts = [], []
    for host, ranks in _by_host(stages["ranks"]["ranks"]).items():
        available = cores.get(host) or len({core for rank in ranks for core in rank["cores"]})
        pools = [(rank["blas_threads"], kernels[rank["rank"]].get("pool", 1)) for rank in ranks]
        total = sum(blas * pool for blas, pool in pools)
        blas, pool = pools[0]
        text = (
            f"{count(len(ranks), 'rank')} x {blas} of BLAS x {pool} of Numba and OpenMP"
            f" on {count(available, 'core')} of {host}"
        )
        texts.append(text)
        if total > available:
            findings.append(Finding("threads", "warning", text, _fewer(ranks, blas, available), {"host": host}))
    return findings or [Finding("threads", "ok", listing(texts, most=3))]


def _fewer(ranks: Sequence[Rank], blas: int, cores: int) -> str:
    if blas > 1:
        return "set OPENBLAS_NUM_THREADS=1 and MKL_NUM_THREADS=1, as python -m launch run does"
    passive = "" if ranks[0]["variables"].get("OMP_WAIT_POLICY") == "passive" else "; set OMP_WAIT_POLICY=passive"
    return f"let ranks x threads be at most {cores} (-n, --threads): they take turns{passive}"


def check_peak(diagnosis: Diagnosis) -> list[Finding]:
    """The peak per core of every host: of its best rank, since ranks that share cores measure each other."""
    if "kernels" not in diagnosis.stages:
        return [not_made("peak", diagnosis.reason("kernels"))]
    ranks = [rank for rank in diagnosis.stages["kernels"]["ranks"] if "peak_gflops" in rank]
    if not ranks:
        return [not_made("peak", "no kernel runs")]
    peaks = {
        host: max(rank["peak_gflops"] / rank["threads"] for rank in those) for host, those in _by_host(ranks).items()
    }
    slow = [f"{host} ({peaks[host]:.0f})" for host in peaks if _is_slow(host, peaks)]
    if slow:
        measured = f"{listing(slow)} GFLOP/s a core; the median of all hosts is {median(peaks.values()):.0f}"
        fix = (
            "see what else runs there (top), its clock rate and its cooling; or leave it out: all wait for the slowest"
        )
        return [Finding("peak", "warning", measured, fix, peaks)]
    texts = [f"{host} {peak:.0f}" for host, peak in peaks.items()]
    return [Finding("peak", "ok", f"GFLOP/s a core: {listing(texts)}", "", peaks)]


def _is_slow(host: str, peaks: Mapping[str, float]) -> bool:
    others = [peak for name, peak in peaks.items() if name != host]
    return bool(others) and peaks[host] < SLOW_PEAK * median(others)


def _by_host(ranks: Sequence[Rank]) -> dict[str, list[Rank]]:
    hosts: dict[str, list[Rank]] = {}
    for rank in ranks:
        hosts.setdefault(rank["host"], []).append(rank)
    return hosts
