"""Rounds of messages, by hand; every algorithm moves at least what any must."""

from __future__ import annotations

import pytest

from launch.scaling import algorithms
from launch.scaling.algorithms import Round, Schedule

ALGORITHMS = (
    algorithms.doubling,
    algorithms.halving,
    algorithms.ring,
    algorithms.gather_and_add,
    algorithms.reduce_and_broadcast,
)


def sent(schedule: Schedule) -> float:
    return sum(each.times * each.sent for each in schedule)


def total(schedule: Schedule) -> float:
    return sum(each.times * each.total for each in schedule)


def both(sent: float, total: float, added: float = 0.0) -> Round:
    return Round(sent, total, added, mutual=True)


def test_halving_between_four_by_hand() -> None:
    assert algorithms.halving(4, 8.0) == (both(4, 16, 4), both(2, 8, 2), both(2, 8), both(4, 16))


def test_three_ranks_fold_the_whole_buffer_twice() -> None:
    """With the first message of the third, which waits for nobody: 4 bytes by halves, 8 by doubling."""
    unfold = Round(8, 8, one_way=True)
    assert algorithms.halving(3, 8.0) == (Round(8, 8, 8, one_way=True, beside=4), both(4, 8, 4), both(4, 8), unfold)
    assert algorithms.doubling(3, 8.0) == (Round(8, 8, 8, one_way=True, beside=8), both(8, 16, 8), unfold)


def test_where_both_partners_fold_nobody_sends_beside_it() -> None:
    assert algorithms.halving(6, 8.0)[0] == Round(8, 16, 8, one_way=True)
    assert algorithms.halving(7, 8.0)[0] == Round(8, 24, 8, one_way=True, beside=4)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_rank_sends_nothing(algorithm: algorithms.Algorithm) -> None:
    assert algorithm(1, 100.0) == ()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("ranks", [2, 3, 4, 5, 7, 8, 100])
def test_no_algorithm_beats_the_bound(algorithm: algorithms.Algorithm, ranks: int) -> None:
    """Some rank must send 2 (P - 1) / P of the buffer, and all together 2 (P - 1) times all of it."""
    n = 840.0
    schedule = algorithm(ranks, n)
    assert sent(schedule) >= 2 * (ranks - 1) / ranks * n * (1 - 1e-12)
    assert total(schedule) >= 2 * (ranks - 1) * n * (1 - 1e-12)


@pytest.mark.parametrize("ranks", [2, 4, 8, 1024])
def test_halving_and_ring_send_no_more_than_needed(ranks: int) -> None:
    for algorithm in (algorithms.halving, algorithms.ring):
        assert sent(algorithm(ranks, 1.0)) == pytest.approx(2 * (ranks - 1) / ranks)
        assert total(algorithm(ranks, 1.0)) == pytest.approx(2 * (ranks - 1))


def test_libraries_choose_by_their_tables() -> None:
    def rounds(library: str, ranks: int, n: float, blocking: bool = True) -> int:
        return sum(each.times for each in algorithms.sum_schedule(library, ranks, ranks, n, blocking))

    assert rounds("MPICH 5.0.2", 8, 8) == 3  # doubling
    assert rounds("MPICH 5.0.2", 8, 64) == 6  # halving
    assert rounds("MPICH 5.0.2", 8, 16) == 3  # fewer elements than ranks
    assert rounds("MPICH 5.0.2", 8, 2048, blocking=False) == 3
    assert rounds("MPICH 5.0.2", 8, 4096, blocking=False) == 6
    assert rounds("Open MPI 5.0.11", 2, 1 << 24) == 1
    assert rounds("Open MPI 5.0.11", 3, 1 << 24) == 2  # each gets both others' buffers
    assert rounds("Open MPI 5.0.11", 4, 1 << 24) == 2  # doubling
    assert rounds("Open MPI 5.0.11", 4, 1 << 10) == 3


def test_a_call_is_counted_once() -> None:
    for ranks in (2, 3, 8):
        schedule = algorithms.sum_schedule("MPICH 5.0.2", ranks, 1, 4.0)
        assert sum(each.calls * each.times for each in schedule) == 1
        assert {each.medium for each in schedule} == {"node"}


def test_with_several_ranks_a_node_both_media_are_used() -> None:
    schedule = algorithms.sum_schedule("MPICH 5.0.2", 8, 2, 1024.0)
    between = [each for each in schedule if each.medium == "network"]
    assert sent(tuple(between)) == 1024  # halves, between two nodes
    assert sum(each.times for each in schedule if each.medium == "node") == 4  # between four ranks
