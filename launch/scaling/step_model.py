"""How long a step takes: computing as a function of a rank's samples, and communication as it is left exposed.

    step = data + compute + waiting + update + other + exposed communication

Computing is a line in the samples of a rank; it takes longer the more cores of a node are busy, which share memory and
clock, and as many times longer as threads outnumber cores. Ranks wait for the slowest: of P normally distributed times
the longest is expected g(P) deviations above the mean, so waiting is a part of computing that grows with g.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from statistics import NormalDist, fmean, median

import numpy as np
from scipy.optimize import least_squares

from launch.scaling.algorithms import Schedule
from launch.scaling.collectives import Collectives
from launch.scaling.fitting import Constants, Medium
from launch.scaling.networks import Network
from launch.scaling.observations import rung_schedules
from launch.scaling.schedule import BucketSchedule, at_the_end

RUNGS = ("flat", "bucketed", "node_shared", "sharded", "naive")
IN_TRAINING = (0.25, 4.0)
"""Between what the factor may lie by which communication takes longer in a step than alone."""
HALVINGS = 25
"""Of a factor's logarithm, until it is found."""


@dataclass(frozen=True)
class PointTimes:
    """What the runs at a point took, medians of them. Seconds of one step."""

    ranks: int
    nodes: int
    batch: int
    load: float
    """Threads for each core."""
    reducer: str
    step: float
    phases: Mapping[str, float]
    """By `launch.scaling.records.PHASES`."""
    reports: float = 1.0
    """How many times more logical shards report than where collectives were measured."""

    @property
    def samples(self) -> float:
        """Of a rank."""
        return self.batch / self.ranks

    @property
    def compute(self) -> float:
        """Forward and backward."""
        return self.phases["forward"] + self.phases["backward"]


@dataclass(frozen=True)
class Place:
    """Where ranks run."""

    ranks: int
    nodes: int
    load: float
    network: Medium | None = None
    """Between nodes; None: that which was measured."""


@dataclass(frozen=True)
class Step:
    """A predicted step. Seconds."""

    compute: float
    comm: float
    """Exposed."""
    hidden: float
    serial: float
    wait: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.compute + self.comm + self.serial + self.wait


def waiting_factor(ranks: int) -> float:
    """How many deviations the longest of P normally distributed times is above the mean, about.

    Source: G. Blom, "Statistical Estimates and Transformed Beta-Variables", 1958.
    """
    return NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25)) if ranks > 1 else 0.0


def crowding(load: float, alone: float) -> float:
    """How many of the other cores are busy: 0 at the load `alone`, 1 if all are."""
    return max(0.0, min(load, 1.0) - alone) / (1 - alone) if alone < 1 else 0.0


@dataclass(frozen=True)
class Work:
    """What a rank does without the others. Seconds."""

    fixed: float
    """Of computing, whatever the number of samples."""
    per_sample: float
    sharing: float
    """How much longer computing takes if all cores of a node are busy, instead of `alone` of them: 0.1 is 10 %."""
    backward: float
    """The part of computing that is the backward pass."""
    data_fixed: float
    data_per_sample: float
    update: float
    """Of all parameters."""
    other: float
    deviation: float
    """Of computing between ranks, as a part of it."""
    comm_alone: float
    """What a single rank spends in communication."""
    alone: float = 0.0
    """The smallest load that was measured: usually one rank's."""

    def compute(self, samples: float, load: float) -> float:
        """Forward and backward of so many samples."""
        others = crowding(load, self.alone)
        return (self.fixed + self.per_sample * samples) * (1 + self.sharing * others) * max(load, 1.0)

    def serial(self, samples: float, load: float, updated: float) -> float:
        """Data, update and the rest; `updated`: the part of the parameters that a rank updates."""
        data = self.data_fixed + self.data_per_sample * samples
        return (data + self.other) * max(load, 1.0) + self.update * updated * max(load, 1.0)


NO_WORK = Work(*[0.0] * len(fields(Work)))


