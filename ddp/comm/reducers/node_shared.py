"""The ranks of a node keep one copy of the parameters, and each adds and updates its part of them.

Every rank's gradient lies in memory that the others of its node can read (an MPI-3 shared window), so on one node
nothing is sent at all: a rank reads its part of each gradient, adds them, and updates its part of the one copy of the
parameters. Between nodes, the ranks that have the same part sum it by an Allreduce of their own.
Source: T. Hoefler et al., "MPI + MPI: a new hybrid approach to parallel programming with MPI plus shared memory",
Computing 95, 2013.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from ddp.comm.reducers.base import Buffers, Reducer, cut_into_parts
from ddp.comm.world import World
from ddp.kernels.types import Float32, Float64, GradientSum, Int32, Int64
from ddp.kernels.update import add_part


class SharedMemory:
    """An MPI-3 window: each rank of a node allocates some memory, and all of them can read and write it."""

    def __init__(self, node: MPI.Comm, num_bytes: int) -> None:
        """Let this rank allocate so many bytes; collective."""
        self.node = node
        self._window = MPI.Win.Allocate_shared(num_bytes, 1, comm=cast(MPI.Intracomm, node))
        self._window.Lock_all(MPI.MODE_NOCHECK)

    def array(self, rank: int, offset: int, count: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """(count,) of what a rank of the node has allocated, from a byte on."""
        memory, _ = self._window.Shared_query(rank)
        return np.frombuffer(memory, dtype, count, offset)  # type: ignore[call-overload, no-any-return]

    def meet(self) -> None:
        """Wait for all ranks of the node; each then sees what the others have written."""
        self._window.Sync()
        self.node.Barrier()
        self._window.Sync()

    def free(self) -> None:
        """Give the memory back; collective. No array of it may be used any more."""
        self._window.Unlock_all()
        self._window.Free()


def _on_lines(num_bytes: int) -> int:
    """Rounded up to whole cache lines, so that what comes behind begins with one."""
    return -(-num_bytes // 64) * 64


class NodeSharedReducer(Reducer):
    """Adds gradients in the memory of the node; sends only between nodes, each part once a node."""

    def __init__(self, world: World, model: Buffers, reports: Int32, blocks: Int64) -> None:
        """Move the model's buffers into memory that the node shares."""
        super().__init__(world, model, reports, blocks)
        node, count = world.node, model.num_parameters
        # The same parts on every node: as many as the node with the fewest ranks has. Ranks beyond update nothing.
        parts = cut_into_parts(blocks, world.smallest_node)
        has_part = node.rank < len(parts)
        self.part = parts[node.rank] if has_part else cut_into_parts(blocks[:0], 1)[0]
        self._gradients = SharedMemory(node, 4 * count)
        squares, parameters, state, end = np.cumsum([0, *map(_on_lines, (8 * len(blocks), 4 * count, 4 * count))])
        self._common = SharedMemory(node, int(end) if node.rank == 0 else 0)
        self._squares = self._common.array(0, squares, len(blocks), np.float64)
        self._state = self._common.array(0, state, count, np.float32)
        self.make_state()[:] = 0  # an MPI's memory need not be
        kind = model.gradient_sums.dtype
        self._of_ranks = [self._gradients.array(rank, 0, count, kind) for rank in range(node.size)]
        model.use_memory(self._common.array(0, parameters, count, np.float32), self._of_ranks[node.rank])
        self._sums = np.zeros(self.part.where.stop - self.part.where.start, kind)
        self._across = world.comm.Split(node.rank if has_part else MPI.UNDEFINED, world.rank)
        self._common.meet()

    @property
    def sums(self) -> GradientSum:
        """(n,) the sums of this rank's part, in memory of their own."""
        return self._sums

    def make_state(self) -> Float32:
        """(n,) of the node's one copy."""
        return self._state[self.part.where]

    def finish(self) -> None:
        """Sum the reports over all ranks, by which all are known to have come so far; then this rank's part."""
        self.world.all_reduce(self.reports, "sum of reports")
        for index, sums in enumerate(self._of_ranks):
            add_part(sums[self.part.where], index == 0, self._sums)
        if self.world.num_nodes > 1:
            with self.world.collective("sum of gradients between nodes", self._sums.nbytes):
                if self._sums.size:
                    self._across.Allreduce(MPI.IN_PLACE, self._sums, op=MPI.SUM)

    def warm_up(self) -> None:
        """Compile the kernel that adds."""
        add_part(self._sums[:0], True, self._sums[:0])

    def publish(self, squares: Float64) -> Float64:
        """Wait until all ranks of the node have updated their parts."""
        self._squares[self.part.rows] = squares
        with self.world.collective("updates of the node's ranks"):
            self._common.meet()
        return self._squares

    def whole(self, state: Float32) -> Float32:
        """(N,) the node's one copy."""
        return self._state

    def close(self) -> None:
        """Give the memory back; the model keeps its parameters, in memory of its own."""
        self.model.use_memory(self.model.parameters.copy(), np.zeros_like(self.model.gradient_sums))
        self._gradients.free()
        self._common.free()
