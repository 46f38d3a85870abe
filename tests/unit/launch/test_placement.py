"""Ranks, threads and cores."""

from __future__ import annotations

import os

import pytest

from launch.errors import UsageError
from launch.placement import Plan, available_cores, make_plan


@pytest.mark.parametrize(
    ("ranks", "cores", "threads"), [(1, 8, 8), (2, 8, 4), (3, 8, 2), (8, 8, 1), (9, 8, 1), (1, 1, 1)]
)
def test_threads_default_to_an_equal_part_of_the_cores(ranks: int, cores: int, threads: int) -> None:
    assert make_plan(ranks, None, "auto", cores) == Plan(ranks, threads, cores, "none")


def test_given_threads_are_kept() -> None:
    assert make_plan(2, 3, "none", 2) == Plan(2, 3, 2, "none")


@pytest.mark.parametrize(
    ("ranks", "threads", "cores", "oversubscribed"), [(2, 1, 2, False), (2, 2, 2, True), (3, 1, 2, True)]
)
def test_oversubscribed_counts_threads(ranks: int, threads: int, cores: int, oversubscribed: bool) -> None:
    plan = Plan(ranks, threads, cores)
    assert plan.oversubscribed is oversubscribed
    assert bool(plan.warning) is oversubscribed


def test_text() -> None:
    assert str(Plan(2, 1, 2)) == "2 ranks x 1 thread on 2 cores of this host, not bound; none idle"
    assert str(Plan(1, 1, 1)) == "1 rank x 1 thread on 1 core of this host, not bound; none idle"
    assert str(Plan(3, 2, 8, "core")) == "3 ranks x 2 threads on 8 cores of this host, bound to cores; 2 idle"
    assert str(Plan(2, 2, 2)).endswith("; oversubscribed")
    assert "4 threads share 2 cores" in Plan(2, 2, 2).warning


@pytest.mark.parametrize(("ranks", "threads"), [(0, None), (-1, 1), (1, 0)])
def test_no_ranks_or_no_threads(ranks: int, threads: int | None) -> None:
    with pytest.raises(UsageError, match=f"{ranks} ranks"):
        make_plan(ranks, threads, "auto", 2)


def test_binding_needs_a_core_for_every_thread() -> None:
    assert make_plan(2, 2, "core", 4).bind == "core"
    with pytest.raises(UsageError, match=r"--bind core .* 2 x 3 threads, but this host has 4"):
        make_plan(2, 3, "core", 4)


def test_available_cores_follow_the_affinity_mask() -> None:
    mask = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(mask)})
    try:
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, mask)
    assert available_cores() == len(mask)
