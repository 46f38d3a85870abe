"""No sums in a step: every rank goes on by its own gradient, and the ranks' parameters are averaged now and then.

`ddp.local_sgd` says when, and averages.
"""

from __future__ import annotations

from ddp.comm.reducers.base import Reducer


class LocalReducer(Reducer):
    """Leaves every rank with its own gradient, and lets it update all parameters by it."""

    sums_over_ranks = False

    def finish(self) -> None:
        """Do nothing."""
