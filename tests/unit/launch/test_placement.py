"""Ranks, threads, cores and hosts."""

from __future__ import annotations

import os

import pytest

from launch.errors import UsageError
from launch.hosts import Host
from launch.placement import Available, available_here, make_plan, ranges


def here(cores: int) -> list[Available]:
    return [Available(Host("here"), tuple(range(cores)), "kernel")]


def hosts(*slots: int | None, cores: int = 8, machine: str = "") -> list[Available]:
    return [Available(Host(f"n{i}", s), tuple(range(cores)), machine) for i, s in enumerate(slots, 1)]


@pytest.mark.parametrize(
    ("ranks", "cores", "threads"), [(1, 8, 8), (2, 8, 4), (3, 8, 2), (8, 8, 1), (9, 8, 1), (1, 1, 1)]
)
def test_threads_default_to_an_equal_part_of_the_cores(ranks: int, cores: int, threads: int) -> None:
    plan = make_plan(ranks, None, "auto", here(cores))
    assert (plan.ranks, plan.threads, plan.cores, plan.bind) == (ranks, threads, cores, "none")


def test_given_threads_are_kept() -> None:
    assert make_plan(2, 3, "none", here(2)).threads == 3


@pytest.mark.parametrize(
    ("ranks", "threads", "cores", "oversubscribed"), [(2, 1, 2, False), (2, 2, 2, True), (3, 1, 2, True)]
)
def test_oversubscribed_counts_threads(ranks: int, threads: int, cores: int, oversubscribed: bool) -> None:
    plan = make_plan(ranks, threads, "auto", here(cores))
    assert plan.oversubscribed is oversubscribed
    assert bool(plan.warning) is oversubscribed


@pytest.mark.parametrize(
    ("ranks", "slots", "counts"),
    [
        (4, (4, 4), [2, 2]),
        (5, (4, 4), [3, 2]),
        (8, (4, 4), [4, 4]),
        (7, (1, 4, 4), [1, 3, 3]),
        (8, (1, 2, 9), [1, 2, 5]),
        (4, (None, None), [2, 2]),
        (9, (None, 1, None), [4, 1, 4]),
        (2, (1, 1, 1), [1, 1]),
    ],
)
def test_ranks_are_spread_as_evenly_as_slots_allow(
    ranks: int, slots: tuple[int | None, ...], counts: list[int]
) -> None:
    plan = make_plan(ranks, 1, "auto", hosts(*slots))
    assert [place.ranks for place in plan.hosts] == counts
    assert [place.host.name for place in plan.hosts] == [f"n{i}" for i in range(1, len(counts) + 1)]
    assert [plan.first_rank(i) for i in range(len(counts))] == [sum(counts[:i]) for i in range(len(counts))]


@pytest.mark.parametrize(("slots", "is_even"), [((4, 4), True), ((1, 9), False), ((9, 1), False), ((3, 2), True)])
def test_evenness(slots: tuple[int, ...], is_even: bool) -> None:
    assert make_plan(5, 1, "auto", hosts(*slots)).is_even is is_even


def test_threads_fit_the_fullest_host() -> None:
    assert make_plan(5, None, "auto", hosts(4, 4)).threads == 8 // 3
    small = [Available(Host("a"), (0, 1, 2, 3)), Available(Host("b"), (0, 1))]
    assert make_plan(2, None, "auto", small).threads == 2


def test_more_ranks_than_slots() -> None:
    with pytest.raises(UsageError, match=r"-n 9, but n1:4, n2:4 have 8 slots"):
        make_plan(9, None, "auto", hosts(4, 4))


def test_hosts_of_one_machine_share_its_cores() -> None:
    apart, together = make_plan(2, 8, "auto", hosts(1, 1)), make_plan(2, 8, "auto", hosts(1, 1, machine="same"))
    assert (apart.cores, apart.oversubscribed) == (16, False)
    assert (together.cores, together.oversubscribed) == (8, True)
    assert "16 threads share 8 cores of n1, n2, which are one machine" in together.warning
    assert make_plan(2, None, "auto", hosts(1, 1, machine="same")).threads == 4


def test_text() -> None:
    sentence, line = str(make_plan(2, 1, "auto", here(2))).splitlines()
    assert sentence == "2 ranks x 1 thread on 2 cores of 1 host, not bound; none idle"
    assert line == "  here: ranks 0-1 on cores 0-1; none idle"
    sentence, line = str(make_plan(1, 1, "auto", here(1))).splitlines()
    assert sentence == "1 rank x 1 thread on 1 core of 1 host, not bound; none idle"
    assert line == "  here: rank 0 on core 0; none idle"
    sentence, line = str(make_plan(3, 2, "core", here(8))).splitlines()
    assert sentence == "3 ranks x 2 threads on 8 cores of 1 host, bound to cores; 2 idle"
    assert line == "  here: ranks 0-2 on cores 0-7, 2 for each alone; 2 idle"
    sentence, line = str(make_plan(2, 2, "auto", here(2))).splitlines()
    assert sentence.endswith("; oversubscribed")
    assert line == "  here: ranks 0-1 on cores 0-1; 2 too few"
    assert "4 threads share 2 cores" in make_plan(2, 2, "auto", here(2)).warning


def test_text_of_several_hosts() -> None:
    text = str(make_plan(3, 2, "auto", hosts(2, 1, 4, cores=4)))
    assert text.splitlines() == [
        "3 ranks x 2 threads on 12 cores of 3 hosts, not bound; 6 idle",
        "  n1: rank 0 on cores 0-3; 2 idle",
        "  n2: rank 1 on cores 0-3; 2 idle",
        "  n3: rank 2 on cores 0-3; 2 idle",
    ]
    assert str(make_plan(1, 1, "auto", hosts(1, 1))).splitlines()[-1] == "  n2: idle"
    assert len(str(make_plan(1000, 1, "auto", hosts(*[1] * 1000))).splitlines()) == 17


@pytest.mark.parametrize(("ranks", "threads"), [(0, None), (-1, 1), (1, 0)])
def test_no_ranks_or_no_threads(ranks: int, threads: int | None) -> None:
    with pytest.raises(UsageError, match=f"{ranks} ranks"):
        make_plan(ranks, threads, "auto", here(2))


def test_binding_needs_a_core_for_every_thread() -> None:
    assert make_plan(2, 2, "core", here(4)).bind == "core"
    with pytest.raises(UsageError, match=r"--bind core .* 2 x 3 threads, but this host has 4"):
        make_plan(2, 3, "core", here(4))
    with pytest.raises(UsageError, match=r"--bind core .* 3 x 3 threads, but n1 with 2 ranks has 4"):
        make_plan(3, 3, "core", hosts(2, 2, cores=4))


def test_available_cores_follow_the_affinity_mask() -> None:
    mask = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(mask)})
    try:
        assert available_here()[0].cores == (min(mask),)
    finally:
        os.sched_setaffinity(0, mask)
    assert available_here()[0].cores == tuple(sorted(mask))


@pytest.mark.parametrize(("numbers", "text"), [((), ""), ((3,), "3"), ((0, 1, 2, 3), "0-3"), ((8, 0, 1, 5), "0-1,5,8")])
def test_ranges(numbers: tuple[int, ...], text: str) -> None:
    assert ranges(numbers) == text
