"""One Allreduce for the whole flat gradient: the latency is paid once a step."""

from __future__ import annotations

from ddp.comm.world import World
from ddp.kernels.types import Float64


class FlatReducer:
    """Sums the flat gradient as it lies."""

    def __init__(self, world: World, gradients: Float64) -> None:
        """Take the flat gradient (N,)."""
        self.world, self.gradients = world, gradients

    def reduce(self) -> None:
        """Sum over all ranks, in place."""
        self.world.all_reduce(self.gradients)
