"""Starts a failed job again, from its newest checkpoint: `--max-restarts`."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.outcome import describe
from launch.supervise import EXIT_RESUMABLE, Ended
from launch.trainer_arguments import option_values, resuming, run_directory, with_run_name

FINAL = {0, 2, 3, EXIT_RESUMABLE, 128 + signal.SIGINT}
"""Exit codes after which another start would help nothing, or is not wanted: done, the user's mistake, numbers that
are not finite, interrupted. All others mean that a rank, a host, the network or mpirun failed."""


@dataclass(frozen=True)
class Change:
    """What is different at the next start, for the line about it."""

    without: str = ""
    """Such as ` without node3`; empty if all hosts answer."""
    place: str = ""
    """Such as `4 ranks on node1, node2`; where no start is possible, the reason."""
    is_possible: bool = True


def run_with_restarts(
    start: Callable[[Sequence[str]], Ended],
    trainer: Sequence[str],
    max_restarts: int,
    say: Callable[[str], object],
    leave_out_dead: Callable[[], Change] = lambda: Change(),
) -> Ended:
    """Run a job; when it fails, run it again from where it was, at most `max_restarts` times.

    Args:
        start: runs the job with these arguments of the trainer to its end; plans anew each time, with what is
            there at that time.
        trainer: the trainer's arguments.
        max_restarts: how often; the count does not begin anew when the job makes progress.
        say: takes the one line about each restart.
        leave_out_dead: leaves hosts that no longer answer out of the next start, and says what that changes.

    Returns:
        How the last run ended.
    """
    trainer = with_run_name(trainer)
    run = run_directory(trainer)
    before = checkpoints(run)
    arguments: Sequence[str] = trainer
    restarts = 0
    while True:
        ended = start(arguments)
        if ended.was_signalled or ended.code in FINAL or restarts == max_restarts:
            return ended
        change = leave_out_dead()
        if not change.is_possible:
            say(f"error: no restart{change.without}: {change.place}")
            return ended
        restarts += 1
        arguments = next_arguments(trainer, run, before)
        newest = max(checkpoints(run), default=None, key=lambda path: path.name)
        where = f"checkpoint {newest.stem}" if newest else "the start"
        place = f"{change.place}; " if change.place else ""
        say(
            f"restart {restarts} of {max_restarts}{change.without}: {place}the job failed ({describe(ended.code)});"
            f" {run} goes on from {where}"
        )


def checkpoints(run: Path) -> dict[Path, int]:
    """The checkpoints of a run, and when each was written, in nanoseconds."""
    return {path: path.stat().st_mtime_ns for path in (run / "checkpoints").glob("step-*.safetensors")}


def next_arguments(trainer: Sequence[str], run: Path, before: Mapping[Path, int]) -> list[str]:
    """The trainer's arguments for a further start.

    A run that was to go on from a given checkpoint does so again, until there are others than those `before`.
    """
    given = option_values(trainer, "resume")
    if given and checkpoints(run).items() <= before.items():
        return list(trainer)
    return resuming(trainer)
