"""Where the efficiency of a point goes: four factors that multiply to it, after the POP model.

Parallel efficiency is load balance times communication; with what is done serially and how fast a rank computes it is
the efficiency that was measured (https://co-design.pop-coe.eu/metrics/index.html). Each factor is the point's own value
divided by the baseline's, so 1 is as good as the baseline, and more than 1 is better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from launch.scaling.records import PHASES, Measurement

MEANINGS = {
    "communication": "exposed communication",
    "balance": "waiting for the slowest rank",
    "serial": "data, update and other work that more ranks do not shorten",
    "compute": "slower computing of each sample",
}
"""The factors, in the order of the tables, and what is lost by each."""
FACTORS = tuple(MEANINGS)


@dataclass(frozen=True)
class StepTimes:
    """A step at a point: medians over the repeats."""

    ranks: int
    samples_per_s: float
    """Of all ranks."""
    phases_ms: dict[str, float]
    """By PHASES, means over the ranks; they sum to `step_ms`."""

    @property
    def step_ms(self) -> float:
        """The whole step."""
        return sum(self.phases_ms.values())

    @property
    def compute_ms(self) -> float:
        """Forward and backward."""
        return self.phases_ms["forward"] + self.phases_ms["backward"]

    @property
    def compute_ms_of_sample(self) -> float:
        """What a rank computes on one of its samples."""
        samples = self.samples_per_s * self.step_ms / 1e3 / self.ranks
        return self.compute_ms / samples


@dataclass(frozen=True)
class Factors:
    """Efficiency, and what it is the product of."""

    efficiency: float
    """Samples a second, divided by as many times the baseline's as there are more ranks."""
    communication: float
    """Of exposed communication: the part of the step that is left without it."""
    balance: float
    """Of waiting for the slowest: its part of what then is left."""
    serial: float
    """Of data, update and other work: the part of computing in what then is left."""
    compute: float
    """Of how long a rank computes on a sample: memory bandwidth, clock, smaller matrices."""

    @property
    def by_name(self) -> dict[str, float]:
        """The four, by FACTORS."""
        return {name: getattr(self, name) for name in FACTORS}

    @property
    def product(self) -> float:
        """Of the four: the efficiency."""
        return math.prod(self.by_name.values())

    @property
    def worst(self) -> str:
        """The name of the smallest: what costs most."""
        return min(FACTORS, key=self.by_name.__getitem__)


def step_times(repeats: Sequence[Measurement]) -> StepTimes:
    """What the runs of one point say together.

    The medians of the phases need not sum to the median of the steps, so they are scaled until they do.
    """
    step_ms = median(run.step_ms for run in repeats)
    phases = {name: median(run.phases_ms[name] for run in repeats) for name in PHASES}
    scale = step_ms / sum(phases.values())
    scaled = {name: value * scale for name, value in phases.items()}
    return StepTimes(repeats[0].point.ranks, median(run.samples_per_s for run in repeats), scaled)


def split(point: StepTimes, baseline: StepTimes) -> Factors:
    """The efficiency of a point, and its factors."""
    ranks = point.ranks / baseline.ranks
    efficiency = point.samples_per_s / baseline.samples_per_s / ranks
    ours, theirs = _parts(point), _parts(baseline)
    communication, balance, serial = (mine / other for mine, other in zip(ours, theirs, strict=True))
    compute = baseline.compute_ms_of_sample / point.compute_ms_of_sample
    return Factors(efficiency, communication, balance, serial, compute)


def _parts(times: StepTimes) -> tuple[float, float, float]:
    """Of the step without communication, of that without waiting, of that computing."""
    alone = times.step_ms - times.phases_ms["comm"]
    working = alone - times.phases_ms["wait"]
    return alone / times.step_ms, working / alone, times.compute_ms / working
