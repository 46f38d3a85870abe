"""What this rank is doing at the moment, for whoever tells of it: its heartbeat, its watchdog, its last words.

Needs no MPI, so that it can be told from before MPI is loaded.
"""

from __future__ import annotations

import os
import time
from types import TracebackType
from typing import NamedTuple, Protocol


class Collective(NamedTuple):
    """One call that several ranks take part in."""

    sequence: int
    """Its number among those of a rank; all ranks make the same calls in the same order, so the same on all."""
    name: str
    num_bytes: int
    """What it moves, where that is known beforehand; 0 for objects."""
    began: float
    """By `time.monotonic`, in seconds."""


class Recorder(Protocol):
    """Keeps what happened; `ddp.observe.trace.Trace` does."""

    def add(self, name: str, start: float, stop: float, track: str = "main", **args: object) -> None:
        """Take an event and its times by `time.perf_counter`, in seconds."""


class Activity:
    """What this rank is doing; written by the main thread alone, read by any.

    Attributes:
        rank: this process; by the launcher's word, until the MPI library says it.
        host: this machine's name.
        step: the SGD step that it is in, or that it has done last, counted from 1; -1 before training begins.
        current: the collective that it is in, if any.
        last: the newest one that it has left.
        trace: who keeps all of them, if anybody does.
    """

    trace: Recorder | None = None

    def __init__(self, rank: int) -> None:
        """Take the rank."""
        self.rank, self.host, self.step = rank, os.uname().nodename, -1
        self.current: Collective | None = None
        self.last = Collective(0, "", 0, 0.0)
        self._started = 0.0

    def collective(self, name: str, num_bytes: int = 0) -> Activity:
        """Announce a collective: `with activity.collective("sum of gradients", size): ...`.

        Bound as one object, so that no reader sees the name of one and the number of another. Measured: 0.4 us in all,
        where the fastest step takes 300.
        """
        assert self.current is None, f"{name} inside of {self.current}"
        self.current = Collective(self.last.sequence + 1, name, num_bytes, time.monotonic())
        self._started = time.perf_counter()
        return self

    def pass_over(self, count: int) -> None:
        """Count collectives in which other nodes' ranks take part at this place, but those of this one need not."""
        self.last = self.last._replace(sequence=self.last.sequence + count)

    def place(self) -> str:
        """Where it is, for a sentence: `at step 12`."""
        return f"at step {self.step}" if self.step >= 0 else "before the first step"

    def __enter__(self) -> None:
        """Begin; `collective` has done it."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The collective is over, or has failed."""
        assert self.current is not None
        if self.trace is not None:
            times = self._started, time.perf_counter()
            self.trace.add(self.current.name, *times, "communication", bytes=self.current.num_bytes)
        self.last, self.current = self.current, None
