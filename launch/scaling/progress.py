"""What a study shows while it runs: where it is, and how long it still takes."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from launch.scaling.records import Measurement, Point
from launch.scaling.study import Run
from launch.wording import count

COLLECTIVES_S = 30.0
"""What measuring the collectives at one number of ranks takes, before it was done once."""


def in_words(point: Point) -> str:
    """Such as `2 ranks x 1 thread, batch 64`."""
    return f"{count(point.ranks, 'rank')} x {count(point.threads, 'thread')}, batch {point.batch}"


def clock(seconds: float) -> str:
    """How long, as one says it: `40 s`, `3 min`, `1 h 20 min`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class Forecast:
    """How long runs take: as those of the same point have, else as one of another point lets expect."""

    def __init__(self, steps: int, cores: int) -> None:
        """Take the steps of each run, and the cores that there are."""
        self.steps, self.cores = steps, cores
        self._walls: dict[Point, list[float]] = {}
        self._known: dict[Point, tuple[float, float]] = {}
        self._extras: list[float] = []

    def add(self, point: Point, step_ms: float, wall_s: float, steps: int = 0) -> None:
        """A run took so long; `steps` if it is not one of the study's own."""
        known = max(0.0, wall_s - step_ms * (steps or self.steps) / 1e3), step_ms
        if steps:
            self._known.setdefault(point, known)
        else:
            self._walls.setdefault(point, []).append(wall_s)
            self._known[point] = known

    def add_extra(self, wall_s: float) -> None:
        """The collectives of one number of ranks took so long."""
        self._extras.append(wall_s)

    def run_s(self, point: Point) -> float:
        """Of a run; 0 if nothing is known."""
        if walls := self._walls.get(point):
            return statistics.median(walls)
        if not self._known:
            return 0.0
        same = [known for known in self._known if known.threads == point.threads]
        nearest = min(same or self._known, key=lambda known: abs(known.ranks - point.ranks))
        start_s, step_ms = self._known[nearest]
        work = point.batch / nearest.batch * self._at_once(nearest) / self._at_once(point)
        return start_s + step_ms * work * self.steps / 1e3

    def _at_once(self, point: Point) -> int:
        return min(point.ranks * point.threads, max(1, self.cores))

    def left_s(self, runs: Iterable[Run], traces: int, collectives: int) -> float:
        """Of all that is still to do; 0 if nothing is known."""
        runs = list(runs)
        if not self._known:
            return 0.0
        start_s = min(start for start, _ in self._known.values())
        extra_s = statistics.median(self._extras) if self._extras else COLLECTIVES_S
        return sum(self.run_s(run.point) for run in runs) + traces * start_s + collectives * extra_s


class Display(Protocol):
    """Where progress is shown."""

    def begin(self, what: str, left_s: float) -> None:
        """Something begins; with it, so long is left."""

    def done(self, line: str, left_s: float) -> None:
        """It is over; so long is left."""

    def say(self, line: str) -> None:
        """Show a line that stays."""


class PlainDisplay:
    """A line for each thing that is over."""

    def begin(self, what: str, left_s: float) -> None:
        """Say nothing yet."""

    def done(self, line: str, left_s: float) -> None:
        """Say what came of it."""
        self.say(line + (f"; {clock(left_s)} left" if left_s else ""))

    def say(self, line: str) -> None:
        """Print it, errors on standard error."""
        stream = sys.stderr if line.startswith(("error: ", "warning: ")) else sys.stdout
        stream.write(line + "\n")
        stream.flush()


@contextmanager
def display(done: int, total: int) -> Iterator[Display]:
    """A live display on a terminal, lines elsewhere.

    Args:
        done: of the things to do, those of an earlier time.
        total: all of them.
    """
    if not sys.stdout.isatty():
        yield PlainDisplay()
        return
    from rich.console import Console  # here, since it takes long to load
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
    from rich.text import Text

    class Left(ProgressColumn):
        def render(self, task: Task) -> Text:
            left_s = task.fields["left_s"] - (time.monotonic() - task.fields["since"])
            return Text(f"{clock(left_s)} left" if left_s > 0 else "", style="cyan")

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Left())
    console = Console(highlight=False)
    with Progress(*columns, console=console, refresh_per_second=1, transient=True) as progress:
        task = progress.add_task("", total=total, completed=done, left_s=0.0, since=time.monotonic())

        class Live:
            def begin(self, what: str, left_s: float) -> None:
                progress.update(task, description=what, left_s=left_s, since=time.monotonic())

            def done(self, line: str, left_s: float) -> None:
                console.print(line, markup=False, soft_wrap=True)
                progress.update(task, advance=1, left_s=left_s, since=time.monotonic())

            def say(self, line: str) -> None:
                style = "red" if line.startswith("error: ") else None
                console.print(line, markup=False, style=style, soft_wrap=True)

        yield Live()


def result_line(number: int, total: int, measured: Measurement) -> str:
    """What came of a run: `run 3 of 20: 2 ranks x 1 thread, batch 64: 11.2 ms a step`."""
    return f"run {number} of {total}: {in_words(measured.point)}: {measured.step_ms:.4g} ms a step"
