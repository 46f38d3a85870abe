"""The `step` records: what the last steps have computed, and where their time went, agreed over the ranks."""

from __future__ import annotations

from typing import Any

import numpy as np

from ddp.comm.world import World
from ddp.kernels.types import Float64
from ddp.observe.metrics import MetricsLog
from ddp.observe.progress import Progress
from ddp.observe.stragglers import StragglerWatch
from ddp.observe.timers import PHASES, PhaseTimers, Times

WORK = ("data", "forward", "backward", "update")
"""Phases in which a rank depends on no other."""


class StepLog:
    """Writes a record of the steps since the last one.

    Attributes:
        train_s: seconds of all steps so far.
        samples_per_s: of all ranks, over all steps so far.
    """

    def __init__(self, world: World, timers: PhaseTimers, step: int, samples_done: int) -> None:
        """Begin to count, at a step; collective."""
        self.world, self.timers = world, timers
        self.step, self.samples_done, self._first_sample = step, samples_done, samples_done
        self.train_s = 0.0
        self.stragglers = StragglerWatch(world.all_gather(world.host, "hosts of all ranks"))
        self.use_outputs(MetricsLog(None, 0.0), Progress())

    def use_outputs(self, metrics: MetricsLog, progress: Progress) -> None:
        """Say where the records go."""
        self.metrics, self.progress = metrics, progress

    @property
    def samples_per_s(self) -> float:
        """Samples of all ranks in a second of all steps so far."""
        return (self.samples_done - self._first_sample) / self.train_s if self.train_s else 0.0

    def write(self, step: int, samples_done: int, **values: Any) -> None:
        """Write the record of the steps until now; collective.

        Args:
            step: steps done.
            samples_done: of all ranks.
            values: what else is in the record: epoch, loss, lr and grad_norm.
        """
        times = self.timers.take()
        steps, samples = step - self.step, samples_done - self.samples_done
        self.step, self.samples_done = step, samples_done
        self.train_s += times.total
        rows = self._rows(times) * 1e3 / steps
        mean = dict(zip((*PHASES, "step"), rows.mean(axis=0).tolist(), strict=True))
        busy = rows[:, [PHASES.index(phase) for phase in WORK]].sum(axis=1)
        samples_per_s = samples / times.total
        self.progress.step(step, values["epoch"], values["loss"], samples_per_s)
        self.metrics.write(
            "step",
            step=step,
            **values,
            samples_per_s=samples_per_s,
            step_ms=mean["step"],
            compute_ms=mean["forward"] + mean["backward"],
            comm_exposed_ms=mean["comm"],
            update_ms=mean["update"],
            data_ms=mean["data"],
            slowest_rank=int(busy.argmax()),
            forward_ms=mean["forward"],
            backward_ms=mean["backward"],
            wait_ms=mean["wait"],
        )
        sentence = self.stragglers.report(busy)
        if sentence is not None:
            self.metrics.write("straggler", step=step, rank=int(busy.argmax()), text=sentence)
            self.progress.message(f"warning: {sentence}")

    def _rows(self, times: Times) -> Float64:
        """(world_size, 7) seconds of each phase and of all, by rank.

        The last rank to come to a collective waits for nobody: what it spends there is the collective itself, for all
        of them. So waiting is told from communication without a clock that the ranks share, or a barrier.
        """
        alone = times.waits.copy()
        self.world.all_reduce_min(alone, "shortest waits")
        row = np.array([*times.by_phase, times.total])
        row[PHASES.index("wait")] -= alone.sum()
        row[PHASES.index("comm")] += alone.sum()
        return self.world.all_gather_rows(row, "times of all ranks")
