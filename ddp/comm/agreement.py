"""What the ranks tell each other with every step: that the run is to stop, and why.

A rank must never stop alone: the others would wait for it in the next collective. So each puts a number into
an allreduce of one integer, which is on its way while the gradient's is, and all heed the largest, at the
same step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from mpi4py import MPI

from ddp.comm.world import World

GO_ON = 0
WRITE_FAILED = 255
"""A checkpoint could not be written. Numbers in between are those of the signal that came to a rank."""


class StopAgreed(Exception):
    """The ranks have agreed to stop; raised by all of them at the same place."""


class Agreement:
    """A number, by default GO_ON, of which all ranks see the largest.

    Attributes:
        value: what was last agreed on.
    """

    def __init__(self, world: World, with_steps: bool, report: Callable[[], int]) -> None:
        """Take the ranks.

        Args:
            world: the ranks.
            with_steps: whether `with_step` agrees; if not, as where steps are to go without any communication,
                `now` does so alone.
            report: this rank's number at the moment.
        """
        self.world, self.with_steps, self.report = world, with_steps, report
        self.value = GO_ON
        # As many numbers as ranks, of which the first counts: for fewer, Open MPI's algorithm that halves the buffer
        # gives way to a ring, with 2 (P - 1) messages one after the other instead of 2 log2 P.
        self._mine, self._largest = np.zeros((2, world.size), np.int32)

    @contextmanager
    def with_step(self) -> Iterator[None]:
        """Agree while the enclosed collective runs; what comes to a rank during it, is agreed on the next time."""
        if not self.with_steps:
            yield
        elif self.world.size == 1:
            yield
            self.value = self.report()
        else:
            self._mine[0] = self.report()
            request = self.world.comm.Iallreduce(self._mine, self._largest, op=MPI.MAX)
            yield
            with self.world.collective("agreement to go on", self._mine.nbytes):
                request.Wait()
            self.value = int(self._largest[0])

    def now(self) -> None:
        """Agree by a collective of its own."""
        mine = self.report()
        with self.world.collective("agreement to go on"):
            self.value = int(self.world.comm.allreduce(mine, op=MPI.MAX))

    def check(self) -> None:
        """Go on, or not.

        Raises:
            StopAgreed: on all ranks, if any of them had another number than GO_ON.
        """
        if self.value != GO_ON:
            raise StopAgreed
