"""Phase timers on a clock that the test moves."""

from __future__ import annotations

import pytest

from ddp.observe import timers as module
from ddp.observe.timers import PHASES, PhaseTimers


class Clock:
    now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def spend(clock: Clock, timers: PhaseTimers, phase: str, seconds: float) -> None:
    with timers.phase(phase):
        clock.now += seconds


def test_phases_add_up(clock: Clock) -> None:
    timers = PhaseTimers()
    for phase, seconds in (("data", 1), ("forward", 2), ("comm", 4), ("update", 8), ("forward", 16)):
        spend(clock, timers, phase, seconds)
    clock.now += 32
    times = timers.take()
    assert times.by_phase.tolist() == [1, 18, 0, 4, 0, 8]
    assert times.total == 63


def test_taking_starts_anew(clock: Clock) -> None:
    timers = PhaseTimers()
    spend(clock, timers, "comm", 3)
    timers.take()
    spend(clock, timers, "comm", 5)
    assert timers.take().by_phase.tolist() == [0, 0, 0, 5, 0, 0]
    times = timers.take()
    assert times.by_phase.tolist() == [0] * 6
    assert times.total == 0


def test_the_time_of_a_phase_inside_another_is_its_own(clock: Clock) -> None:
    timers = PhaseTimers()
    with timers.phase("comm"):
        clock.now += 1
        spend(clock, timers, "wait", 2)
        clock.now += 4
        spend(clock, timers, "wait", 8)
    times = timers.take()
    assert times.by_phase.tolist() == [0, 0, 0, 5, 10, 0]
    assert times.waits.tolist() == [2, 8]
    assert timers.take().waits.size == 0


def test_excluded_time_is_in_no_total(clock: Clock) -> None:
    timers = PhaseTimers()
    spend(clock, timers, "data", 1)
    with timers.excluded():
        clock.now += 1000
    clock.now += 2
    times = timers.take()
    assert times.by_phase.tolist() == [1, 0, 0, 0, 0, 0]
    assert times.total == 3


def test_phases_are_those_of_the_step_record() -> None:
    assert PHASES == ("data", "forward", "backward", "comm", "wait", "update")


def test_an_unknown_phase_is_an_error() -> None:
    with pytest.raises(KeyError), PhaseTimers().phase("sleep"):
        pass
