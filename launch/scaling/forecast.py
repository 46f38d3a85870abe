"""Makes the predictions of a study: `launch.scaling.predict` says what they are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np

from launch.errors import UsageError
from launch.scaling.answers import answers
from launch.scaling.collectives import FILE as COLLECTIVES
from launch.scaling.collectives import read_collectives, slow_links
from launch.scaling.fitting import Medium
from launch.scaling.networks import Network
from launch.scaling.predict import BAND, PRESENT, Band, Check, Constant, Prediction, Predictions
from launch.scaling.records import Measurement, Point
from launch.scaling.schedule import BucketSchedule, load, read_trace, save
from launch.scaling.step_model import RUNGS, Place, Step, StepModel
from launch.scaling.study_model import StudyData, drawn_by, fit_study, modes_of, study_data

DRAWS = 100
"""Of the repeats, for the bands."""
SEED = 20260131
MOST_RANKS = 4096

UNTOLD: Mapping[tuple[str, ...], str] = {
    ("strong",): (
        "Only strong scaling was measured, where a rank has the fewer samples the more cores are busy: by how much busy"
        " cores slow each other down cannot be told from computing that does not shrink with the samples, and is taken"
        " for nothing. Weak scaling is not predicted, and predictions for larger batches are too optimistic."
    ),
    ("weak",): (
        "Only weak scaling was measured, where a rank always has as many samples: what of computing does not shrink"
        " with the samples cannot be told, and is taken for nothing. Strong scaling is not predicted, nor the smallest"
        " batch: both would be too optimistic."
    ),
}
"""What a study of these modes alone cannot tell."""


def forecast(folder: Path, measurements: Sequence[Measurement], networks: Sequence[Network]) -> Predictions:
    """See `launch.scaling.predict.predict_study`."""
    collectives = read_collectives(folder)
    notes: list[str] = []
    parts = []
    for threads in sorted({run.point.threads for run in measurements}):
        data = study_data(threads, measurements, collectives, None)
        data = replace(data, schedule=_schedule(folder, data, notes))
        parts.append(Forecast(data, networks))
    if not parts:
        notes.append("There are no measurements to fit a model to.")
    predictions = Predictions(
        tuple(networks),
        tuple(row for part in parts for row in part.rows()),
        tuple(check for part in parts for check in part.checks),
        tuple(constant for part in parts for constant in part.constants(len(parts) > 1)),
        (),
        (*notes, *dict.fromkeys(note for part in parts for note in part.notes())),
        tuple(slow_links(collectives)),
    )
    found = tuple(answer for part in parts for answer in answers(predictions, part))
    return replace(predictions, answers=found)


def slow(folder: Path) -> tuple[str, ...]:
    """Hosts and pairs of hosts whose network is slow."""
    return tuple(slow_links(read_collectives(folder)))


def _schedule(folder: Path, data: StudyData, notes: list[str]) -> BucketSchedule | None:
    """When buckets are ready: as was found out before, or by the traced run."""
    path = folder / f"schedule-threads-{data.threads}.json"
    if path.exists():
        schedule = load(path)
        if data.collectives and [each.num_bytes for each in schedule.buckets] != [*data.collectives[-1].buckets]:
            raise UsageError(f"{path} has other buckets than {COLLECTIVES} was measured with: delete it")
        return schedule
    run = folder / "runs" / f"trace-threads-{data.threads}"
    if not data.collectives:
        return None
    try:
        schedule = read_trace(run, data.collectives[-1].buckets)
    except ValueError as error:
        notes.append(f"Nothing is taken to be hidden behind the backward pass: {error}.")
        return None
    save(schedule, path)
    return schedule


@dataclass(frozen=True)
class Case:
    """One thing to predict."""

    network: Network | None
    mode: str
    ranks: int
    rung: str


class Forecast:
    """The predictions for one number of threads a rank."""

    def __init__(self, data: StudyData, networks: Sequence[Network]) -> None:
        """Fit the model, to all measurements and to many that are drawn from them."""
        self.data, self.networks, self.layout = data, networks, data.layout()
        self.base, self.modes = data.base_batch, data.modes()
        self.model = fit_study(data)
        self.baseline_ranks = 1 if self.model.job is None else data.ranks[0]
        self.baseline_rungs = {mode: self._baseline_rung(mode) for mode in self.modes}
        generator = np.random.default_rng(SEED)
        self.drawn = [fit_study(data, drawn_by(generator), self.model) for _ in range(DRAWS)]
        self.checks = list(self._checks())

    @property
    def threads(self) -> int:
        """Of a rank."""
        return self.data.threads

    def ranks(self) -> list[int]:
        """Numbers of ranks to predict for: those that were measured, and powers of two."""
        if self.model.job is None:  # nothing is known of several
            return [1]
        return sorted({*self.data.ranks, *(1 << k for k in range(MOST_RANKS.bit_length()))})

    def batch(self, mode: str, ranks: int) -> int:
        """Samples of a step."""
        return self.base * (ranks if mode == "weak" else 1)

    def place(self, ranks: int, network: Network | None) -> Place:
        """Where ranks run."""
        return self.layout.place(ranks, network)

    def rate(self, model: StepModel, network: Network | None, ranks: int, batch: float, rung: str) -> float:
        """Samples a second, with the shards of the study's own batch."""
        return batch / model.step(self.place(ranks, network), batch, rung).total

    def baseline(self, model: StepModel, mode: str) -> float:
        """Samples a second and rank of the fewest ranks that were measured, as `launch.scaling.summary` has it."""
        ranks = self.baseline_ranks
        case = Case(None, mode, ranks, self.baseline_rungs[mode])
        return self.batch(mode, ranks) / self.step(model, case).total / ranks

    def _baseline_rung(self, mode: str) -> str:
        """What the baseline was measured with."""
        times = sorted(self.data.times().items())  # by ranks
        found = [one.reducer for point, one in times if mode in modes_of(point, self.base)]
        return next((rung for rung in found if rung in RUNGS), "flat")

    def step(self, model: StepModel, case: Case) -> Step:
        """A step of a case."""
        batch = self.batch(case.mode, case.ranks)
        return model.step(self.place(case.ranks, case.network), batch, case.rung, batch / self.base)

    def cases(self) -> Iterator[list[Case]]:
        """All rungs of each network, mode and number of ranks."""
        for network in (None, *self.networks):
            for mode in self.modes:
                for ranks in self.ranks():
                    if ranks <= self.batch(mode, ranks):
                        rungs = self.model.rungs(self.place(ranks, network))
                        yield [Case(network, mode, ranks, rung) for rung in rungs]

    def rows(self) -> Iterator[Prediction]:
        """All predictions."""
        errors = {mode: self._error(mode) for mode in self.modes}
        baselines = {mode: [self.baseline(model, mode) for model in (self.model, *self.drawn)] for mode in self.modes}
        for cases in self.cases():
            steps = [self.step(self.model, case) for case in cases]
            best = min(range(len(cases)), key=lambda k: steps[k].total)
            for number, (case, step) in enumerate(zip(cases, steps, strict=True)):
                drawn = [self.step(model, case) for model in self.drawn]
                yield self._row(case, step, drawn, baselines[case.mode], number == best, errors[case.mode])

    def _row(
        self, case: Case, step: Step, drawn: Sequence[Step], baselines: Sequence[float], is_best: bool, error: float
    ) -> Prediction:
        batch = self.batch(case.mode, case.ranks)
        rate = batch / step.total
        efficiency, *efficiencies = [
            batch / one.total / case.ranks / baseline for one, baseline in zip((step, *drawn), baselines, strict=True)
        ]
        return Prediction(
            network=PRESENT if case.network is None else case.network.name,
            mode=case.mode,
            ranks=case.ranks,
            threads=self.threads,
            batch=batch,
            reducer=case.rung,
            is_best=is_best,
            is_extrapolated=case.ranks > max(self.data.ranks),
            step_ms=band(step.total * 1e3, [one.total * 1e3 for one in drawn]),
            compute_ms=step.compute * 1e3,
            comm_ms=band(step.comm * 1e3, [one.comm * 1e3 for one in drawn]),
            hidden_ms=step.hidden * 1e3,
            serial_ms=step.serial * 1e3,
            wait_ms=step.wait * 1e3,
            samples_per_s=rate,
            speed_up=efficiency * case.ranks / self.baseline_ranks,
            efficiency=band(efficiency, efficiencies),
            error=error,
        )

    def _error(self, mode: str) -> float:
        """Of several ranks: one rank is predicted without any communication, which says nothing of the others."""
        several = [check for check in self.checks if check.what == "step" and check.ranks > 1]
        errors = [
            abs(check.error)
            for check in several
            if mode in modes_of(Point(check.ranks, check.threads, check.batch, 0), self.base)
        ]
        known = [error for error in errors if math.isfinite(error)]
        return fmean(known) if known else math.nan

    def _checks(self) -> Iterator[Check]:
        """Every number of ranks is left out in turn."""
        times = self.data.times()
        for ranks in self.data.ranks:
            without = self._left_out(ranks)
            for point, measured in sorted(times.items()):
                if point.ranks == ranks:
                    place, rung = self.data.place_of(point), measured.reducer
                    total = partial(_total, place=place, batch=point.batch, rung=rung, reports=measured.reports)
                    modes = modes_of(point, self.base) or [""]
                    about = ("step", modes[0], ranks, self.threads, point.batch, rung)
                    yield self._check(about, measured.step, total, without)
            yield from self._collective_checks(ranks, without)

    def _collective_checks(self, ranks: int, without: StepModel | None) -> Iterator[Check]:
        for one in self.data.collectives:
            for sample in one.samples:
                if one.ranks == ranks and sample.what in RUNGS:
                    about = (sample.what, "", ranks, self.threads, 0, sample.what)
                    alone = partial(_alone, rung=sample.what, place=Place(ranks, one.nodes, 0.0))
                    yield self._check(about, sample.median, alone, without)

    def _check(
        self,
        about: tuple[str, str, int, int, int, str],
        measured: float,
        predict: Callable[[StepModel], float],
        without: StepModel | None,
    ) -> Check:
        needs_job = about[2] > 1
        left_out = math.nan
        if without is not None and (without.job is not None or not needs_job):
            left_out = predict(without)
        fitted = predict(self.model) if self.model.job is not None or not needs_job else math.nan
        return Check(*about, measured * 1e3, fitted * 1e3, left_out * 1e3)

    def _left_out(self, ranks: int) -> StepModel | None:
        """Fitted anew: a model that has seen these ranks would have chosen its shape by them."""
        rest = self.data.without(ranks)
        return fit_study(rest) if rest.runs else None

    def constants(self, names_threads: bool) -> Iterator[Constant]:
        """The numbers of the model."""
        suffix = f", {self.threads} threads a rank" if names_threads else ""
        for name, unit, factor, meaning, value in _NUMBERS:
            here = value(self.model)
            if here > 0:
                values = [value(model) * factor for model in self.drawn]
                whole = band(here * factor, values)
                yield Constant(f"{name}{suffix}", whole.value, whole.low, whole.high, unit, meaning)

    def notes(self) -> Iterator[str]:
        """What is assumed, and what is missing."""
        if self.model.job is None:
            yield (
                "No collectives were measured on several ranks, so that communication is unknown: only one rank is"
                " predicted."
            )
        elif len(self.data.collectives) < 2:
            ranks = self.data.collectives[0].ranks
            yield (
                f"Communication was measured at {ranks} ranks only: how it grows with ranks is the formulas', and no"
                " measurement could be left out to test that."
            )
        if not self.layout.has_nodes and self.model.job is not None:
            inside = self.layout.ranks_per_node
            yield (
                f"All ranks ran on one node: `{PRESENT}` predicts more than {inside} ranks as if that node had as many"
                " cores, and memory that grows with them."
            )
        yield from self._unmeasured()
        if self.modes in UNTOLD and len(self.data.ranks) > 1:
            yield UNTOLD[self.modes]
        if all(len(runs) == 1 for runs in self.data.runs.values()):
            yield "Each point was run once: one repeat has no spread, so the bands show none of whole runs."
        if any(times.load > 1 for times in self.data.times().values()):
            yield "Points with more threads than cores count for computing only where there are no others."

    def _unmeasured(self) -> Iterator[str]:
        """What carries messages, but was not measured, and so costs nothing."""
        if self.model.job is None:
            return
        places = {self.place(ranks, network) for network in (None, *self.networks) for ranks in self.ranks()}
        if self.model.constants.node == Medium() and any(place.ranks > place.nodes for place in places):
            yield (
                "Messages between ranks of one node were not measured and are taken to cost nothing: where a node has"
                " several ranks, predictions are too optimistic."
            )
        if self.model.constants.network == Medium() and any(times.nodes > 1 for times in self.data.times().values()):
            yield (
                f"Points ran on several nodes, but no collectives were measured there: on `{PRESENT}` messages between"
                " nodes are taken to cost nothing, and predictions are too optimistic."
            )
        if names := [network.name for network in self.networks if self.layout.has_more(network)]:
            yield (
                f"Nodes of {', '.join(names)} have more ranks than the measured ones have cores"
                f" ({self.layout.node_cores:g}): nodes with a core for each thread are assumed."
            )


