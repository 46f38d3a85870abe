"""A study at work: from its settings to its measurements, and on from where it was interrupted."""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from launch.errors import UsageError
from launch.job import Request, find_available, requested_hosts
from launch.placement import Available, Plan, make_plan
from launch.scaling import progress
from launch.scaling.arguments import read_placement
from launch.scaling.progress import Display, Forecast, in_words
from launch.scaling.records import Measurement, Point, append, read_measurements
from launch.scaling.runs import RUNS, Recorded, RunFailed, Runner, run_arguments
from launch.scaling.study import FILE, WEAK, Run, Study, difference, read_study, steps_for, write_study
from launch.scaling.topology import Machines, look_at, machine_name, physical_cores
from launch.wording import count

POINTS = "points.jsonl"
RESULTS = (POINTS, "accuracy.jsonl", "jobs.json")
"""Files of a folder in which something is measured, or on its way."""
TRIAL = "trial"
"""The name of the run before all others."""
FIRST_STEPS, TRIAL_S, MOST_TRIAL_STEPS = 10, 1.0, 5000
"""Of the run that compiles the kernels, and of the trial that then finds out how long a step takes."""
HOPELESS = 2
"""Runs that have failed at a point without any success, after which its others are left out."""


@dataclass(frozen=True)
class Place:
    """Where a study runs."""

    available: tuple[Available, ...]
    machines: Machines
    bind: str = "auto"

    @property
    def cores(self) -> int:
        """Physical cores of all machines."""
        cores: dict[str, set[int]] = {}
        for each in self.available:
            cores.setdefault(machine_name(each), set()).update(each.cores)
        siblings = self.machines.siblings
        return sum(physical_cores(numbers, siblings.get(machine, ())) for machine, numbers in cores.items())

    def plan(self, ranks: int, threads: int) -> Plan:
        """Who runs where.

        Raises:
            UsageError: if there are not as many slots, or cores to bind to.
        """
        slots = [each.host.slots for each in self.available]
        if None not in slots and (there := sum(slot or 0 for slot in slots)) < ranks:
            raise UsageError(
                f"--ranks {ranks}: the hosts have {count(there, 'slot')}; give at most as many ranks, or more slots"
            )
        return make_plan(ranks, threads, "core" if self.bind == "core" else "none", self.available)


def find_place(placement: Sequence[str]) -> Place:
    """Ask the hosts that these options of `launch run` name, or those of this batch job, what they have.

    Raises:
        UsageError: for options that make no sense.
        HostError: if a host does not answer.
    """
    options = read_placement(placement)
    hosts, is_allocated = requested_hosts(options.hosts, options.hostfile, os.environ)
    available = find_available(Request(1, 1, options.bind, tuple(hosts), is_allocated))
    return Place(tuple(available), look_at(available), options.bind)


