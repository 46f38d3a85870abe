"""Comparing clocks that differ by what the test says."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from ddp.comm import clock
from ddp.comm.clock import CommonClock, compare_clocks
from ddp.comm.world import World

pytestmark = pytest.mark.mpi

ZERO_S = 5.0


def test_a_clock_that_is_set_elsewhere_is_found_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ranks of these tests are on one machine, and have the same clock to compare with."""
    real, ahead = time.perf_counter, 1000.0 * world.rank
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: real() + ahead))
    zero = world.comm.bcast(real() - ZERO_S)
    first, last = (compare_clocks(world, zero if world.is_root else float("nan")) for _ in range(2))
    for comparison in (first, last):
        assert comparison.error >= 0
        assert abs(comparison.common - (comparison.own - ahead - zero)) <= comparison.error + 1e-9
    common = CommonClock(first, last)
    now = real()
    assert common(now + ahead) - (now - zero) == pytest.approx(0, abs=1.0)
    assert world.activity.last.name == "comparison of clocks"
