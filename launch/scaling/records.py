"""What a scaling study has measured: one line of `points.jsonl` a run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from launch.errors import UsageError

PHASES = ("data", "forward", "backward", "update", "comm", "wait", "other")
"""Where a step's time goes, means over the ranks: comm is exposed communication, wait is waiting for the slowest rank,
other is what no timer covers. Together they are the step."""


@dataclass(frozen=True, order=True)
class Point:
    """What runs: a study visits each of its points several times."""

    ranks: int
    threads: int
    """Of each rank."""
    batch: int
    """Samples of a step, over all ranks."""
    shards: int
    """Logical shards of the batch."""

    @property
    def name(self) -> str:
        """For files and messages: `ranks-2-threads-1-batch-64`."""
        return f"ranks-{self.ranks}-threads-{self.threads}-batch-{self.batch}"


@dataclass(frozen=True)
class Measurement:
    """One run at a point. Milliseconds are of one step."""

    point: Point
    repeat: int
    run: str
    """The run directory's name."""
    started_at: str
    """UTC, as `2026-01-31T12:00:00Z`."""
    wall_s: float
    """The whole run, start-up included."""
    steps: int
    """Those that are counted: without the warm-up."""
    records_ms: tuple[float, ...]
    """Mean step time of each counted `step` record."""
    step_ms: float
    """Median of `records_ms`."""
    phases_ms: dict[str, float]
    """By PHASES: of each the median over the records, scaled so that they sum to `step_ms`."""
    uncovered: float
    """The part of the step that no timer covered, before `other` was made of it: 0.01 is 1 %."""
    samples_per_s: float
    reducer: str
    """The one that ran: if `auto` chose, its choice."""
    exact: bool
    parameters: int
    parameters_sha256: str
    slowest: dict[str, float]
    """By rank, as text, the part of the records in which it worked longest: a rank that is always named is slow."""
    hosts: tuple[str, ...]
    """By rank."""
    cores: int
    """Physical cores for all ranks together, as far as their affinity masks allow; hosts of one kernel counted once."""
    flags: tuple[str, ...] = ()
    """What makes the run doubtful (`launch.scaling.flags`)."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """The `start` record (versions, CPU, MPI library, affinity, revision, ...) and the command."""

    def line(self) -> str:
        """As a line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":")) + "\n"


def append(path: Path, lines: Iterable[str]) -> None:
    """Add lines to a file, and wait until they are on the disk: a study that is ended goes on from what is there."""
    with path.open("ab+") as file:
        file.seek(0)
        text = file.read()
        file.truncate(text.rfind(b"\n") + 1)  # a line that was cut off
        file.write("".join(lines).encode())
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; a last line that was cut off is left out, as is a file that is not there.

    Raises:
        UsageError: if another line is no JSON object, naming it.
    """
    if not path.exists():
        return []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    lines = whole.splitlines()
    objects = []
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError(f"{path}, line {number} is no JSON ({error.msg}): remove that line") from None
        if not isinstance(value, dict):
            raise UsageError(f"{path}, line {number} is no JSON object: remove that line")
        objects.append(value)
    return objects


def read_measurements(path: Path) -> list[Measurement]:
    """All runs of a study so far.

    Raises:
        UsageError: if a line cannot be read, naming it.
    """
    measurements = []
    for number, values in enumerate(read_lines(path), 1):
        try:
            point = Point(**values.pop("point"))
            lists = {name: tuple(values[name]) for name in ("records_ms", "hosts", "flags")}
            measurements.append(Measurement(point=point, **(values | lists)))
        except (KeyError, TypeError) as error:
            raise UsageError(f"{path}, line {number} is no measurement ({error}): remove that line") from None
    return measurements