def open_folder(folder: Path, study: Study) -> tuple[Study, int]:
    """Make a study's folder, or go on with the study that it holds; and a descriptor that keeps others out.

    Raises:
        UsageError: if it holds another study, or something else, or cannot be written to.
    """
    try:
        (folder / RUNS).mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UsageError(
            f"--output {folder}: {error.strerror}; give a folder that can be made and written to"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise UsageError(f"--output {folder}: another process is at work there; wait for it, or give another") from None
    except OSError:  # a file system without locks
        pass
    try:
        study = _agreed(folder, study)
        write_study(folder, study)
    except OSError as error:
        os.close(lock)
        raise UsageError(f"--output {folder}: {error.strerror}; give a folder that can be written to") from None
    except UsageError:
        os.close(lock)
        raise
    return study, lock


def _agreed(folder: Path, study: Study) -> Study:
    """The study that the folder holds, if it is the same; a new one only in a folder with nothing else."""
    if (folder / FILE).exists():
        old = read_study(folder)
        if not any((folder / name).exists() for name in RESULTS):  # a mistake that has been mended
            return study
        if different := difference(old, study):
            raise UsageError(f"{folder} holds another study: {different}; give the same, or another --output")
        settings = replace(old.settings, repeats=study.settings.repeats)
        new = replace(old, settings=settings, command=study.command, timeout_s=study.timeout_s)
        return replace(new, networks=study.networks or old.networks)
    if others := sorted(path.name for path in folder.iterdir() if path.name != RUNS):
        raise UsageError(f"--output {folder}: no study, but it holds {others[0]}; give a new or empty folder")
    return study


@dataclass
class Session:
    """A study that is being made; one process at a time."""

    folder: Path
    study: Study
    place: Place
    runner: Runner
    lock: int = -1
    """The descriptor that keeps other processes out, as long as this one lives."""
    measurements: list[Measurement] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Read what has been measured."""
        try:
            self.measurements = read_measurements(self.folder / POINTS)
        except ValueError as error:
            raise UsageError(str(error)) from None
        self.forecast = Forecast(self.study.steps, self.place.cores)
        for one in self.measurements:
            self.forecast.add(one.point, one.step_ms, one.wall_s)
        self.failed: Counter[Point] = Counter()

    def trial(self) -> None:
        """Compile all kernels, and find out how many steps a run has, unless that is known; raises as `Runner.train`.

        Raises:
            UsageError: if there are too few samples.
        """
        if self.measurements:
            return
        study = self.study
        ranks, threads = study.baseline_ranks, min(study.settings.threads)
        point = next(point for point in study.points() if (point.ranks, point.threads) == (ranks, threads))
        steps = min(FIRST_STEPS, study.settings.steps or FIRST_STEPS)
        step_s, wall_s = self._try(point, steps)
        if not study.settings.steps and steps * step_s < TRIAL_S:
            steps = min(round(TRIAL_S / step_s), MOST_TRIAL_STEPS)
            step_s, wall_s = self._try(point, steps)
        if not study.steps:
            self.study = study.with_steps(study.settings.steps or steps_for(step_s, study.least_steps))
            write_study(self.folder, self.study)
        self.forecast.steps = self.study.steps
        self.forecast.add(point, step_s * 1e3, wall_s, steps)

    def _try(self, point: Point, steps: int) -> tuple[float, float]:
        """Seconds of a step, and of the whole run."""
        arguments = run_arguments(self.study, point, steps, max(1, steps // 2))
        recorded, facts = self.runner.train(TRIAL, point.ranks, point.threads, arguments)
        self._check_samples(recorded)
        return recorded.steps[-1]["step_ms"] / 1e3, facts["wall_s"]

    def _check_samples(self, recorded: Recorded) -> None:
        """Weak scaling needs as many samples as its largest batch, else the trainer refuses, an hour from now."""
        samples, data = recorded.start["samples"]["train"], recorded.start["data"]
        largest = max(self.study.points(), key=lambda point: point.batch)
        if largest.batch > samples:
            raise UsageError(
                f"--ranks {largest.ranks}: {WEAK} scaling needs a batch of {largest.batch}, but {data} has only"
                f" {samples} training samples; give fewer ranks, a smaller --batch.size after the --, or --mode strong"
            )

    def make_runs(self, todo: Sequence[Run], show: Display, extras: tuple[int, int]) -> list[Run]:
        """Make runs, those that fail once more at the end; those that have failed for good.

        Args:
            todo: in their order.
            show: where progress is shown.
            extras: how many traces and measurements of collectives come after them, for the time that is left.
        """
        failed: list[Run] = []
        for number, run in enumerate(todo):
            if not self._attempt(run, show, [*todo[number:], *failed], extras):
                failed.append(run)
        lost = []
        self.failed = Counter(dict.fromkeys(self.failed, HOPELESS - 1))  # one more chance for each point
        for number, run in enumerate(failed):
            if not self._attempt(run, show, failed[number:], extras, is_last=True):
                lost.append(run)
        return lost

    def _attempt(
        self, run: Run, show: Display, left: Sequence[Run], extras: tuple[int, int], is_last: bool = False
    ) -> bool:
        if self.failed[run.point] >= HOPELESS and all(one.point != run.point for one in self.measurements):
            return False
        total = len(self.study.runs())
        show.begin(in_words(run.point), self.forecast.left_s(left, *extras))
        self.runner.expected_s = self.forecast.run_s(run.point)
        try:
            measured = self.measure(run)
        except RunFailed as failure:
            self.failed[run.point] += 1
            if is_last:
                show.say(f"error: run {run.name} failed again: {failure}")
            else:
                show.say(f"error: run {run.name} failed: {failure}; its last lines:\n{failure.tail}")
            return False
        number = total - len(self.study.missing(self.measurements))
        show.done(progress.result_line(number, total, measured), self.forecast.left_s(left[1:], *extras))
        return True

    def measure(self, run: Run, points: Path | None = None) -> Measurement:
        """Make one run, and keep what it measured; raises what `Runner.measure` does."""
        plan = self.place.plan(run.point.ranks, run.point.threads)
        measured = self.runner.measure(self.study, run, plan, self.place.machines)
        append(points or self.folder / POINTS, [measured.line()])
        self.measurements.append(measured)
        self.forecast.add(measured.point, measured.step_ms, measured.wall_s)
        return measured


def in_short(study: Study) -> str:
    """What a study is going to do, in a line."""
    settings = study.settings
    modes = {"both": "strong and weak"}.get(settings.mode, settings.mode)
    threads = "/".join(map(str, settings.threads))
    return (
        f"{study.title}: {modes} scaling on {', '.join(map(str, settings.ranks))} ranks x {threads}"
        f" {'thread' if settings.threads == (1,) else 'threads'}, {count(len(study.points()), 'point')} x"
        f" {count(settings.repeats, 'repeat')} of {count(study.steps, 'step')}"
    )