def fit_work(points: Sequence[PointTimes]) -> Work:
    """The constants of computing with the least squared relative errors, none negative.

    A constant that the points say nothing about is 0: the fixed part, if a rank always has as many samples; sharing, if
    as many samples are never computed at different loads. Points with more threads than cores count only where there
    are no others.

    Raises:
        ValueError: if there is no point.
    """
    if not points:
        raise ValueError("no points")
    counted = [point for point in points if point.load <= 1] or list(points)
    samples, loads = np.array([p.samples for p in counted]), np.array([p.load for p in counted])
    alone = float(loads.min())
    others = np.array([crowding(load, alone) for load in loads])
    compute = np.array([p.compute for p in counted])
    by_samples: dict[float, set[float]] = {}
    for point in counted:
        by_samples.setdefault(point.samples, set()).add(min(point.load, 1.0))
    free = np.array([len(by_samples) > 1, True, any(len(each) > 1 for each in by_samples.values())])
    scale = np.array([compute.min(), float(np.median(compute / samples)), 1.0])

    def errors(y: np.ndarray) -> np.ndarray:
        fixed, slope, sharing = _spread(y, free) * scale
        times = (fixed + slope * samples) * (1 + sharing * others) * np.maximum(loads, 1)
        result: np.ndarray = times / compute - 1
        return result

    y = np.array([0.1, 0.9, 0.1])[free]
    found = least_squares(errors, y, bounds=(0, np.inf)).x
    fixed, slope, sharing = (_spread(found, free) * scale).tolist()
    data = _line(samples, [p.phases["data"] / max(p.load, 1) for p in counted])
    several = [p for p in points if p.ranks > 1]
    weights = [waiting_factor(p.ranks) * p.compute for p in several]
    waits = sum(w * p.phases["wait"] for w, p in zip(weights, several, strict=True))
    without = [p.phases["comm"] for p in points if p.ranks == 1]
    return Work(
        *(fixed, slope, sharing, fmean(p.phases["backward"] / p.compute for p in points)),
        *data,
        update=fmean(p.phases["update"] / max(p.load, 1) / updated_part(p.reducer, p.ranks, p.nodes) for p in counted),
        other=fmean(p.phases["other"] / max(p.load, 1) for p in counted),
        deviation=waits / sum(w * w for w in weights) if several else 0.0,
        comm_alone=fmean(without) if without else 0.0,
        alone=alone,
    )


def _spread(y: np.ndarray, free: np.ndarray) -> np.ndarray:
    x = np.zeros(free.size)
    x[free] = y
    return x


def _line(x: np.ndarray, y: Sequence[float]) -> tuple[float, float]:
    """Value at 0 and slope, neither negative."""
    values = np.array(y)
    if np.unique(x).size < 2:
        return float(values.mean()), 0.0
    slope, start = np.polyfit(x, values, 1)
    if slope < 0:
        return float(values.mean()), 0.0
    if start < 0:
        return 0.0, float(x @ values / (x @ x))
    return float(start), float(slope)


