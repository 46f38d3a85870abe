"""No communication: the bound on what any better reducer could gain. The ranks diverge; for timing only."""

from __future__ import annotations

from ddp.comm.reducers.base import Reducer


class DummyReducer(Reducer):
    """Leaves every rank with its own gradient."""

    communicates = sums_over_ranks = False

    def finish(self) -> None:
        """Do nothing."""
