"""Reading from the disk what the next step needs while this one computes."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from ddp.data.pieces import Array, Pieces
from ddp.data.sampler import Sampler


class ReadAhead:
    """A thread that asks the system for a rank's samples of the next step, where inputs are mapped from files.

    It copies and computes nothing, and holds the interpreter's lock only between system calls: what the cores could
    do is left to the kernels, and what the disk does is done when the samples are gathered. Where the disk cannot
    follow, steps are passed over. Inputs in memory need none of this.
    """

    def __init__(self, inputs: Array | Pieces, sampler: Sampler, rank: int, world_size: int) -> None:
        """Take what is read, and which part of it by whom; the thread starts with the first step."""
        self.inputs = inputs if isinstance(inputs, Pieces) and inputs.files else None
        self.sampler, self.rank, self.world_size = sampler, rank, world_size
        self._thread = ThreadPoolExecutor(1, "read-ahead") if self.inputs is not None else None
        self._reading: Future[None] | None = None
        self._step = -1

    def begin(self, step: int) -> None:
        """Begin to read what this rank needs in a step, unless it was the last that was asked for; returns at once."""
        if self.inputs is None or self._thread is None or (self._reading and not self._reading.done()):
            return
        if step == self._step:
            return
        self._step = step
        mine = self.sampler.rank_batch(*divmod(step, self.sampler.steps_per_epoch), self.rank, self.world_size)
        # A file that cannot be read is told of when its samples are gathered: what comes of this is not asked.
        self._reading = self._thread.submit(self.inputs.read_ahead, mine)
