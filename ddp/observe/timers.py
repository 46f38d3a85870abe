"""Where the time of a step goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from ddp.kernels.types import Float64
from ddp.observe.trace import Trace

PHASES = ("data", "forward", "backward", "comm", "wait", "update")
"""comm: a collective after all ranks have come to it; wait: a collective until the last has come to it."""


class Times(NamedTuple):
    """What was measured since the last time."""

    by_phase: Float64
    """(6,) seconds of each of PHASES."""
    total: float
    """Seconds, whatever was done in them."""
    waits: Float64
    """(n,) seconds of each `wait`: as many on all ranks."""


class PhaseTimers:
    """Seconds spent in each phase of a step since the last `take`; of a phase inside another, in the inner one.

    Attributes:
        trace: who keeps every phase, if anybody does.
    """

    trace: Trace | None = None

    def __init__(self) -> None:
        """Start counting."""
        self._seconds, self._waits = dict.fromkeys(PHASES, 0.0), list[float]()
        self._inside = 0.0
        self._since = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of the enclosed block to a phase."""
        outside, self._inside = self._inside, 0.0
        start = time.perf_counter()
        yield
        stop = time.perf_counter()
        seconds = stop - start
        self._seconds[name] += seconds - self._inside
        self._inside = outside + seconds
        if name == "wait":
            self._waits.append(seconds)
        if self.trace is not None:
            self.trace.add(name, start, stop)

    @contextmanager
    def excluded(self) -> Iterator[None]:
        """Leave the time of the enclosed block out of the total."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    def take(self) -> Times:
        """What was measured since the last call; starts counting anew."""
        now = time.perf_counter()
        times = Times(np.array(list(self._seconds.values())), now - self._since, np.array(self._waits))
        self._seconds, self._waits, self._since = dict.fromkeys(PHASES, 0.0), [], now
        return times
