"""What a study measures beside its points, for the model: a trace, and what the collectives cost."""

from __future__ import annotations

import time
from pathlib import Path

from launch.errors import UsageError
from launch.scaling.collectives import FILE, MeasurementError, measure, report_size
from launch.scaling.progress import Display
from launch.scaling.records import read_lines
from launch.scaling.runs import RunFailed
from launch.scaling.session import Session
from launch.wording import count


class Extras:
    """Runs that are no points: a traced one for each number of threads, and the collectives at all ranks."""

    def __init__(self, session: Session) -> None:
        """Find out which are missing.

        Raises:
            UsageError: if what there is cannot be read.
        """
        self.session = session
        settings, folder = session.study.settings, session.folder
        self.traces = [
            threads for threads in settings.threads if not list(folder.glob(f"runs/trace-threads-{threads}/trace-*"))
        ]
        known = _known(folder / FILE)
        self.collectives = [
            (ranks, threads)
            for threads in settings.threads
            for ranks in settings.ranks
            if ranks > 1 and (ranks, threads) not in known
        ]

    @property
    def number(self) -> tuple[int, int]:
        """How many there are of each."""
        return len(self.traces), len(self.collectives)

    def make(self, show: Display) -> None:
        """Make them; what fails is said, and leaves its part of the report out."""
        if self.session.measurements:  # else there is nothing to be explained
            while self.traces:
                self._trace(show)
            while self.collectives:
                self._measure(show)

    def _left_s(self) -> float:
        return self.session.forecast.left_s([], *self.number)

    def _trace(self, show: Display) -> None:
        what = f"a trace of 1 rank x {count(self.traces[0], 'thread')}"
        show.begin(what, self._left_s())
        try:
            self.session.runner.trace(self.session.study, self.traces.pop(0))
        except (RunFailed, UsageError) as failure:
            show.say(f"warning: {what} failed ({failure}): the report tells nothing of hidden communication")
        else:
            show.done(what, self._left_s())

    def _measure(self, show: Display) -> None:
        ranks, threads = self.collectives[0]
        what = f"the collectives of {ranks} ranks x {count(threads, 'thread')}"
        show.begin(what, self._left_s())
        began = time.monotonic()
        problem = measure_collectives(self.session, *self.collectives.pop(0), self.session.folder)
        self.session.forecast.add_extra(time.monotonic() - began)
        if problem:
            show.say(f"warning: {problem}: they are not part of the model")
        else:
            show.done(what, self._left_s())


def _known(path: Path) -> set[tuple[int, int]]:
    """Ranks and threads of the collectives that were measured."""
    try:
        return {(int(line["ranks"]), int(line["threads"])) for line in read_lines(path)}
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} has a line that is no measurement ({error}): remove that line") from None


def measure_collectives(session: Session, ranks: int, threads: int, folder: Path) -> str:
    """Append what the collectives cost at so many ranks to `folder`/collectives.jsonl; what went wrong, if anything."""
    study = session.study
    facts = session.measurements[-1].provenance
    tensors = facts["tensor_bytes"]
    reports = report_size(study.shards, len(tensors), facts.get("statistics", 0))
    bucket_mb = float(study.config["comm"]["bucket_mb"])
    try:
        measure(ranks, threads, study.settings.placement, tensors, folder, bucket_mb=bucket_mb, report_bytes=reports)
    except MeasurementError as failure:
        return str(failure)
    return ""
