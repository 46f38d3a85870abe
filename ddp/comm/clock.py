"""One clock for all ranks: that of rank 0, which each compares with its own at the beginning and at the end of a run.

A rank asks rank 0 for the time, and takes it for that of the middle between question and answer, as NTP does: it is
wrong by half of the round trip at most. Of many round trips the shortest counts. Clocks run at rates that differ by
some millionths, so between the two comparisons the difference is taken to change linearly.
Source: F. Cristian, "Probabilistic clock synchronization", Distributed Computing 3, 1989.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from ddp.comm.world import World

ROUND_TRIPS = 40


@dataclass(frozen=True)
class Comparison:
    """What two clocks showed at the same moment, in seconds."""

    own: float
    """This rank's `time.perf_counter`."""
    common: float
    """Rank 0's, counted from the zero that it has chosen."""
    error: float
    """How far `common` may be off."""


@dataclass(frozen=True)
class CommonClock:
    """Turns this rank's time into that of all ranks."""

    first: Comparison
    last: Comparison

    def __call__(self, own: float) -> float:
        """The common time of a `time.perf_counter`, in seconds; exact at both comparisons."""
        share = (own - self.first.own) / (self.last.own - self.first.own)
        differences = [comparison.common - comparison.own for comparison in (self.first, self.last)]
        return own + differences[0] + share * (differences[1] - differences[0])

    @property
    def error(self) -> float:
        """How far it may be off at the comparisons, in seconds."""
        return max(self.first.error, self.last.error)


def compare_clocks(world: World, zero: float = 0.0) -> Comparison:
    """Compare this rank's clock with that of rank 0; collective.

    Args:
        world: the ranks; those with higher numbers wait for the others.
        zero: rank 0's own time that all are to count from; only rank 0's argument matters.
    """
    with world.collective("comparison of clocks"):
        if world.rank > 0:
            return _ask(world)
        for rank in range(1, world.size):
            _answer(world, rank, zero)
    own = time.perf_counter()
    return Comparison(own, own - zero, 0.0)


def _ask(world: World) -> Comparison:
    message, best = np.zeros(1), (float("inf"), 0.0, 0.0)
    for _ in range(ROUND_TRIPS):
        asked = time.perf_counter()
        world.comm.Send(message, 0)
        world.comm.Recv(message, 0)
        answered = time.perf_counter()
        best = min(best, (answered - asked, (asked + answered) / 2, float(message[0])))
    round_trip, own, common = best
    return Comparison(own, common, round_trip / 2)


def _answer(world: World, rank: int, zero: float) -> None:
    message = np.zeros(1)
    for _ in range(ROUND_TRIPS):
        world.comm.Recv(message, rank)
        message[0] = time.perf_counter() - zero
        world.comm.Send(message, rank)
