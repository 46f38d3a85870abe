"""One Allreduce for each parameter: obviously right, the oracle of the other rungs."""

from __future__ import annotations

from collections.abc import Iterable

from ddp.comm.world import World
from ddp.kernels.types import GradientSum, Int32


class NaiveReducer:
    """Sums each parameter's gradient by itself."""

    def __init__(self, world: World, sums: GradientSum, reports: Int32, slices: Iterable[slice]) -> None:
        """Take the flat gradient (N,), the shards' reports, and where each parameter lies in the gradient."""
        self.world, self.views = world, [reports, *(sums[where] for where in slices)]

    def reduce(self) -> None:
        """Sum over all ranks, in place."""
        for view in self.views:
            self.world.all_reduce(view, "sum of gradients")
