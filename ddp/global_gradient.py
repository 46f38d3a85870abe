"""The gradient of a global batch: every rank's part by forward and backward, then the sum over all ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ddp.comm.agreement import Agreement
from ddp.comm.reducers import build_reducer
from ddp.comm.reports import ShardReports
from ddp.comm.world import World
from ddp.config import Config
from ddp.fixed_point import Verdict, build_scales
from ddp.kernels.types import Float32, Int64
from ddp.kernels.update import make_blocks
from ddp.nn import Draws, Loss, Sequential
from ddp.observe.timers import PhaseTimers


@dataclass(frozen=True)
class Batch:
    """A rank's part of a global batch."""

    inputs: Float32
    targets: npt.NDArray[Any]
    draws: Draws
    """What the step is, and which samples these are."""
    shards: Int64
    """(S + 1,) where each of the rank's logical shards begins in its part, and the end."""
    rows: slice
    """The numbers of its shards among those of all ranks."""
    global_size: int
    """Samples of all ranks."""


class GlobalGradient:
    """What `compute` leaves in the model's gradient sums, and what all ranks know of it.

    Attributes:
        reports: what every shard of every rank reports of the last batch.
        scales: of the gradient sums.
        repeats: how often a batch was computed again because its gradients did not fit the scales.
    """

    def __init__(self, config: Config, world: World, model: Sequential, loss: Loss) -> None:
        """Take the model, whose gradient sums are overwritten, and the loss of its outputs."""
        self.model, self.loss, self.repeats = model, loss, 0
        self.reports = ShardReports(config.batch.shards, model.scales.size, model.num_statistics)
        self.scales = build_scales(config.comm.sums_exactly, model.scales, config.batch.shards)
        blocks = make_blocks(model.parameter_slices.values())
        self.reducer = build_reducer(config.comm, world, model, self.reports.integers, blocks)

    @property
    def loss_sum(self) -> float:
        """The sum of the losses of the last global batch."""
        return float(self.reports.loss.sum())

    @property
    def largest(self) -> Float32:
        """(T,) the largest leaf of all shards of the last batch, times its scale."""
        largest: Float32 = self.reports.largest.max(axis=0)
        return largest

    def compute(self, batch: Batch, timers: PhaseTimers, agreement: Agreement) -> bool:
        """Compute the gradient of a global batch; collective.

        Returns:
            Whether it is finite; all ranks get the same answer, having the same reports.
        """
        while True:
            with timers.phase("compute"):
                self.reducer.begin()
                self.model.on_gradient_ready = self.reducer.ready
                self.compute_part(batch)
            with timers.phase("comm"), agreement.with_step():
                self.reducer.finish()
            verdict = self.scales.judge(self.largest)
            if verdict is not Verdict.REPEAT:
                return verdict is Verdict.USE
            self.scales.adapt(self.largest, at_once=True)
            self.repeats += 1

    def compute_part(self, batch: Batch) -> None:
        """Forward and backward: the sums of the gradients of this rank's shards, and what the shards report."""
        outputs = self.model.forward(batch.inputs, True, batch.draws)
        self.loss.forward(outputs, batch.targets)
        self.model.backward(self.loss.backward(), self.scales.leaves(batch.shards), input_gradient=False)
        self.reports.clear()
        rows = batch.rows
        if rows.stop > rows.start:
            self.loss.write_shards(batch.shards, self.reports.loss[rows])
            self.model.write_statistics(self.reports.statistics[rows])
            self.reports.largest[rows.start] = self.model.largest

    def scaled_by(self, factor: float) -> Float32:
        """(T,) what each tensor's sums are multiplied by to give the gradient times a factor."""
        return np.float32(factor) * self.scales.inverses

    def accept(self) -> None:
        """The last gradient has been used: update running statistics, and the scales for the next batch."""
        self.model.update_statistics(self.reports.statistics)
        self.scales.adapt(self.largest, at_once=False)
