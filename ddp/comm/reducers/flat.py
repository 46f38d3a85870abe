"""One Allreduce for the whole flat gradient: the latency is paid once a step."""

from __future__ import annotations

from ddp.comm.reducers.base import Reducer


class FlatReducer(Reducer):
    """Sums the flat gradient as it lies."""

    def finish(self) -> None:
        """Sum over all ranks, in place."""
        self.world.all_reduce(self.model.gradient_sums, "sum of gradients")
