"""Where the time of a step goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ddp.kernels.types import Float64

PHASES = ("data", "compute", "comm", "update")


class PhaseTimers:
    """Seconds spent in each phase of a step since the last `take`."""

    def __init__(self) -> None:
        """Start counting."""
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._since = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of the enclosed block to a phase."""
        start = time.perf_counter()
        yield
        self._seconds[name] += time.perf_counter() - start

    @contextmanager
    def excluded(self) -> Iterator[None]:
        """Leave the time of the enclosed block out of the total."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    def take(self) -> Float64:
        """Seconds by phase, then in all, since the last `take`: (5,); starts counting anew."""
        now = time.perf_counter()
        seconds = np.array([*(self._seconds[name] for name in PHASES), now - self._since])
        self._seconds, self._since = dict.fromkeys(PHASES, 0.0), now
        return seconds
