"""What a rank tells of itself: its place, its collectives and their numbers."""

from __future__ import annotations

import os
import time

import pytest

from ddp.comm.activity import Activity


def test_a_collective_is_current_while_it_lasts() -> None:
    activity = Activity(3)
    assert (activity.current, activity.last.sequence) == (None, 0)
    with activity.collective("sum of gradients", 88):
        assert activity.current is not None
        assert activity.current[:3] == (1, "sum of gradients", 88)
        assert activity.last.sequence == 0
    assert activity.current is None
    assert activity.last[:3] == (1, "sum of gradients", 88)


def test_a_collective_that_fails_is_over() -> None:
    activity = Activity(0)
    with pytest.raises(RuntimeError, match="planted"), activity.collective("first"):
        raise RuntimeError("planted")
    with activity.collective("second"):
        assert activity.current is not None
        assert activity.current.sequence == 2


def test_those_of_others_are_counted() -> None:
    here, there = Activity(0), Activity(1)
    here.pass_over(2)
    for name in ("first", "second"):
        with there.collective(name):
            pass
    for activity in (here, there):
        with activity.collective("third"):
            pass
    assert here.last[:3] == there.last[:3] == (3, "third", 0)


def test_one_inside_another_is_a_fault_of_the_program() -> None:
    activity = Activity(0)
    with pytest.raises(AssertionError), activity.collective("outer"):
        activity.collective("inner")


def test_the_place_of_a_rank() -> None:
    activity = Activity(2)
    assert (activity.rank, activity.host, activity.place()) == (2, os.uname().nodename, "before the first step")
    activity.step = 7
    assert activity.place() == "at step 7"


class Clock:
    """A clock of a process that is interrupted for so many seconds before each look at it."""

    def __init__(self) -> None:
        self.now, self.interrupted_s = 0.0, 0.0

    def __call__(self) -> float:
        self.now += self.interrupted_s
        return self.now


class Times:
    """Keeps when events were."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []

    def add(self, name: str, start: float, stop: float, track: str = "main", **args: object) -> None:
        self.times.append((start, stop))


def test_an_event_begins_with_its_collective_however_its_end_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, kept, activity = Clock(), Times(), Activity(0)
    monkeypatch.setattr(time, "perf_counter", clock)
    monkeypatch.setattr(time, "monotonic", clock)
    activity.trace = kept
    clock.now = 5.0
    with activity.collective("sum of reports"):
        clock.interrupted_s = 1.0
    assert kept.times == [(5.0, 6.0)]
