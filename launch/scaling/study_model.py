"""From the measurements of a study to its model: with all of them, with some left out, or with repeats drawn anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

import numpy as np

from launch.scaling.collectives import Collectives
from launch.scaling.fitting import Constants, fit
from launch.scaling.networks import Network
from launch.scaling.observations import Observation, observations
from launch.scaling.records import PHASES, Measurement, Point
from launch.scaling.schedule import BucketSchedule
from launch.scaling.step_model import (
    NO_WORK,
    RUNGS,
    Place,
    PointTimes,
    StepModel,
    fit_work,
    in_training,
    stated_medium,
)

Pick = Callable[[int], Sequence[int]]
"""Chooses among n repeats, some perhaps more than once."""


def everything(n: int) -> Sequence[int]:
    """Each repeat once."""
    return range(n)


def drawn_by(generator: np.random.Generator) -> Pick:
    """As many as there are, drawn with replacement."""
    return lambda n: generator.integers(0, n, n).tolist()


@dataclass(frozen=True)
class Layout:
    """How ranks lie on nodes, as the study had them."""

    ranks_per_node: int
    """At most."""
    has_nodes: bool
    """Whether any job had several."""
    node_cores: float
    """Of a node alone."""
    shares_cores: bool
    """Whether all nodes are one machine."""
    threads: int

    def cores(self, nodes: int) -> float:
        """Of so many nodes."""
        return self.node_cores * (1 if self.shares_cores or not self.has_nodes else nodes)

    def place(self, ranks: int, network: Network | None = None) -> Place:
        """On the hosts of the study, or on as many like them as are needed, with another network between them.

        Nodes with more ranks than those that were measured are taken to have a core for each of their threads.
        """
        if network is None:
            nodes = -(-ranks // self.ranks_per_node) if self.has_nodes else 1
            load = ranks * self.threads / self.cores(nodes)
            # More ranks than one node was seen with: as if it had more cores.
            load = load if self.has_nodes else min(ranks, self.ranks_per_node) * self.threads / self.cores(1)
            return Place(ranks, nodes, load)
        inside = network.ranks_per_node or max(1, min(self.ranks_per_node, int(self.node_cores // self.threads)))
        nodes, load = -(-ranks // inside), min(ranks, inside) * self.threads / self.node_cores
        return Place(ranks, nodes, min(load, 1.0) if self.has_more(network) else load, stated_medium(network))

    def has_more(self, network: Network) -> bool:
        """Whether its nodes have more ranks than those that were measured have cores for."""
        return (network.ranks_per_node or 0) * self.threads > self.node_cores


@dataclass(frozen=True)
class StudyData:
    """What was measured with one number of threads a rank."""

    threads: int
    runs: Mapping[Point, Sequence[Measurement]]
    collectives: Sequence[Collectives]
    """By ranks."""
    schedule: BucketSchedule | None
    observed: Mapping[int, Sequence[Observation]]
    """What collectives took, by ranks."""

    @property
    def base_batch(self) -> int:
        """Samples of a step of one rank: what strong scaling keeps, and weak scaling multiplies."""
        fewest = min(point.ranks for point in self.runs)
        lowest = min(point.batch for point in self.runs if point.ranks == fewest)
        known = [lowest, *([lowest // fewest] if lowest % fewest == 0 else [])]
        return max(known, key=lambda base: sum(bool(modes_of(point, base)) for point in self.runs))

    @property
    def ranks(self) -> list[int]:
        """Those that were measured, ascending."""
        return sorted({point.ranks for point in self.runs})

    def modes(self) -> tuple[str, ...]:
        """The ways to scale of which there is a point with more ranks than the fewest; strong, if there is none."""
        fewest, base = self.ranks[0], self.base_batch
        found = {mode for point in self.runs if point.ranks > fewest for mode in modes_of(point, base)}
        return tuple(sorted(found)) or ("strong",)

    def layout(self) -> Layout:
        """How ranks lay on nodes."""
        runs = [run for point in self.runs for run in self.runs[point]]
        counts = [(len(set(run.hosts)), max(map(run.hosts.count, set(run.hosts))), run.cores) for run in runs]
        counts += [(one.nodes, one.ranks_per_node, 0) for one in self.collectives]
        several = [cores for nodes, _, cores in counts if nodes > 1 and cores]
        each = max((cores / nodes for nodes, _, cores in counts if cores), default=1.0)  # with most ranks, if bound
        return Layout(
            ranks_per_node=max(inside for _, inside, _ in counts),
            has_nodes=any(nodes > 1 for nodes, _, _ in counts),
            node_cores=max(1.0, each),
            shares_cores=bool(several) and max(several) <= each,
            threads=self.threads,
        )

    def without(self, ranks: int) -> StudyData:
        """As if a number of ranks had never been measured."""
        return replace(
            self,
            runs={point: runs for point, runs in self.runs.items() if point.ranks != ranks},
            collectives=[one for one in self.collectives if one.ranks != ranks],
            observed={number: each for number, each in self.observed.items() if number != ranks},
        )

    def place_of(self, point: Point) -> Place:
        """Where a measured point ran.

        Ranks that are bound have cores of their own, and all of these are busy; how many others are on their nodes says
        how much they share. Where ranks were given fewer cores than threads, it is these that count.
        """
        run, layout = self.runs[point][0], self.layout()
        nodes, threads = len(set(run.hosts)), point.ranks * point.threads
        cores = layout.cores(nodes) if run.cores >= threads else run.cores
        return Place(point.ranks, nodes, threads / max(1, cores))

    def times(self, pick: Pick = everything) -> dict[Point, PointTimes]:
        """The medians of each point's repeats."""
        return {point: self._times(point, [runs[k] for k in pick(len(runs))]) for point, runs in self.runs.items()}

    def _times(self, point: Point, runs: Sequence[Measurement]) -> PointTimes:
        step = median(run.step_ms for run in runs) * 1e-3
        phases = {phase: median(run.phases_ms[phase] for run in runs) for phase in PHASES}
        scale = step / sum(phases.values())
        place = self.place_of(point)
        rungs = [run.reducer for run in runs]
        most = max(rungs, key=rungs.count)
        seconds = {phase: value * scale for phase, value in phases.items()}
        reports = self.reports(point.batch)
        return PointTimes(point.ranks, place.nodes, point.batch, place.load, most, step, seconds, reports)

    def reports(self, batch: float) -> float:
        """How many times more shards than of the study's own batch: weak scaling has as many of each rank."""
        return batch / self.base_batch


