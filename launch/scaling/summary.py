"""What the runs of a study come to: a row for each point, with its efficiency and how sure that is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from launch.scaling.factors import Factors, StepTimes, split, step_times
from launch.scaling.flags import Flag, flags_of_point, spread
from launch.scaling.records import Measurement, Point
from launch.scaling.study import Curve
from launch.wording import count

CONFIDENCE = 0.95
RESAMPLES = 2000
SEED = 0
"""Of the bootstrap: the same runs always give the same intervals."""
GOOD = 0.8
"""An efficiency below this is worth an explanation."""


@dataclass(frozen=True)
class Interval:
    """A value, and between what it lies with CONFIDENCE; None if there were too few repeats to say."""

    value: float
    low: float | None = None
    high: float | None = None

    def times(self, factor: float) -> Interval:
        """All three times a factor."""
        if self.low is None or self.high is None:
            return Interval(self.value * factor)
        return Interval(self.value * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Row:
    """A point of one series: medians over its repeats."""

    point: Point
    repeats: int
    hosts: tuple[str, ...]
    """By rank."""
    cores: int
    """Physical cores for all ranks."""
    times: StepTimes
    spread: float
    """(Slowest - fastest) / median of the repeats' step times."""
    uncovered: float
    """The largest part of a step that no timer covered."""
    speed_up: Interval
    """Of samples a second, over the baseline."""
    efficiency: Interval
    """`speed_up` / how many times more ranks than the baseline."""
    factors: Factors
    reducers: tuple[str, ...]
    """Those that ran: several if `auto` did not always choose the same one."""
    flags: tuple[Flag, ...]
    is_baseline: bool

    @property
    def is_doubtful(self) -> bool:
        """Whether it is drawn and marked as such."""
        return bool(self.flags)


@dataclass(frozen=True)
class Series:
    """Points to be compared: one mode, one number of threads of each rank."""

    mode: str
    """strong: the global batch stays; weak: that of a rank stays."""
    threads: int
    rows: tuple[Row, ...]
    """By ranks; the first is the baseline."""

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.mode} scaling, {count(self.threads, 'thread')} a rank"

    @property
    def baseline(self) -> Row:
        """What all others are compared with."""
        return self.rows[0]

    @property
    def others(self) -> tuple[Row, ...]:
        """Without the baseline."""
        return self.rows[1:]


def summarise(measurements: Iterable[Measurement], curves: Sequence[Curve]) -> list[Series]:
    """The series of a study, as far as it was measured; those of a baseline alone only if there is nothing better.

    Args:
        measurements: its runs, in any order.
        curves: which points are to be compared.
    """
    runs: defaultdict[Point, list[Measurement]] = defaultdict(list)
    for run in measurements:
        runs[run.point].append(run)
    found = []
    for curve in curves:
        points = [runs[point] for point in sorted(curve.points) if point in runs]
        if points:
            rows = [_row(repeats, points[0]) for repeats in points]
            found.append(Series(curve.mode, curve.threads, tuple(rows)))
    compared = {series.threads for series in found if series.others}
    told: set[int] = set()
    kept = []
    for series in found:  # a baseline alone belongs to both modes, and is told once
        if series.others or series.threads not in compared | told:
            kept.append(series)
            told.add(series.threads)
    return kept


def _row(repeats: Sequence[Measurement], baseline: Sequence[Measurement]) -> Row:
    times, theirs = step_times(repeats), step_times(baseline)
    is_baseline = repeats is baseline
    speed_up = Interval(1.0) if is_baseline else ratio(_speeds(repeats), _speeds(baseline))
    return Row(
        repeats[0].point,
        len(repeats),
        repeats[0].hosts,
        min(run.cores for run in repeats),
        times,
        spread(repeats),
        max(run.uncovered for run in repeats),
        speed_up,
        speed_up.times(theirs.ranks / times.ranks),
        split(times, theirs),
        tuple(sorted({run.reducer for run in repeats})),
        flags_of_point(repeats, baseline),
        is_baseline,
    )


def _speeds(repeats: Sequence[Measurement]) -> list[float]:
    return [run.samples_per_s for run in repeats]


def ratio(values: Sequence[float], others: Sequence[float]) -> Interval:
    """The ratio of the medians; its interval by drawing both anew from the repeats (percentile bootstrap, seeded)."""
    middle = median(values) / median(others)
    if min(len(values), len(others)) < 2:
        return Interval(middle)
    import numpy as np
    from scipy.stats import bootstrap

    def statistic(ours: Any, theirs: Any, axis: int = -1) -> Any:
        return np.median(ours, axis=axis) / np.median(theirs, axis=axis)

    interval = bootstrap(
        (np.asarray(values), np.asarray(others)),
        statistic,
        n_resamples=RESAMPLES,
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return Interval(middle, float(interval.low), float(interval.high))


def threshold(series: Series, least: float = GOOD) -> tuple[int | None, int | None]:
    """The most ranks before efficiency falls below `least`, and the fewest measured with less; None if there are none.

    A point behind the first that is too bad does not count, however good it is.
    """
    good = None
    for row in series.rows:
        if row.efficiency.value < least:
            return good, row.point.ranks
        good = row.point.ranks
    return good, None
