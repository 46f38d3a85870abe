"""One Allreduce for the whole flat gradient: the latency is paid once a step."""

from __future__ import annotations

from ddp.comm.world import World
from ddp.kernels.types import GradientSum, Int32


class FlatReducer:
    """Sums the flat gradient as it lies."""

    def __init__(self, world: World, sums: GradientSum, reports: Int32) -> None:
        """Take the flat gradient (N,) and the shards' reports."""
        self.world, self.sums, self.reports = world, sums, reports

    def reduce(self) -> None:
        """Sum over all ranks, in place."""
        self.world.all_reduce(self.reports, "sum of reports")
        self.world.all_reduce(self.sums, "sum of gradients")
