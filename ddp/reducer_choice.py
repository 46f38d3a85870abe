"""`comm.reducer = "auto"`: the first steps of a run are done by one rung after the other, the rest by the fastest.

They are steps of the run itself, and with `comm.exact` all rungs compute the same bits, so nothing is lost or changed.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ddp.comm.world import World
from ddp.kernels.types import Float64

STEPS = range(3, 11)
"""Steps of a rung in a round, few or many; the first is not counted, since memory is touched anew."""
ROUNDS = 3
SHARE = 0.25
"""Of a run's steps that may go into trials, at most; a shorter run is done by the first candidate."""
GAIN = 0.03
"""Another rung than the first must be faster by this share, else the difference is taken for noise."""


class Trial(NamedTuple):
    """One step of a trial."""

    rung: str
    counts: bool


def plan_trials(candidates: list[str], num_steps: int) -> list[Trial]:
    """Which rung does which of the first steps: all in turn, several rounds, as drift of the machine meets all then.

    >>> [trial.rung for trial in plan_trials(["flat", "sharded"], 72)][:7]
    ['flat', 'flat', 'flat', 'sharded', 'sharded', 'sharded', 'flat']
    """
    steps = min(STEPS[-1], int(num_steps * SHARE) // (ROUNDS * len(candidates)))
    if len(candidates) < 2 or steps < STEPS[0]:
        return []
    turns = itertools.product(range(ROUNDS), candidates, range(steps))
    return [Trial(rung, number > 0) for _, rung, number in turns]


@dataclass(frozen=True)
class Choice:
    """What came of the trials."""

    rung: str
    reason: str
    """Why this one, for a person."""
    step_ms: dict[str, float]
    """Time of a step of each rung, milliseconds: the lower quartile, since disturbances only add; empty without
    trials."""

    def lines(self) -> list[str]:
        """The table and the reason, for the log."""
        first = next(iter(self.step_ms.values()), 0.0)
        table = [f"  {rung:12} {ms:9.3f} ms a step, {ms / first:5.2f}" for rung, ms in self.step_ms.items()]
        title = ["reducers, tried on the first steps:"] if table else []
        return [*title, *table, f"reducer {self.rung}: {self.reason}"]


def choose(step_ms: dict[str, float]) -> Choice:
    """The fastest rung, or the first where none is clearly faster.

    Args:
        step_ms: time of a step of each rung, the first being the one to beat.
    """
    (first, base), *_ = step_ms.items()
    fastest = min(step_ms, key=lambda rung: step_ms[rung])
    gain = 1 - step_ms[fastest] / base
    if fastest == first:
        return Choice(first, "the fastest", step_ms)
    if gain < GAIN:
        reason = f"none is faster by {GAIN:.0%} ({fastest}: {gain:.1%})"
        return Choice(first, reason, step_ms)
    return Choice(fastest, f"a step takes {gain:.0%} less time than with {first}", step_ms)


class ReducerTrials:
    """Goes through the trials step by step.

    Attributes:
        candidates: the rungs that apply, the one to beat first.
    """

    def __init__(self, world: World, candidates: list[str], num_steps: int) -> None:
        """Take the rungs, and how many steps the run has."""
        self.world, self.candidates, self.num_steps = world, candidates, num_steps
        self.trials = plan_trials(candidates, num_steps)
        self._seconds: list[float] = []

    def step(self, step: Callable[[], None], present: str, use: Callable[[str], None]) -> Choice | None:
        """Do a step by the rung whose turn it is; collective.

        Args:
            step: what does it.
            present: the rung that is used at present.
            use: what changes to another one.

        Returns:
            The rung that is used from now on, once the trials are over.
        """
        done = len(self._seconds)
        choice = None if done < len(self.trials) else self.choose()
        rung = self.trials[done].rung if choice is None else choice.rung
        if rung != present:
            use(rung)
        start = time.perf_counter()
        step()
        self._seconds.append(time.perf_counter() - start)
        return choice

    def choose(self) -> Choice:
        """The rung for all other steps, the same on all ranks; collective."""
        if not self.trials:
            few = f"{self.num_steps} steps are too few to try {', '.join(self.candidates)}"
            return Choice(self.candidates[0], few, {})
        rows = self.world.all_gather_rows(np.array(self._seconds), "times of the reducers' trials")
        steps = rows.mean(axis=0) * 1e3
        times = {rung: self._quartile(rung, steps) for rung in self.candidates}
        return choose(times)

    def _quartile(self, rung: str, steps_ms: Float64) -> float:
        counted = [ms for ms, trial in zip(steps_ms, self.trials, strict=True) if trial == (rung, True)]
        return float(np.quantile(counted, 0.25))
