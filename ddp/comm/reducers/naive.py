"""One Allreduce for each parameter: obviously right, the oracle of the other rungs."""

from __future__ import annotations

from ddp.comm.world import World
from ddp.kernels.types import Float64


class NaiveReducer:
    """Sums each parameter's gradient by itself."""

    def __init__(self, world: World, gradients: Float64, slices: list[slice]) -> None:
        """Take the flat gradient (N,) and where each parameter lies in it."""
        self.world, self.views = world, [gradients[where] for where in slices]

    def reduce(self) -> None:
        """Sum over all ranks, in place."""
        for view in self.views:
            self.world.all_reduce(view)
