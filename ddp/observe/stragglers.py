"""Which rank the others wait for, if it is the same one again and again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ddp.kernels.types import Float64

THRESHOLD = 0.1
"""A rank is slow that works longer by this share than the median of the others."""
REPORTS = 3
"""So many reports in a row before it is named, since any rank may be disturbed once."""


class StragglerWatch:
    """Looks at the time that each rank works in a step; what it waits for others is not in it."""

    def __init__(self, hosts: Sequence[str]) -> None:
        """Take the host of each rank."""
        self.hosts = hosts
        self._slowest, self._in_a_row = -1, 0
        self._named_at: dict[int, int] = {}

    def report(self, busy: Float64) -> str | None:
        """A sentence if a rank has been slow 3 times in a row; for each rank again after 6, 12 and so on.

        Args:
            busy: (world_size,) time in which each rank worked since the last report.
        """
        if busy.size < 2:
            return None
        slowest = int(busy.argmax())
        excess = float(busy[slowest] / max(np.median(np.delete(busy, slowest)), 1e-12)) - 1
        is_slow = excess > THRESHOLD
        self._in_a_row = (self._in_a_row if slowest == self._slowest else 0) + 1 if is_slow else 0
        self._slowest = slowest
        if self._in_a_row < self._named_at.get(slowest, REPORTS):
            return None
        self._named_at[slowest] = 2 * self._in_a_row
        name = f"rank {slowest} on {self.hosts[slowest]}"
        return f"{name} is {100 * excess:.0f} % slower, {self._in_a_row} reports in a row"