def _total(model: StepModel, place: Place, batch: int, rung: str, reports: float) -> float:
    """Seconds of a step."""
    return model.step(place, batch, rung, reports).total


def _alone(model: StepModel, rung: str, place: Place) -> float:
    """Seconds of a rung with nothing to compute."""
    return model.communication(rung, place)[0]


_NUMBERS: tuple[tuple[str, str, float, str, Callable[[StepModel], float]], ...] = (
    ("alpha of the network", "µs", 1e6, "latency of a round of messages between nodes",
     lambda m: m.constants.network.latency),
    ("handshake of the network", "µs", 1e6, "besides, if the messages are long",
     lambda m: m.constants.network.handshake),
    ("beta of the network", "ns/byte", 1e9, "a byte through a node's link", lambda m: m.constants.network.per_byte),
    ("both ways of the network", "ns/byte", 1e9, "besides, of long messages that two nodes send to each other",
     lambda m: m.constants.network.both_ways),
    ("shared beta of the network", "ns/byte", 1e9, "a byte through what all nodes share",
     lambda m: m.constants.network.shared_per_byte),
    ("alpha in a node", "µs", 1e6, "latency of a round of messages between ranks of a node",
     lambda m: m.constants.node.latency),
    ("handshake in a node", "µs", 1e6, "besides, if the messages are long", lambda m: m.constants.node.handshake),
    ("beta in a node", "ns/byte", 1e9, "a byte from rank to rank", lambda m: m.constants.node.per_byte),
    ("both ways in a node", "ns/byte", 1e9, "besides, of long messages that two ranks send to each other",
     lambda m: m.constants.node.both_ways),
    ("shared beta in a node", "ns/byte", 1e9, "a byte through the memory that all ranks share",
     lambda m: m.constants.node.shared_per_byte),
    ("gamma", "ns/byte", 1e9, "adding a byte to another", lambda m: m.constants.per_added_byte),
    ("call", "µs", 1e6, "an Allreduce, whatever it sums", lambda m: m.constants.call),
    ("background call", "µs", 1e6, "an Iallreduce, whatever it sums", lambda m: m.constants.background_call),
    ("in training", "", 1.0, "what communication takes in a step, in relation to alone", lambda m: m.in_training),
    ("beyond", "ms", 1e3, "what communication takes on one node in a step besides, taken for that of stated networks",
     lambda m: m.beyond),
    ("computing, fixed", "ms", 1e3, "forward and backward, whatever the samples", lambda m: m.work.fixed),
    ("computing a sample", "ms", 1e3, "forward and backward", lambda m: m.work.per_sample),
    ("sharing", "%", 1e2, "computing takes longer if all cores of a node are busy", lambda m: m.work.sharing),
    ("data, fixed", "ms", 1e3, "whatever the samples", lambda m: m.work.data_fixed),
    ("data of a sample", "ms", 1e3, "gathering it", lambda m: m.work.data_per_sample),
    ("update", "ms", 1e3, "of all parameters", lambda m: m.work.update),
    ("other", "ms", 1e3, "what no timer covers", lambda m: m.work.other),
    ("deviation", "%", 1e2, "of computing between ranks, from which waiting follows", lambda m: m.work.deviation),
)  # fmt: skip
"""Name, unit, how many units a second (or 1) is, meaning, and where it is in a model."""


def band(value: float, drawn: Sequence[float]) -> Band:
    """A value, and between what BAND of the drawn ones lie; it lies within."""
    tail = (1 - BAND) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail]).tolist() if drawn else (value, value)
    return Band(value, min(low, value), max(high, value))
