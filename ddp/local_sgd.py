"""Local SGD: each rank takes some steps by itself, then the ranks' parameters are averaged (`comm.sync_every`).

Between averages nothing is sent, so latency and bytes are divided by the number of steps. A rank descends the mean loss
of its own samples of each global batch.
Sources: S. U. Stich, "Local SGD Converges Fast and Communicates Little", ICLR 2019; T. Lin et al., "Don't Use Large
Mini-Batches, Use Local SGD", ICLR 2020.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ddp.comm.agreement import Agreement
from ddp.comm.world import World
from ddp.global_gradient import GlobalGradient, Sweep
from ddp.observe.timers import PhaseTimers
from ddp.shared_update import SharedUpdate


class LocalSGD:
    """What this rank has done since the last average, and the average of all ranks.

    Attributes:
        grad_norm: of the last step's gradient, by this rank's samples alone; NaN if it took none.
    """

    def __init__(self, world: World, gradient: GlobalGradient, update: SharedUpdate) -> None:
        """Take the gradient of this rank's samples, and what updates by it; their reducer does not sum over ranks."""
        self.world, self.gradient, self.update = world, gradient, update
        self.grad_norm = math.nan
        self._samples, self._has_failed = 0, False

    def step(
        self,
        sweeps: Sequence[Sweep],
        lr: float,
        factor: float,
        averages: bool,
        timers: PhaseTimers,
        agreement: Agreement,
    ) -> bool:
        """Update this rank's parameters by the gradient of its own samples; a rank without any stays where it is.

        Args:
            sweeps: this rank's part of the global batch.
            lr: the learning rate.
            factor: what the mean over this rank's samples is multiplied by: 1, or the samples of the global batch.
            averages: whether to `average` afterwards.
            timers: where the time goes.
            agreement: of the ranks to go on, made beside an average.

        Returns:
            Whether all ranks' gradients since the last average were finite, as far as is known: yes, between averages.
        """
        samples = sum(len(sweep.draws.samples) for sweep in sweeps)
        is_finite = self.gradient.compute(sweeps, timers, agreement)
        self._has_failed |= not is_finite
        self.grad_norm = math.nan
        if is_finite and samples:
            self._samples += samples
            self.grad_norm = self.update.step(sweeps[0].draws.step, lr, factor / samples, timers)
            with timers.phase("update"):
                self.gradient.accept()
        return self.average(timers, agreement) if averages else True

    def average(self, timers: PhaseTimers, agreement: Agreement) -> bool:
        """Give all ranks the mean of their parameters, optimizer states and running statistics; collective.

        Each rank counts by the samples that it has taken steps with since the last average. Afterwards all ranks have
        all shards' reports of the last step.

        Returns:
            Whether the gradients since the last average were finite, on all ranks.
        """
        with timers.phase("comm"), agreement.with_step():
            sums = np.array([self._samples, self._has_failed], np.int64)
            with timers.phase("wait"):
                self.world.all_reduce(sums, "samples since the last average")
            self.world.all_reduce(self.gradient.reports.integers, "sum of reports")
            total, failures = sums.tolist()
            if total:
                for array in self._arrays():
                    self._average(array, total)
        self._samples, self._has_failed = 0, False
        return not failures

    def _arrays(self) -> Iterator[npt.NDArray[Any]]:
        """What a step changes."""
        model = self.gradient.model
        yield model.parameters
        yield from self.update.optimizer.state.values()
        for layer in model.layers:
            yield from layer.buffers().values()

    def _average(self, array: npt.NDArray[Any], total: int) -> None:
        """In place; integers are rounded down."""
        is_integer = array.dtype.kind == "i"
        if self._samples == 0:
            array[...] = 0  # whatever it was: 0 times an infinity is not 0
        else:
            array *= self._samples if is_integer else np.float32(self._samples / total)
        self.world.all_reduce(array, "average of parameters")
        if is_integer:
            array //= total
