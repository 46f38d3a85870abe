"""The fit finds what was planted, and the formulas give what can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from launch.scaling import cost_model
from launch.scaling.cost_model import Job, Line, Machine

SIZES = [4 * 4**k for k in range(14)]
ALPHA, BETA = 3e-6, 1 / 5e9
# 1 s a message and 10 s a byte; adding a byte takes 100 s, updating one 1000 s.
MACHINE = Machine(Line(1, 10), Line(0, 100), Line(0, 1000))


def job(ranks: int, nodes: int = 1, num_bytes: int = 8) -> Job:
    tensors, buckets = [num_bytes // 2] * 2, [num_bytes // 4] * 4
    return Job(ranks, nodes, num_bytes, tensors, buckets, piece_bytes=8, report_bytes=0)


def test_the_fit_recovers_a_planted_line() -> None:
    line = cost_model.fit(SIZES, [ALPHA + BETA * size for size in SIZES])
    assert (line.latency, line.per_byte) == pytest.approx((ALPHA, BETA), rel=1e-9)
    assert line(1000) == pytest.approx(ALPHA + 1000 * BETA)


def test_the_latency_is_found_although_the_largest_message_is_far_off() -> None:
    """By absolute errors it would be off by 1e4."""
    factors = np.random.default_rng(0).uniform(0.95, 1.05, len(SIZES))
    line = cost_model.fit(SIZES, [(ALPHA + BETA * size) * factor for size, factor in zip(SIZES, factors, strict=True)])
    assert (line.latency, line.per_byte) == pytest.approx((ALPHA, BETA), rel=0.05)


@pytest.mark.parametrize(("seconds", "expected"), [([2, 1], (1.2, 0)), ([1, 9], (0, 117 / 97))])
def test_neither_number_becomes_negative(seconds: list[float], expected: tuple[float, float]) -> None:
    """By hand: the least squares of (x / t - 1) have x = sum(1 / t) / sum(1 / t^2); and the same with n / t."""
    line = cost_model.fit([1, 4], seconds)
    assert (line.latency, line.per_byte) == pytest.approx(expected)


@pytest.mark.parametrize(("sizes", "seconds"), [([4], [1]), ([4, 4], [1, 2]), ([4, 8], [1, 0])])
def test_what_makes_no_line_is_refused(sizes: list[float], seconds: list[float]) -> None:
    with pytest.raises(ValueError, match="a line needs two sizes and times above 0"):
        cost_model.fit(sizes, seconds)


def test_bus_bandwidth_counts_what_each_rank_must_send() -> None:
    assert cost_model.bus_bandwidth(1, 8, 2.0) == 0
    assert cost_model.bus_bandwidth(2, 8, 2.0) == 4
    assert cost_model.bus_bandwidth(4, 8, 2.0) == 6


def test_collectives_by_hand() -> None:
    assert [cost_model.rounds(ranks) for ranks in (1, 2, 3, 4, 5)] == [0, 1, 2, 2, 3]
    assert cost_model.allgather(MACHINE, 4, 8) == 2 + 6 * 10
    assert cost_model.reduce_scatter(MACHINE, 4, 8) == 2 + 6 * 110
    # Two rounds of a whole buffer take 2 + 16 * 110; the halves together 4 + 6 * 120.
    assert cost_model.allreduce(MACHINE, 4, 8) == 4 + 6 * 120
    # Of an empty buffer only the messages count.
    assert cost_model.allreduce(MACHINE, 4, 0) == 2


def test_rungs_by_hand() -> None:
    whole, half, quarter = (cost_model.allreduce(MACHINE, 2, size) for size in (8, 4, 2))
    reports = 1
    expected = {
        "Allreduce": whole,
        "Reduce_scatter, Allgather": 2 + 4 * 120,
        "naive": reports + 2 * half,
        "flat": reports + whole,
        "bucketed": reports + 4 * quarter,
        "node_shared": reports + 4 * 100 + 1,
        "sharded": reports + 2 + 4 * 120 + 1,
    }
    assert {name: cost_model.reduce(name, MACHINE, job(2)) for name in cost_model.REDUCE} == expected
    updated = {
        name: 4000 if name in ("node_shared", "sharded", "Reduce_scatter, Allgather") else 8000 for name in expected
    }
    times = {name: cost_model.reduce_and_update(name, MACHINE, job(2)) for name in cost_model.REDUCE}
    assert times == {name: expected[name] + updated[name] for name in expected}


def test_long_sums_are_counted_piece_by_piece() -> None:
    pieces = 2 * cost_model.allreduce(MACHINE, 2, 8) + cost_model.allreduce(MACHINE, 2, 4)
    assert cost_model.reduce("flat", MACHINE, job(2, num_bytes=20)) == 1 + pieces
    assert cost_model.reduce("Allreduce", MACHINE, job(2, num_bytes=20)) == cost_model.allreduce(MACHINE, 2, 20)


def test_between_nodes_the_ranks_of_one_share_its_link() -> None:
    """2 nodes of 2 ranks: each adds half of two gradients, and sums it with one other rank, at half the speed."""
    link = Machine(Line(1, 20), MACHINE.addition, MACHINE.update)
    between = cost_model.allreduce(link, 2, 4)
    assert cost_model.reduce("node_shared", MACHINE, job(4, nodes=2)) == 2 + 4 * 100 + between + 1
