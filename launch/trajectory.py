"""What a run computed at each step, as its log of digests tells (`ddp.observe.parameter_log`), and where two differ."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

DIGEST_LENGTH = 12


@dataclass(frozen=True)
class Moment:
    """One line of the log: a step, or an evaluation after it."""

    step: int
    digests: dict[str, str]
    """By the name of a tensor, or of a number that was logged."""


@dataclass(frozen=True)
class Difference:
    """The first place where two runs differ."""

    step: int
    names: tuple[str, ...]
    """What differs there, tensors first; empty if one of the runs has ended."""

    def __str__(self) -> str:
        """For the table: `step 3: 1.weight and 2 more`."""
        if not self.names:
            return f"step {self.step}: one of the two ends there"
        more = f" and {len(self.names) - 1} more" if len(self.names) > 1 else ""
        return f"step {self.step}: {self.names[0]}{more}"


@dataclass(frozen=True)
class Trajectory:
    """A run, from its initial parameters to its last evaluation."""

    moments: tuple[Moment, ...]

    @property
    def steps(self) -> int:
        """SGD steps done."""
        return self.moments[-1].step

    @property
    def digest(self) -> str:
        """Of everything: two runs that show the same one computed the same bits at each step."""
        lines = [[moment.step, moment.digests] for moment in self.moments]
        return hashlib.sha256(json.dumps(lines).encode()).hexdigest()[:DIGEST_LENGTH]

    def difference(self, other: Trajectory) -> Difference | None:
        """Where `other` first differs from this one; None if it never does."""
        for mine, theirs in zip(self.moments, other.moments, strict=False):
            names = [*mine.digests, *(theirs.digests.keys() - mine.digests.keys())]
            names = [name for name in names if mine.digests.get(name) != theirs.digests.get(name)]
            if names or mine.step != theirs.step:
                return Difference(min(mine.step, theirs.step), tuple(names))
        if len(self.moments) == len(other.moments):
            return None
        return Difference(min(self.steps, other.steps), ())


def read_trajectory(path: Path) -> Trajectory | None:
    """The run that wrote this log, without a line that was cut off; None if it did not come to its first step."""
    if not path.exists():
        return None
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    lines = [json.loads(line) for line in whole.splitlines()]
    moments = tuple(Moment(line["step"], line["digests"]) for line in lines)
    return Trajectory(moments) if moments and moments[-1].step > 0 else None