def updated_part(rung: str, ranks: int, nodes: int) -> float:
    """The part of the parameters that a rank updates."""
    shares = {"node_shared": 1 / -(-ranks // nodes), "sharded": 1 / ranks}
    return shares.get(rung, 1.0)


@dataclass(frozen=True)
class StepModel:
    """The whole: predicts a step anywhere."""

    work: Work
    constants: Constants
    job: Collectives | None
    """What is sent; None if communication was not measured: then only one rank can be predicted."""
    schedule: BucketSchedule | None
    """None: unknown, so that nothing is taken to be hidden."""
    corrections: Mapping[str, float]
    """By rung, what its sums take in relation to the formula, geometric mean of what was measured."""
    in_training: float = 1.0
    """What communication takes in a step in relation to alone, on the hosts of the study."""
    beyond: float = 0.0
    """What it takes on one node in a step besides, in seconds, taken for that of any other network: buffers that are
    not in the cache, others' cores. Of a network it would say how slow that one is."""

    def rungs(self, place: Place) -> list[str]:
        """Those that make sense there, without `node_shared` if it could have been measured but was not."""
        could = self.job is not None and self.job.ranks > self.job.nodes
        shares = place.ranks > place.nodes and not (could and "node_shared" not in self.corrections)
        return [rung for rung in RUNGS if shares or rung != "node_shared"]

    def communication(
        self, rung: str, place: Place, backward: float = 0.0, reports: float = 1.0
    ) -> tuple[float, float]:
        """Seconds exposed and hidden, alone (without `in_training`), behind a backward pass of so many seconds.

        `reports`: how many times more logical shards report than where the collectives were measured.
        """
        if place.ranks == 1:
            return 0.0, 0.0
        assert self.job is not None
        job = replace(self.job, report_bytes=round(self.job.report_bytes * reports))
        constants = self.constants if place.network is None else replace(self.constants, network=place.network)
        factor = self.corrections.get(rung, 1.0) if place.network is None else 1.0
        schedules = _schedules(job, rung, place.ranks, place.nodes)
        costs = [constants.cost(each, blocking=rung != "bucketed") for each in schedules]
        alone, busy = [factor * cost.seconds for cost in costs], [factor * cost.busy for cost in costs]
        if rung != "bucketed":
            return alone[0], 0.0
        late = at_the_end(job.buckets, backward)
        # On one node nobody but the computing cores could move the bytes: see ddp.comm.reducers.bucketed.
        schedule = self.schedule if self.schedule is not None and place.nodes > 1 else late
        whole, exposed = (
            each.and_then(job.report_bytes).overlapped(backward, alone, busy) for each in (late, schedule)
        )
        return exposed, whole - exposed

    def step(self, place: Place, batch: float, rung: str, reports: float = 1.0) -> Step:
        """A step of so many samples over all ranks; `reports` as of `communication`."""
        samples = batch / place.ranks
        compute = self.work.compute(samples, place.load)
        backward = self.work.backward * compute
        # What was measured of one network says how its bytes are slowed down, not how another one's are.
        factor, beyond = (self.in_training, 0.0) if place.network is None else (1.0, self.beyond)
        exposed, hidden = self.communication(rung, place, backward / factor, reports)
        serial = self.work.serial(samples, place.load, updated_part(rung, place.ranks, place.nodes))
        wait = self.work.deviation * waiting_factor(place.ranks) * compute
        comm = self.work.comm_alone + exposed * factor + (beyond if place.ranks > 1 else 0.0)
        return Step(compute, comm, hidden * factor, serial, wait)


@lru_cache(maxsize=4096)
def _cached(key: tuple[str, int, int], job: _ByIdentity) -> tuple[Schedule, ...]:
    return tuple(rung_schedules(job.one, *key) or [()])


class _ByIdentity:
    """A job as a key: its links are dictionaries, which have no hash."""

    def __init__(self, one: Collectives) -> None:
        self.one, self.key = one, (one.mpi_library, one.tensors, one.buckets, one.report_bytes, one.piece_bytes)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByIdentity) and self.key == other.key


def _schedules(job: Collectives, rung: str, ranks: int, nodes: int) -> tuple[Schedule, ...]:
    """What a rung sends at once."""
    return _cached((rung, ranks, nodes), _ByIdentity(job))


def stated_medium(network: Network) -> Medium:
    """A stated network: no handshake, and enough links for all."""
    return Medium(latency=network.latency_s, per_byte=network.seconds_per_byte)


def in_training(model: StepModel, points: Sequence[PointTimes]) -> StepModel:
    """The model, with what communication took in steps in relation to alone; as it is if no point tells."""
    exact: list[float] = []
    bounds: list[float] = []
    differences: list[float] = []
    for point in points:
        if point.ranks > 1 and point.reducer in RUNGS:
            measured = point.phases["comm"] - model.work.comm_alone
            (exact if measured > 0 else bounds).append(math.log(_factor(model, point, measured)))
            if point.nodes == 1:
                differences.append(measured - _exposed(model, point, 1.0))
    # A point that communicates no longer than one rank says only that the factor is no larger than its own: it counts
    # where the others say more.
    logarithms = exact or [0.0]
    for bound in sorted(bounds):
        if bound < fmean(logarithms):
            logarithms = [*logarithms, bound] if exact else [bound]
    beyond = max(0.0, median(differences)) if differences else 0.0
    return replace(model, in_training=math.exp(fmean(logarithms)), beyond=beyond)


def _exposed(model: StepModel, point: PointTimes, factor: float) -> float:
    """Seconds at a point, if communication takes so many times as long as alone."""
    place = Place(point.ranks, point.nodes, point.load)
    return factor * model.communication(point.reducer, place, point.phases["backward"] / factor, point.reports)[0]


def _factor(model: StepModel, point: PointTimes, measured: float) -> float:
    """The largest factor, within IN_TRAINING, with which no more is exposed than was measured."""
    least, most = IN_TRAINING
    if _exposed(model, point, most) <= measured:
        return most
    alone = _exposed(model, point, 1.0)
    guess = max(least, measured / alone) if alone > 0 else most
    if math.isclose(_exposed(model, point, guess), measured):
        return guess  # nothing is hidden
    for _ in range(HALVINGS):
        middle = math.sqrt(least * most)
        least, most = (middle, most) if _exposed(model, point, middle) <= max(measured, 0.0) else (least, middle)
    return least
