"""`python -m launch verify`: the same job on different ranks and threads, compared bit for bit at every step."""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch import supervise
from launch.argument_types import positive
from launch.discovery import Launcher, Library, find_launcher
from launch.errors import UsageError
from launch.job import Request, build_job
from launch.placement import available_here
from launch.table import growing_table
from launch.trajectory import Difference, Trajectory, read_trajectory
from launch.wording import count

EXIT_DIFFERENT = 1
TAIL_LINES = 12
HEADINGS, WIDTHS = ("ranks", "threads", "steps", "digest", "bits"), (5, 7, 5, 12, 40)
OWN_OPTIONS = {"--threads": "--threads", "--train.steps": "--steps"}
"""What must stand before the `--`, by what it would be after it."""
NO_FILES = ("--checkpoint.every_steps", "0", "--checkpoint.every_epochs", "0")

_STOPPED = {128 + number: 128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
_STOPPED[supervise.EXIT_RESUMABLE] = 128 + signal.SIGTERM  # with a checkpoint, which is not kept


@dataclass(frozen=True)
class Point:
    """How many ranks run, with how many threads each."""

    ranks: int
    threads: int

    def __str__(self) -> str:
        """In words."""
        return f"{count(self.ranks, 'rank')} x {count(self.threads, 'thread')}"


@dataclass(frozen=True)
class Outcome:
    """What became of the job at a point."""

    point: Point
    code: int
    trajectory: Trajectory | None
    output: str


class Interrupted(Exception):
    """A signal ended a point's job, and so the whole command; `code` is its exit code."""

    def __init__(self, code: int) -> None:
        """Take the exit code."""
        super().__init__(code)
        self.code = code


class Job:
    """The job that every point runs."""

    def __init__(self, program: Sequence[str], trainer: Sequence[str], launcher: Launcher, folder: Path) -> None:
        """Take what each rank runs, its arguments, the MPI, and a folder for everything that it writes."""
        self.program, self.trainer, self.launcher, self.folder = program, trainer, launcher, folder

    def config(self) -> dict[str, Any]:
        """The configuration that the arguments mean, as the trainer itself resolves it.

        Raises:
            UsageError: if it refuses them.
        """
        code, output, errors = self._start(Point(1, 1), ["--print-config"], {}, self.folder / "config")
        try:
            if code == 0:
                return tomllib.loads(output)
        except tomllib.TOMLDecodeError:
            pass
        sys.stderr.write(_tail(output + errors) + "\n")
        raise UsageError(f"the trainer shows no configuration but the lines above, with exit code {code}")

    def run(self, point: Point, arguments: Sequence[str]) -> Outcome:
        """Train at a point, with arguments beside the job's own."""
        name = f"ranks-{point.ranks}-threads-{point.threads}"
        log = self.folder / f"{name}.jsonl"
        own = ("--threads", str(point.threads), "--output.dir", str(self.folder), "--output.name", name, *NO_FILES)
        variables = {"DDP_PARAMETER_LOG": str(log)}
        code, output, errors = self._start(point, [*arguments, *own], variables, log.with_suffix(""))
        return Outcome(point, code, read_trajectory(log), output + errors)

    def _start(
        self, point: Point, arguments: Sequence[str], variables: Mapping[str, str], stem: Path
    ) -> tuple[int, str, str]:
        """Run the program through mpirun, even on one rank; its exit code, output and errors.

        Raises:
            Interrupted: after a signal.
            UsageError: if the trainer says that its user has made a mistake.
        """
        request = Request(point.ranks, point.threads, "none", variables=variables)
        program = [*self.program, *self.trainer, *arguments]
        job = build_job(request, self.launcher, program, available_here())
        texts = stem.with_suffix(".out"), stem.with_suffix(".err")
        with texts[0].open("wb") as output, texts[1].open("wb") as errors:
            code = supervise.run(job.command, {**os.environ, **job.environment}, output=output, errors=errors)
        if code in _STOPPED:
            raise Interrupted(_STOPPED[code])
        out, err = (path.read_text(errors="replace") for path in texts)
        mistakes = [line.removeprefix("error: ") for line in err.splitlines() if line.startswith("error: ")]
        if code == 2 and mistakes:
            raise UsageError(mistakes[0])
        return code, out, err


def run(
    options: argparse.Namespace, program: Sequence[str], trainer: Sequence[str], library: Callable[[], Library]
) -> int:
    """Run the command; 0 if all points computed the same bits, else EXIT_DIFFERENT.

    Raises:
        UsageError: for the user's mistakes, those in the trainer's arguments too.
    """
    points = [Point(ranks, threads) for ranks, threads in itertools.product(options.ranks, options.threads)]
    if len(points) < 2:
        raise UsageError(
            f"{points[0]} alone has nothing to be compared with: give --ranks or --threads several numbers"
        )
    for argument in trainer:
        if own := OWN_OPTIONS.get(argument.partition("=")[0]):
            raise UsageError(f"{argument} after the --: give {own} before it")
    launcher = find_launcher(library(), options.mpi)
    with tempfile.TemporaryDirectory(prefix="ddp-verify-") as folder:
        job = Job(program, trainer, launcher, Path(folder))
        try:
            config = job.config()
            shards = shards_for(max(options.ranks), config, trainer)
            _say(
                f"{config['model']['name']} on {config['data']['name']}, {count(options.steps, 'step')} at each of"
                f" {len(points)} points, batch.shards = {shards}, comm.exact = {str(config['comm']['exact']).lower()},"
                f" {launcher.flavour.name}"
            )
            return _compare(points, job, ["--train.steps", str(options.steps), "--batch.shards", str(shards)])
        except Interrupted as interruption:
            return interruption.code


def _compare(points: Sequence[Point], job: Job, arguments: Sequence[str]) -> int:
    """Run all points, showing each beside the first one; the exit code."""
    reference: Outcome | None = None
    differing: list[tuple[Difference, Point]] = []
    failed: list[Outcome] = []
    with growing_table(HEADINGS, WIDTHS) as table:
        for point in points:
            outcome = job.run(point, arguments)
            trajectory = outcome.trajectory
            place = str(point.ranks), str(point.threads)
            if outcome.code != 0 or trajectory is None:
                failed.append(outcome)
                table.add([*place, "", "", f"failed: exit code {outcome.code}"], is_good=False)
                continue
            reference = reference or outcome
            assert reference.trajectory is not None
            difference = reference.trajectory.difference(trajectory)
            if difference is not None:
                differing.append((difference, point))
            same = "the reference" if outcome is reference else "the same"
            verdict = same if difference is None else f"differ from {difference}"
            table.add([*place, str(trajectory.steps), trajectory.digest, verdict], is_good=difference is None)
    for outcome in failed:
        _say(f"error: {outcome.point} failed with exit code {outcome.code}; its last lines:\n{_tail(outcome.output)}")
    if differing and reference is not None:
        first, where = min(differing, key=lambda pair: pair[0].step)
        of = f"{len(differing)} of {count(len(points), 'point')}"
        _say(f"error: {of} differ from {reference.point}, first {where} at {first}")
    if differing or failed:
        return EXIT_DIFFERENT
    _say(f"the same bits at all {len(points)} points, at every step")
    return 0


def shards_for(ranks: int, config: dict[str, Any], trainer: Sequence[str]) -> int:
    """Logical shards of every point: so many that the largest number of ranks has work, unless the user decides."""
    shards, size = int(config["batch"]["shards"]), int(config["batch"]["size"])
    if any(argument.partition("=")[0] == "--batch.shards" for argument in trainer):
        return shards
    return max(shards, min(ranks, size))


def add_parser(commands: Any) -> None:
    """Add the command to those of `python -m launch`."""
    parser = commands.add_parser(
        "verify",
        help="train the same job on different ranks and threads, and compare every bit",
        description="Train the same job at each point (ranks x threads), compare all parameters, losses and "
        "evaluations after every step, and name the first step and tensor that differ.",
        usage="%(prog)s [options] [-- ddp.train arguments]",
        epilog="Exit code: 0 all bits are the same; 1 some differ, or a point failed; 2 a mistake in the arguments. "
        "Nothing is left on disk. batch.shards is raised to the largest number of ranks unless it is given.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--ranks", type=_numbers, default=[1, 2, 3, 5, 8], metavar="P,...", help="numbers of ranks (default: 1,2,3,5,8)"
    )
    parser.add_argument(
        "--threads", type=_numbers, default=[1, 2], metavar="T,...", help="numbers of threads per rank (default: 1,2)"
    )
    parser.add_argument("--steps", type=positive, default=20, metavar="N", help="SGD steps (default: %(default)s)")
    parser.add_argument(
        "--mpi",
        choices=("auto", "openmpi", "mpich", "intelmpi"),
        default="auto",
        help="the MPI to use; auto: the one that mpi4py loads (default: %(default)s)",
    )


def _numbers(text: str) -> list[int]:
    return list(dict.fromkeys(positive(part.strip()) for part in text.split(",")))


def _tail(output: str) -> str:
    return "\n".join(f"    {line}" for line in output.rstrip().splitlines()[-TAIL_LINES:])


def _say(text: str) -> None:
    stream = sys.stderr if text.startswith("error: ") else sys.stdout
    stream.write(text + "\n")
    stream.flush()
