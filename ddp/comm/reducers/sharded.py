"""ZeRO stage 1: each rank gets the sums of its part, updates it, and passes it on; optimizer memory divided by P.

As many bytes travel as by one Allreduce, which is a reduce-scatter and an allgather too.
Source: S. Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", SC 2020.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from mpi4py import MPI

from ddp.comm.reducers.base import Buffers, Reducer, cut_into_parts
from ddp.comm.world import World
from ddp.kernels.types import Addends, Float32, Float64, GradientSum, Int64


class ShardedReducer(Reducer):
    """Reduce-scatter before the update, allgather after it."""

    def __init__(self, world: World, model: Buffers, blocks: Int64, num_states: int = 1) -> None:
        """Cut the parameters into a part for each rank."""
        super().__init__(world, model, blocks, num_states)
        parts = cut_into_parts(blocks, world.size)
        self.part = parts[world.rank]
        self.lengths = [part.size for part in parts]
        self.num_blocks = [part.rows.stop - part.rows.start for part in parts]
        self._sums = cast("GradientSum", np.zeros(self.lengths[world.rank], model.gradient_sums.dtype))
        self._squares, self._pairs = np.zeros(len(blocks)), np.zeros((len(blocks), 2))

    @property
    def addends(self) -> Addends:
        """The sums of this rank's part, in memory of their own."""
        return Addends(self._sums[np.newaxis])

    def finish(self) -> None:
        """Sum this rank's part of the gradient over all ranks."""
        with self.world.collective("sum of gradients", self.model.gradient_sums.nbytes):
            self.world.comm.Reduce_scatter(self.model.gradient_sums, self._sums, self.lengths, op=MPI.SUM)

    def gather_squares(self, squares: Float64) -> Float64:
        """Of all ranks' blocks."""
        everyones = self._squares if squares.ndim == 1 else self._pairs
        counts = [number * everyones[:1].size for number in self.num_blocks]
        with self.world.collective("squares of all ranks", everyones.nbytes):
            self.world.comm.Allgatherv(squares, [everyones, counts])
        return everyones

    def publish(self, squares: Float64) -> Float64:
        """Give all ranks this one's part of the parameters, and its squares."""
        with self.world.collective("parameters of all ranks", self.model.parameters.nbytes):
            self.world.comm.Allgatherv(MPI.IN_PLACE, [self.model.parameters, self.lengths])
        return self.gather_squares(squares)

    def whole(self, number: int, state: Float32) -> Float32:
        """(N,) gathered from all ranks."""
        whole = np.empty(sum(self.lengths), np.float32)
        with self.world.collective("optimizer's state of all ranks", whole.nbytes):
            self.world.comm.Allgatherv(state, [whole, self.lengths])
        return whole