def modes_of(point: Point, base: int) -> list[str]:
    """Which ways to scale a point belongs to; one rank to both."""
    return [
        *(["strong"] if point.batch == base else []),
        *(["weak"] if point.batch == base * point.ranks else []),
    ]


def study_data(
    threads: int,
    measurements: Sequence[Measurement],
    collectives: Sequence[Collectives],
    schedule: BucketSchedule | None,
) -> StudyData:
    """Sort what belongs to a number of threads; collectives of another number stand in where there are none."""
    runs: dict[Point, list[Measurement]] = {}
    for run in measurements:
        if run.point.threads == threads:
            runs.setdefault(run.point, []).append(run)
    own = [one for one in collectives if one.threads == threads]
    known = {one.ranks: one for one in (*collectives, *own)}  # own ones last: they count
    kept = [known[ranks] for ranks in sorted(known) if known[ranks].ranks > 1]
    return StudyData(threads, runs, kept, schedule, {one.ranks: observations(one) for one in kept})


def fit_study(data: StudyData, pick: Pick = everything, start: StepModel | None = None) -> StepModel:
    """The model of some measurements.

    Args:
        data: the measurements.
        pick: chooses repeats.
        start: the model of all of them, from which to start: much quicker.

    Raises:
        ValueError: if there are none.
    """
    times = list(data.times(pick).values())
    model = StepModel(fit_work(times), Constants(), None, data.schedule, {})
    if not data.collectives:
        return model
    observed = [one for each in data.observed.values() for one in each]
    model = _with_communication(model, data.collectives, observed, pick, start)
    return in_training(model, times)


def fit_communication(collectives: Sequence[Collectives]) -> StepModel:
    """The model of communication alone: computing takes no time."""
    observed = [one for each in collectives for one in observations(each)]
    return _with_communication(StepModel(NO_WORK, Constants(), None, None, {}), collectives, observed, everything, None)


def _with_communication(
    model: StepModel,
    collectives: Sequence[Collectives],
    observed: Sequence[Observation],
    pick: Pick,
    start: StepModel | None,
) -> StepModel:
    seconds = [float(np.median(one.seconds[list(pick(one.seconds.size))])) for one in observed]
    constants = fit(observed, seconds, _added(collectives), start.constants if start else None)
    model = replace(model, constants=constants, job=collectives[-1])
    return replace(model, corrections=_corrections(model, collectives, observed, seconds))


def _added(collectives: Sequence[Collectives]) -> float:
    """Seconds to add a byte to another, at best."""
    costs = [
        sample.median / sample.num_bytes for one in collectives for sample in one.samples if sample.what == "addition"
    ]
    return min(costs, default=0.0)


def _corrections(
    model: StepModel, collectives: Sequence[Collectives], observed: Sequence[Observation], seconds: Sequence[float]
) -> dict[str, float]:
    """By rung, the geometric mean of measured by predicted time with nothing to compute."""
    nodes = {one.ranks: one.nodes for one in collectives}
    ratios: dict[str, list[float]] = {}
    for one, measured in zip(observed, seconds, strict=True):
        if one.what in RUNGS:
            predicted, _ = model.communication(one.what, Place(one.ranks, nodes[one.ranks], 0.0))
            ratios.setdefault(one.what, []).append(math.log(measured / predicted))
    return {rung: math.exp(fmean(each)) for rung, each in ratios.items()}
