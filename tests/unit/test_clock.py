"""The clock that ranks have in common, by closed forms."""

from __future__ import annotations

import pytest

from ddp.comm.clock import CommonClock, Comparison

OFFSET_S, DRIFT = -123.5, 50e-6  # of a clock that was set elsewhere, and is 50 millionths fast


def shown(true: float) -> float:
    """What such a clock shows."""
    return true * (1 + DRIFT) + OFFSET_S


def test_a_clock_that_drifts_evenly_is_read_exactly() -> None:
    first, last = (Comparison(shown(true), true, 1e-6) for true in (10.0, 3610.0))
    clock = CommonClock(first, last)
    for true in (10.0, 11.0, 1234.5, 3610.0, 4000.0):
        assert clock(shown(true)) == pytest.approx(true, abs=1e-9)


def test_without_its_drift_it_would_be_off_by_more_than_a_step_takes() -> None:
    first = Comparison(shown(0.0), 0.0, 0.0)
    only_offset = CommonClock(first, Comparison(first.own + 1.0, first.common + 1.0, 0.0))
    assert abs(only_offset(shown(3600.0)) - 3600.0) == pytest.approx(0.18, rel=1e-6)


def test_the_error_is_that_of_the_worse_comparison() -> None:
    first, last = Comparison(0.0, 0.0, 3e-6), Comparison(1.0, 1.0, 2e-6)
    assert CommonClock(first, last).error == CommonClock(last, first).error == 3e-6
