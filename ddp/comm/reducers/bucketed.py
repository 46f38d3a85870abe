"""Iallreduce on slices of the gradient as the backward pass finishes them: communication hidden behind computing.

MPI libraries move large messages only while somebody calls them, so a thread calls Test in between (see
`ddp.comm.progress`).
"""

from __future__ import annotations

import time

from mpi4py import MPI

from ddp.comm.activity import Recorder
from ddp.comm.progress import ProgressThread, Transfer
from ddp.comm.reducers.base import Buffers, Reducer
from ddp.comm.world import World
from ddp.kernels.types import GradientSum, Int64

FIRST_BUCKET_BYTES = 1 << 16
"""The last layer's gradient is ready first and small: it goes alone, while there is most to be hidden behind."""


def make_buckets(num_bytes: int, item_bytes: int, bucket_bytes: int) -> list[slice]:
    """Cut a flat buffer into slices from its end: one of FIRST_BUCKET_BYTES at most, then of `bucket_bytes` at most.

    >>> make_buckets(16 << 10, 4, 8 << 10)
    [slice(2048, 4096, None), slice(0, 2048, None)]
    """
    ends, stop = [], num_bytes // item_bytes
    size = max(1, min(FIRST_BUCKET_BYTES, bucket_bytes) // item_bytes)
    while stop > 0:
        start = max(0, stop - size)
        ends.append(slice(start, stop))
        stop, size = start, max(1, bucket_bytes // item_bytes)
    return ends


class BucketedReducer(Reducer):
    """Sums bucket by bucket, from the end of the flat gradient to its beginning."""

    def __init__(self, world: World, model: Buffers, blocks: Int64, bucket_mb: float, num_states: int = 1) -> None:
        """Take the largest size of a bucket, in 2**20 bytes, besides what every rung takes."""
        super().__init__(world, model, blocks, num_states)
        sums = model.gradient_sums
        self.buckets = make_buckets(sums.nbytes, sums.itemsize, int(bucket_mb * (1 << 20)))
        with world.collective("communicator of the buckets"):
            self.comm = world.comm.Dup()
        # On one node it is the cores that move the bytes: a thread would only take them from the kernels.
        self.progress = ProgressThread() if world.num_nodes > 1 else None
        self._transfers: list[Transfer] = []

    def begin(self) -> None:
        """No bucket is on its way; one rank has nobody to send them to."""
        self._transfers = []

    def ready(self, where: slice) -> None:
        """Start the buckets that lie in what is ready now: everything from `where` on."""
        if self.world.size == 1:
            return
        for bucket in self.buckets[len(self._transfers) :]:
            if bucket.start < where.start:
                break
            self._start(self.model.gradient_sums[bucket])

    def _start(self, sums: GradientSum) -> None:
        started = time.perf_counter()
        request = self.comm.Iallreduce(MPI.IN_PLACE, sums, op=MPI.SUM)
        self._transfers.append(Transfer(request, started, time.perf_counter()))
        if self.progress is not None:
            self.progress.add(self._transfers[-1])

    def finish(self) -> None:
        """Start what is left, and wait until all is summed."""
        self.ready(slice(0, 0))
        if self.progress is not None:
            self.progress.stop()
        with self.world.collective("sum of gradients", self.model.gradient_sums.nbytes):
            for number, transfer in enumerate(self._transfers):
                self._finish(number, transfer)

    def _finish(self, number: int, transfer: Transfer) -> None:
        waits_since = None if transfer.is_complete else time.perf_counter()
        if waits_since is not None:
            transfer.wait()
        if self.world.activity.trace is not None:
            self._record(self.world.activity.trace, number, transfer, waits_since)

    def _record(self, trace: Recorder, number: int, transfer: Transfer, waits_since: float | None) -> None:
        """Show a bucket in a trace: the call that started it, its way on a track of its own, and the wait for it."""
        assert transfer.completed is not None
        about = {"bucket": number, "bytes": self.model.gradient_sums[self.buckets[number]].nbytes}
        trace.add("start bucket", transfer.started, transfer.returned, "communication", **about)
        trace.add(f"bucket {number}", transfer.started, transfer.completed, f"bucket {number}", **about)
        if waits_since is not None:
            trace.add("wait for bucket", waits_since, transfer.completed, "communication", **about)

    def close(self) -> None:
        """End the thread, and give the communicator back."""
        if self.progress is not None:
            self.progress.close()
        with self.world.collective("end of the buckets' communicator"):
            self.comm.Free()
