"""The micro-batches of a rank, step by step: gathered several steps at once where they are small."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ddp.data.augmentation import Augmentation
from ddp.data.dataset import Split
from ddp.data.pieces import Array, Pieces
from ddp.data.read_ahead import ReadAhead
from ddp.data.sampler import Sampler

AHEAD_BYTES = 1 << 19
"""Of inputs that are gathered at once: they stay in the second-level cache until they are used."""
MOST_STEPS = 64


class Loader:
    """Gives a rank the inputs and targets of its samples, normalised and augmented.

    To gather takes some microseconds, however few samples there are. Where a step's are small, those of the next
    steps are gathered with them, by the same kernel on all threads: a thread of its own would take a core from
    them, and the handing over alone takes longer.

    Attributes:
        capacity: samples of the largest micro-batch.
        steps_at_once: that are gathered together, where the epoch has so many left.
        buffer: holds them.
    """

    def __init__(
        self,
        split: Split,
        sampler: Sampler,
        rank: int,
        world_size: int,
        accumulation: int = 1,
        augmentation: Augmentation | None = None,
    ) -> None:
        """Take the samples, their order, and whose part of the global batches in how many micro-batches is wanted."""
        self.split, self.sampler, self.augmentation = split, sampler, augmentation
        self.rank, self.world_size = rank, world_size
        self.capacity = max(1, sampler.max_samples(world_size, accumulation))
        at_once = AHEAD_BYTES // (4 * self.capacity * int(np.prod(split.sample_shape)))
        is_whole = accumulation == 1 and not isinstance(split.inputs, Pieces)
        self.steps_at_once = max(1, min(at_once, MOST_STEPS, sampler.steps_per_epoch)) if is_whole else 1
        self.buffer = split.make_buffer(self.capacity * self.steps_at_once)
        self.read_ahead = ReadAhead(split.inputs, sampler, rank, world_size)
        self._steps, self._size = range(0), 0
        self._inputs, self._targets = self.buffer.inputs, self.buffer.targets

    def load(self, step: int, samples: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float32], Array]:
        """The inputs and targets of a micro-batch: views that the next call may overwrite.

        Args:
            step: counted over all epochs.
            samples: (B,) int64, which they are: this rank's of that step, by the sampler.
        """
        if self.steps_at_once == 1:
            self.read_ahead.begin(step + 1)
            return self.split.gather(samples, self.buffer, self.augmentation, step // self.sampler.steps_per_epoch)
        if step not in self._steps:
            self._gather_from(step)
        start = (step - self._steps.start) * self._size
        stop = start + len(samples)
        return self._inputs[start:stop], self._targets[start:stop]

    def warm_up(self) -> None:
        """Compile what `load` needs."""
        self.split.gather(np.zeros(1, np.int64), self.buffer, self.augmentation)
        self._steps = range(0)

    def _gather_from(self, step: int) -> None:
        epoch, first = divmod(step, self.sampler.steps_per_epoch)
        last = min(first + self.steps_at_once, self.sampler.steps_per_epoch)
        mine = [self.sampler.rank_batch(epoch, number, self.rank, self.world_size) for number in range(first, last)]
        self._inputs, self._targets = self.split.gather(np.concatenate(mine), self.buffer, self.augmentation, epoch)
        self._steps, self._size = range(step, step + last - first), len(mine[0])
