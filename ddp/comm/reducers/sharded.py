"""ZeRO stage 1: each rank gets the sums of its part, updates it, and passes it on; optimizer memory divided by P.

As many bytes travel as by one Allreduce, which is a reduce-scatter and an allgather too.
Source: S. Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", SC 2020.
"""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

from ddp.comm.reducers.base import Buffers, Reducer, cut_into_parts
from ddp.comm.world import World
from ddp.kernels.types import Float32, Float64, GradientSum, Int32, Int64


class ShardedReducer(Reducer):
    """Reduce-scatter before the update, allgather after it."""

    def __init__(self, world: World, model: Buffers, reports: Int32, blocks: Int64) -> None:
        """Cut the parameters into a part for each rank."""
        super().__init__(world, model, reports, blocks)
        parts = cut_into_parts(blocks, world.size)
        self.part = parts[world.rank]
        self.lengths = [part.where.stop - part.where.start for part in parts]
        self.num_blocks = [part.rows.stop - part.rows.start for part in parts]
        self._sums = np.zeros(self.lengths[world.rank], model.gradient_sums.dtype)
        self._squares = np.zeros(len(blocks))

    @property
    def sums(self) -> GradientSum:
        """(n,) the sums of this rank's part, in memory of their own."""
        return self._sums

    def finish(self) -> None:
        """Sum the reports over all ranks, and this rank's part of the gradient."""
        self.world.all_reduce(self.reports, "sum of reports")
        with self.world.collective("sum of gradients", self.model.gradient_sums.nbytes):
            self.world.comm.Reduce_scatter(self.model.gradient_sums, self._sums, self.lengths, op=MPI.SUM)

    def publish(self, squares: Float64) -> Float64:
        """Give all ranks this one's part of the parameters, and its squares."""
        with self.world.collective("parameters of all ranks", self.model.parameters.nbytes):
            self.world.comm.Allgatherv(MPI.IN_PLACE, [self.model.parameters, self.lengths])
            self.world.comm.Allgatherv(squares, [self._squares, self.num_blocks])
        return self._squares

    def whole(self, state: Float32) -> Float32:
        """(N,) gathered from all ranks."""
        whole = np.empty(sum(self.lengths), np.float32)
        with self.world.collective("optimizer's state of all ranks", whole.nbytes):
            self.world.comm.Allgatherv(state, [whole, self.lengths])
        return whole
