"""Kernels are compiled once for a host, whoever comes first; every later start only loads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.jobs import Start, records

FEW = ("--train.steps", "3", "--model.hidden", "[16]")


def compiled(cache: Path) -> dict[str, tuple[int, int]]:
    """The files of a cache of kernels, with size and time of change."""
    files = [path for path in cache.rglob("*.nb?") if path.is_file()]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def test_a_cold_start_of_many_ranks_and_then_a_warm_one(start: Start, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = start(4, *FEW, "--output.name", "cold", cwd=tmp_path, NUMBA_CACHE_DIR=str(cache)).finish()
    assert first.code == 0, first.text
    kernels = compiled(cache)
    assert any("linear_forward" in name for name in kernels)
    second = start(4, *FEW, "--output.name", "warm", cwd=tmp_path, NUMBA_CACHE_DIR=str(cache)).finish()
    assert second.code == 0, second.text
    assert compiled(cache) == kernels


@pytest.mark.parametrize(
    "update",
    [
        ("--optimizer.nesterov", "true"),
        ("--optimizer.name", "lamb", "--optimizer.lr", "0.01"),
        ("--optimizer.name", "adadelta"),
    ],
    ids=["sgd", "lamb", "adadelta"],
)
def test_compiled_and_loaded_kernels_compute_the_same_bits(
    update: tuple[str, ...], start: Start, tmp_path: Path
) -> None:
    """Where the machine code differs, so do the roundings that the compiler was free to choose."""
    runs, kernels = {}, []
    for name in ("compiled", "loaded"):
        cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        arguments = *FEW, *update, "--optimizer.weight_decay", "1e-2", "--output.name", name
        finished = start(1, *arguments, cwd=tmp_path, **cache).finish()
        assert finished.code == 0, finished.text
        runs[name] = records(tmp_path / "runs" / name)[-1]["parameters_sha256"]
        kernels.append(compiled(tmp_path / "cache"))
    assert runs["compiled"] == runs["loaded"]
    assert kernels[0] == kernels[1]


def test_two_cold_jobs_at_once(start: Start, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    jobs = [start(2, *FEW, "--output.name", name, cwd=tmp_path, NUMBA_CACHE_DIR=str(cache)) for name in "ab"]
    for job in jobs:
        finished = job.finish()
        assert finished.code == 0, finished.text
    assert compiled(cache)
