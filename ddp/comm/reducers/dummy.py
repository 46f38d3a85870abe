"""No communication: the bound on what any better reducer could gain. The ranks diverge; for timing only."""

from __future__ import annotations


class DummyReducer:
    """Leaves every rank with its own gradient."""

    def reduce(self) -> None:
        """Do nothing."""
