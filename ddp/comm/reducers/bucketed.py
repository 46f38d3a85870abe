"""Iallreduce on slices of the gradient as the backward pass finishes them: communication hidden behind computing.

MPI libraries move large messages only while somebody calls them, so a thread calls Test in between (see
`ddp.comm.progress`).
"""

from __future__ import annotations

from mpi4py import MPI

from ddp.comm.progress import ProgressThread
from ddp.comm.reducers.base import Buffers, Reducer
from ddp.comm.world import World
from ddp.kernels.types import Int64

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

    def __init__(self, world: World, model: Buffers, blocks: Int64, bucket_mb: float) -> None:
        """Take the largest size of a bucket, in 2**20 bytes, besides what every rung takes."""
        super().__init__(world, model, blocks)
        sums = model.gradient_sums
        self.buckets = make_buckets(sums.nbytes, sums.itemsize, int(bucket_mb * (1 << 20)))
        self.comm = world.comm.Dup()
        self.progress = ProgressThread()
        self._next = 0

    def begin(self) -> None:
        """No bucket is on its way; one rank has nobody to send them to."""
        self._next = 0 if self.world.size > 1 else len(self.buckets)

    def ready(self, where: slice) -> None:
        """Start the buckets that lie in what is ready now: everything from `where` on."""
        while self._next < len(self.buckets) and self.buckets[self._next].start >= where.start:
            bucket = self.model.gradient_sums[self.buckets[self._next]]
            self.progress.add(self.comm.Iallreduce(MPI.IN_PLACE, bucket, op=MPI.SUM))
            self._next += 1

    def finish(self) -> None:
        """Start what is left, and wait until all is summed."""
        self.ready(slice(0, 0))
        with self.world.collective("sum of gradients", self.model.gradient_sums.nbytes):
            self.progress.wait()

    def close(self) -> None:
        """End the thread, and give the communicator back."""
        self.progress.close()
        self.comm.Free()
