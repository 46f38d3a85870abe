"""The ranks of a node keep one copy of the parameters, and each adds and updates its part of them.

Every rank's gradient lies in memory that the others of its node can read (an MPI-3 shared window), so on one node
nothing is sent at all: a rank reads its part of each gradient, adds them, and updates its part of the one copy of the
parameters. Between nodes, the ranks that have the same part sum it by an Allreduce of their own.
Source: T. Hoefler et al., "MPI + MPI: a new hybrid approach to parallel programming with MPI plus shared memory",
Computing 95, 2013.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from ddp.comm.reducers.base import Buffers, Reducer, cut_into_parts
from ddp.comm.world import World
from ddp.kernels.types import Addends, Float32, Float64, GradientSum, Int64
from ddp.kernels.update import add_part

SHARED_MEMORY = Path("/dev/shm")
SLICE = 1 << 18
"""Elements of the sums between nodes that travel at once, 1 MiB: while the next are being added."""


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

    def rows(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """(ranks, stride) of what all have allocated, the same number of bytes: one lies behind the other."""
        memories = [self._window.Shared_query(rank)[0] for rank in range(self.node.size)]
        first, size = memories[0].address, memories[0].nbytes
        assert [memory.address for memory in memories] == [first + rank * size for rank in range(len(memories))]
        whole = MPI.memory.fromaddress(first, size * len(memories))
        return np.frombuffer(whole, dtype).reshape(len(memories), -1)  # type: ignore[call-overload, no-any-return]

    def sync(self) -> None:
        """See what the others have written before the ranks last met."""
        self._window.Sync()

    def meet(self) -> None:
        """Wait for all ranks of the node; each then sees what the others have written."""
        self.sync()
        self.node.Barrier()
        self.sync()

    def free(self) -> None:
        """Give the memory back; collective. No array of it may be used any more."""
        self._window.Unlock_all()
        self._window.Free()


def _on_lines(num_bytes: int) -> int:
    """Rounded up to whole cache lines, so that what comes behind begins with one."""
    return -(-num_bytes // 64) * 64


def shared_memory_shortage(world: World, num_parameters: int, num_states: int = 1) -> str | None:
    """Why the nodes cannot share buffers of so many parameters, in words for the user; None if they can; collective.

    There are as many of the optimizer's state as `num_states`.

    MPI libraries take shared memory from SHARED_MEMORY, of which containers have 64 MB unless told otherwise; who
    writes beyond that is killed by SIGBUS.
    """
    # Gradients; parameters, state, and one more for safety.
    needed = 4 * num_parameters * (world.local_size + 2 + num_states)
    free = needed
    if SHARED_MEMORY.is_dir():
        free = shutil.disk_usage(SHARED_MEMORY).free
    shortages = [
        f"{host} has {free / 1e6:,.0f} MB free in {SHARED_MEMORY}, {needed / 1e6:,.0f} MB are needed"
        for host, free, needed in world.all_gather((world.host, free, needed), "shared memory of all nodes")
        if free < needed
    ]
    return shortages[0] if shortages else None


class NodeSharedReducer(Reducer):
    """Adds gradients in the memory of the node; sends only between nodes, each part once a node.

    On one node the update itself adds, so that no sum is written before it is read again: of 36 MB, 5 ms less.
    """

    def __init__(self, world: World, model: Buffers, blocks: Int64, num_states: int = 1) -> None:
        """Move the model's buffers into memory that the node shares."""
        super().__init__(world, model, blocks, num_states)
        shortage = shared_memory_shortage(world, model.num_parameters, num_states)
        if shortage is not None:
            fix = "make room there (containers: --shm-size), or use flat"
            raise ValueError(f"comm.reducer = node_shared: {shortage}; {fix}")
        node, count, kind = world.node, model.num_parameters, model.gradient_sums.dtype
        # The same parts on every node: as many as the node with the fewest ranks has. Ranks beyond update nothing.
        parts = cut_into_parts(blocks, world.smallest_node)
        has_part = node.rank < len(parts)
        self.part = parts[node.rank] if has_part else cut_into_parts(blocks[:0], 1)[0]
        sizes = 8 * len(blocks), 16 * len(blocks), 4 * count, 4 * count * num_states
        squares, pairs, parameters, states, end = np.cumsum([0, *map(_on_lines, sizes)])
        with world.collective("memory that the node shares", _on_lines(4 * count)):
            self._gradients = SharedMemory(node, _on_lines(4 * count))
            self._common = SharedMemory(node, int(end) if node.rank == 0 else 0)
            self._across = world.comm.Split(node.rank if has_part else MPI.UNDEFINED, world.rank)
        self._rows = self._gradients.rows(kind)
        self._squares = self._common.array(0, squares, len(blocks), np.float64)
        self._pairs = self._common.array(0, pairs, 2 * len(blocks), np.float64).reshape(-1, 2)
        self._states = self._common.array(0, states, num_states * count, np.float32).reshape(num_states, count)
        self.make_states()[:] = 0  # an MPI's memory need not be
        model.use_memory(self._common.array(0, parameters, count, np.float32), self._rows[node.rank, :count])
        self._sums = cast("GradientSum", np.zeros(self.part.size if world.num_nodes > 1 else 0, kind))
        self._meet("parameters in the node's memory")

    @property
    def addends(self) -> Addends:
        """The gradients of the node's ranks; with several nodes, the sums in memory of their own."""
        if self.world.num_nodes > 1:
            return Addends(self._sums[np.newaxis])
        return Addends(self._rows, self.world.node.rank, self.part.where.start)

    def make_states(self) -> Float32:
        """(num_states, n) of the node's one copy."""
        return self._states[:, self.part.where]

    def finish(self) -> None:
        """With several nodes, add this rank's part, slice by slice; each is on its way while the next is added."""
        self._gradients.sync()
        if self.world.num_nodes > 1:
            with self.world.collective("sum of gradients between nodes", self._sums.nbytes):
                starts = range(0, self._sums.size, SLICE)
                MPI.Request.Waitall([self._sum_slice(start) for start in starts])

    def _sum_slice(self, start: int) -> MPI.Request:
        sums = self._sums[start : start + SLICE]
        first = self.part.where.start + start
        for index, row in enumerate(self._rows):
            add_part(row[first : first + sums.size], index == 0, sums)
        return self._across.Iallreduce(MPI.IN_PLACE, sums, op=MPI.SUM)

    def warm_up(self) -> None:
        """Compile the kernel that adds."""
        add_part(self._rows[0, :0], True, self._sums[:0])

    def gather_squares(self, squares: Float64) -> Float64:
        """Wait until all ranks of the node have written theirs."""
        everyones = self._squares if squares.ndim == 1 else self._pairs
        everyones[self.part.rows] = squares
        self._meet("updates of the node's ranks")
        return everyones

    def _meet(self, what: str) -> None:
        with self.world.collective(what):
            self._common.meet()

    def publish(self, squares: Float64) -> Float64:
        """Wait until all ranks of the node have updated their parts."""
        return self.gather_squares(squares)

    def whole(self, number: int, state: Float32) -> Float32:
        """(N,) the node's one copy."""
        whole: Float32 = self._states[number]
        return whole

    def close(self) -> None:
        """Give the memory back; the model keeps its parameters, in memory of its own."""
        self.model.use_memory(self.model.parameters.copy(), np.zeros_like(self.model.gradient_sums))
        with self.world.collective("end of the node's memory"):
            self._gradients.free()
            self._common.free()
            if self._across != MPI.COMM_NULL:
                self._across.Free()
