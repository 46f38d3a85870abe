"""Starts a failed job again, from its newest checkpoint: `--max-restarts`."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from launch.supervise import EXIT_RESUMABLE, Ended
from launch.trainer_arguments import option_values, resuming, run_directory, with_run_name

EXIT_FAILURE = 4
FINAL = {0, 2, 3, EXIT_RESUMABLE, 128 + signal.SIGINT}
"""Exit codes after which another start would help nothing, or is not wanted: done, the user's mistake, numbers that
are not finite, interrupted. All others mean that a rank, a host, the network or mpirun failed."""


def run_with_restarts(
    start: Callable[[Sequence[str]], Ended],
    trainer: Sequence[str],
    max_restarts: int,
    say: Callable[[str], object],
) -> int:
    """Run a job; when it fails, run it again from where it was, at most `max_restarts` times.

    Args:
        start: runs the job with these arguments of the trainer to its end; plans anew each time, with what is
            there at that time.
        trainer: the trainer's arguments.
        max_restarts: how often; the count does not begin anew when the job makes progress.
        say: takes the one line about each restart.

    Returns:
        The exit code of the last run; EXIT_FAILURE where that is 0 although the run did not come to its end.
    """
    trainer = with_run_name(trainer)
    run = run_directory(trainer)
    before = checkpoints(run)
    arguments: Sequence[str] = trainer
    restarts = 0
    while True:
        ended = start(arguments)
        code = EXIT_FAILURE if ended.code == 0 and not is_complete(run) else ended.code
        if ended.was_signalled or code in FINAL or restarts == max_restarts:
            return code
        restarts += 1
        arguments = next_arguments(trainer, run, before)
        newest = max(checkpoints(run), default=None, key=lambda path: path.name)
        where = f"checkpoint {newest.name}" if newest else "the start"
        say(f"restart {restarts} of {max_restarts}: the job failed ({describe(code)}); {run} goes on from {where}")


def describe(code: int) -> str:
    """An exit code in words."""
    names = {128 + number: number.name for number in signal.Signals}
    return f"exit code {code}, {names[code]}" if code in names else f"exit code {code}"


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


def is_complete(run: Path) -> bool:
    """Whether the last event of a run's log is its end; also where there is no log, as after --help.

    Open MPI's mpirun ends with 0 when it has lost a host.
    """
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
        return bool(lines) and json.loads(lines[-1])["event"] == "end"
    except FileNotFoundError:
        return True
    except ValueError:
        return False
