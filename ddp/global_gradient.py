"""The gradient of a global batch: every rank's part by forward and backward, then the sum over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ddp.comm.agreement import Agreement
from ddp.comm.reducers import Reducer
from ddp.comm.reports import ShardReports
from ddp.comm.world import World
from ddp.config import Config
from ddp.fixed_point import Verdict, build_scales
from ddp.kernels.types import Float32, Int64
from ddp.kernels.update import add_part
from ddp.nn import Draws, Loss, Sequential
from ddp.nn.leaf_squares import LeafSquares
from ddp.observe.timers import PhaseTimers

Load = Callable[[npt.NDArray[np.int64]], tuple[Float32, npt.NDArray[Any]]]
"""Gives the inputs and targets of samples, by their numbers."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a rank computes of a global batch by one forward and one backward pass: a micro-batch."""

    draws: Draws
    """What the step is, and which samples these are."""
    shards: Int64
    """(S + 1,) where each of its logical shards begins in it, and the end."""
    rows: slice
    """The numbers of its shards among those of all ranks."""


class GlobalGradient:
    """What `compute` leaves in the model's gradient sums, and what all ranks know of it.

    Attributes:
        reducer: what sums over the ranks.
        reports: what every shard of every rank reports of the last batch.
        scales: of the gradient sums.
        repeats: how often a batch was computed again because its gradients did not fit the scales.
        measures_noise: whether the next batch's shards report the squares of their gradients.
    """

    reducer: Reducer

    def __init__(self, config: Config, world: World, model: Sequential, loss: Loss, load: Load) -> None:
        """Take the model, whose gradient sums are overwritten, the loss of its outputs, and where samples come from."""
        self.world, self.model, self.loss, self.load, self.repeats = world, model, loss, load, 0
        self.reports = ShardReports(config.batch.shards, model.scales.size, model.num_statistics)
        self.scales = build_scales(config.comm.sums_exactly, model.scales, config.batch.shards)
        self.leaf_squares = LeafSquares(model) if config.output.noise_scale_every else None
        self.measures_noise = False
        has_earlier = config.batch.accumulation > 1
        self._earlier = np.zeros_like(model.gradient_sums) if has_earlier else model.gradient_sums[:0]

    @property
    def loss_sum(self) -> float:
        """The sum of the losses of the last global batch."""
        return float(self.reports.loss.sum())

    @property
    def largest(self) -> Float32:
        """(T,) the largest leaf of all shards of the last batch, times its scale."""
        largest: Float32 = self.reports.largest.max(axis=0)
        return largest

    def compute(self, sweeps: Sequence[Sweep], timers: PhaseTimers, agreement: Agreement) -> bool:
        """Compute the gradient of a global batch; collective.

        Args:
            sweeps: this rank's part of it, at least one, whose gradients are added before anything is sent.
            timers: where the time goes.
            agreement: of the ranks to go on, made beside.

        Returns:
            Whether it is finite; all ranks get the same answer, having the same reports.
        """
        while True:
            self.reports.clear()
            for number, sweep in enumerate(sweeps):
                self._accumulate(sweep, number, number == len(sweeps) - 1, timers)
            with timers.phase("comm"):
                self._reduce(timers, agreement)
            with timers.phase("update"):
                verdict = self.scales.judge(self.largest)
            if verdict is not Verdict.REPEAT:
                return verdict is Verdict.USE
            self.scales.adapt(self.largest, at_once=True)
            self.repeats += 1

    def _accumulate(self, sweep: Sweep, number: int, is_last: bool, timers: PhaseTimers) -> None:
        """Compute a sweep's gradient; the last one's is added to those before as it becomes ready to be sent."""
        with timers.phase("data"):
            inputs, targets = self.load(sweep.draws.samples)
        with timers.phase("forward"):
            self.forward(sweep, inputs, targets)
        with timers.phase("backward"):
            if is_last:
                self.reducer.begin()
                self.model.on_gradient_ready = self._send_with_earlier if number else self.reducer.ready
            else:
                self.model.on_gradient_ready = lambda _: None
            self.backward(sweep)
            if not is_last:
                add_part(self.model.gradient_sums, number == 0, self._earlier)

    def _send_with_earlier(self, where: slice) -> None:
        add_part(self._earlier[where], False, self.model.gradient_sums[where])
        self.reducer.ready(where)

    def forward(self, sweep: Sweep, inputs: Float32, targets: npt.NDArray[Any]) -> None:
        """The losses of a sweep's samples."""
        self.loss.forward(self.model.forward(inputs, True, sweep.draws), targets)

    def backward(self, sweep: Sweep) -> None:
        """The sums of the gradients of a sweep's shards, and what the shards report."""
        rows = sweep.rows
        if self.leaf_squares is not None and self.measures_noise:
            squares = self.reports.squares[rows]
            self.model.on_backward = self.leaf_squares.listener(sweep.shards, self.scales.inverses, squares)
        self.model.backward(self.loss.backward(), self.scales.leaves(sweep.shards), input_gradient=False)
        self.model.on_backward = lambda *_: None
        if rows.stop > rows.start:
            self.loss.write_shards(sweep.shards, self.reports.loss[rows])
            self.model.write_statistics(self.reports.statistics[rows])
            self.reports.largest[rows.start] = self.model.largest

    def _reduce(self, timers: PhaseTimers, agreement: Agreement) -> None:
        """Sum reports and gradient over all ranks.

        The reports are few, so that a rank is done with them when the last has come, and is known to have waited.
        """
        if not self.reducer.sums_over_ranks:
            return
        with agreement.with_step():
            with timers.phase("wait"):
                self.world.all_reduce(self.reports.integers, "sum of reports")
            self.reducer.finish()

    def warm_up(self, sweep: Sweep, inputs: Float32, targets: npt.NDArray[Any]) -> None:
        """Compile what a step needs."""
        self.forward(sweep, inputs, targets)
        self.measures_noise = True
        self.backward(sweep)
        self.reports.clear()
        add_part(self._earlier[:0], False, self.model.gradient_sums[:0])

    def scaled_by(self, factor: float) -> Float32:
        """(T,) what each tensor's sums are multiplied by to give the gradient times a factor."""
        return np.float32(factor) * self.scales.inverses

    def accept(self) -> None:
        """The last gradient has been used: update running statistics, and the scales for the next batch."""
        self.model.update_statistics(self.reports.statistics)
        self.scales.adapt(self.largest, at_once=False)
