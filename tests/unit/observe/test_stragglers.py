"""The rank that the others wait for is named when it is the same one again and again."""

from __future__ import annotations

import numpy as np

from ddp.observe.stragglers import StragglerWatch

EVEN, SLOW = np.array([10.0, 10.5, 10.0, 9.5]), np.array([10.0, 10.0, 11.8, 10.0])


def sentences(*reports: np.ndarray) -> list[str | None]:
    watch = StragglerWatch(["node1", "node1", "node2", "node2"])
    return [watch.report(busy) for busy in reports]


def test_a_slow_rank_is_named_after_three_reports_then_after_six_and_twelve() -> None:
    found = sentences(*[SLOW] * 13)
    assert found[2] == "rank 2 on node2 is 18 % slower, 3 reports in a row"
    assert [number for number, text in enumerate(found, 1) if text] == [3, 6, 12]


def test_a_rank_that_was_named_is_named_again_only_after_twice_as_long() -> None:
    found = sentences(*[SLOW] * 3, EVEN, *[SLOW] * 5, EVEN, *[SLOW] * 6)
    assert [number for number, text in enumerate(found, 1) if text] == [3, 16]


def test_one_that_recovers_or_another_one_is_not() -> None:
    assert sentences(SLOW, SLOW, EVEN, SLOW, SLOW) == [None] * 5
    assert sentences(SLOW, SLOW, SLOW[::-1], SLOW[::-1]) == [None] * 4
    assert sentences(*[EVEN] * 5) == [None] * 5


def test_the_bound_is_that_of_the_other_ranks() -> None:
    watch = StragglerWatch(["a", "b"])
    assert [watch.report(np.array([1.0, 1.09])) for _ in range(3)] == [None] * 3
    found = [watch.report(np.array([1.0, 1.5])) for _ in range(3)]
    assert found == [None, None, "rank 1 on b is 50 % slower, 3 reports in a row"]


def test_one_rank_waits_for_nobody() -> None:
    watch = StragglerWatch(["a"])
    assert [watch.report(np.array([5.0])) for _ in range(4)] == [None] * 4
