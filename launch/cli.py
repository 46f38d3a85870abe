"""The command line `python -m launch`: from arguments to a plan, an mpirun command and an exit code."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, TextIO

from launch import script, verify
from launch.argument_types import not_negative, positive, seconds, silence
from launch.discovery import Library, find_launcher, query_library
from launch.doctor import command as doctor
from launch.environment import parse_assignment
from launch.errors import HostError, UsageError
from launch.job import Job, Request, build_job, find_available, requested_hosts
from launch.outcome import EXIT_FAILURE
from launch.restart import run_with_restarts
from launch.scaling import command as scale
from launch.starts import Starts
from launch.supervise import EXIT_RESUMABLE
from launch.trainer_arguments import option_values, run_directory, with_run_name

TRAINER = (sys.executable, "-m", "ddp.train")
"""What each rank runs: the trainer, in the Python that runs the launcher."""


def main(
    argv: Sequence[str] | None = None,
    *,
    program: Sequence[str] = TRAINER,
    library: Callable[[], Library] = query_library,
) -> int:
    """Run the command line (default: `sys.argv[1:]`) and return the exit code.

    What follows the first `--` goes to `program` unchanged. `program` and `library` are there for tests. The
    user's mistakes give one line `error: ...` on stderr and exit code 2.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    try:
        options, unknown = _parser().parse_known_args(arguments[:cut])
        if unknown:
            raise UsageError(f"unknown argument {unknown[0]}: those of ddp.train go after a -- of their own")
        commands = {"verify": verify.run, "script": script.run, "doctor": doctor.run, "scale": scale.run}
        command = commands.get(options.command, _run)
        code = command(options, [*program], arguments[cut + 1 :], library)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # as of `| head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except UsageError as mistake:
        _say(f"error: {mistake}")
        return 2
    except HostError as failure:
        _say(f"error: {failure}")
        return EXIT_FAILURE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _run(options: argparse.Namespace, program: list[str], trainer: list[str], library: Callable[[], Library]) -> int:
    request = _request(options, trainer)
    launcher = find_launcher(library(), options.mpi)
    trainer = [*trainer, *_threads_argument(options.threads, trainer)]
    if options.dry_run:
        available = find_available(request, assume=True)
        job = build_job(request, launcher, [*program, *trainer], available, Path("ddp-hosts"))
        _show_plan(job, sys.stdout)
        sys.stdout.write(job.shell() + "\n")
        return 0

    named = with_run_name(trainer)
    if named != trainer:
        chosen = {"DDP_CHOSEN_NAME": run_directory(named).name}
        request = replace(request, variables={**chosen, **request.variables})
    starts = Starts(
        request,
        launcher,
        program,
        keeps_log=tuple(program) == TRAINER,
        heartbeat_s=options.heartbeat_timeout,
        timeout_s=options.timeout,
        show=lambda job: _show_plan(job, sys.stderr),
    )
    ended = run_with_restarts(starts.start, named, options.max_restarts, _say, starts.leave_out_dead)
    if ended.timed_out and ended.code != 0:
        saved = "a checkpoint was saved" if ended.code == EXIT_RESUMABLE else "no checkpoint could be saved in time"
        _say(f"ended after --timeout {options.timeout:g} s: {saved}")
    return ended.code


def _request(options: argparse.Namespace, trainer: Sequence[str]) -> Request:
    threads = agreed_threads(options.threads, trainer)
    hosts, is_allocated = requested_hosts(options.hosts, options.hostfile, os.environ)
    variables = dict(map(parse_assignment, options.env))
    return Request(options.n, threads, options.bind, tuple(hosts), is_allocated, variables)


def _show_plan(job: Job, stream: TextIO) -> None:
    """What is about to run where; before it starts, since a wrong plan costs the whole run."""
    stream.write(f"{job.plan}\n")
    stream.flush()
    if job.plan.warning:
        _say(f"warning: {job.plan.warning}")


def agreed_threads(launcher: int | None, trainer: Sequence[str]) -> int | None:
    """Threads per rank as the launcher's `--threads` or the trainer's own asks for; None if neither does.

    Raises:
        UsageError: if they differ, or if the trainer's is no whole number of at least 1.
    """
    values = [launcher] if launcher is not None else []
    try:
        # The trainer's 0 leaves the choice open, as its configuration file may do.
        values += [positive(text) for text in option_values(trainer, "threads") if text != "0"]
    except argparse.ArgumentTypeError as mistake:
        raise UsageError(f"--threads {mistake}") from None
    if len(set(values)) > 1:
        different = " and ".join(f"--threads {value}" for value in dict.fromkeys(values))
        raise UsageError(f"{different} differ: give it once, before the --")
    return values[0] if values else None


def _threads_argument(launcher: int | None, trainer: Sequence[str]) -> list[str]:
    """What to add for the trainer: only what was asked for, so that a value in its configuration file stands."""
    return [] if launcher is None or option_values(trainer, "threads") else ["--threads", str(launcher)]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see `{self.prog} --help`)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m launch", description="Start the ranks of ddp.train.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    run = commands.add_parser(
        "run",
        help="train with several ranks on one host or many",
        description="Train with P ranks on this host, on those of -H or --hostfile, or on those of the batch job "
        "(Slurm, PBS, LSF) that this runs in, with the MPI library that mpi4py loads.",
        usage="%(prog)s -n P [options] [-- ddp.train arguments]",
        epilog="Exit code: that of the job (0 done, 2 a mistake in the arguments, see ddp.train); 75 after SIGTERM or "
        "SIGUSR1, when the job has written a checkpoint, within its checkpoint.grace_s; 130 after SIGINT, which ends "
        "all ranks within seconds; 143 after a SIGTERM for which there was no time.",
        allow_abbrev=False,
    )
    placement = run.add_argument_group("ranks and cores")
    placement.add_argument("-n", type=positive, required=True, metavar="P", help="number of ranks (required)")
    placement.add_argument(
        "-H", dest="hosts", metavar="h1:4,h2:4", help="hosts, and the most ranks for each (default: this host)"
    )
    placement.add_argument(
        "--hostfile",
        metavar="F",
        help="a file with a host a line: `host slots=4`, `host:4`, or `host` on a line for each of its slots",
    )
    placement.add_argument(
        "--threads", type=positive, metavar="T", help="threads per rank (default: cores of a host / its ranks)"
    )
    placement.add_argument(
        "--bind",
        choices=("auto", "core", "none"),
        default="auto",
        help="core: each rank keeps T physical cores to itself; none: ranks run on any core; "
        "auto: as none (default: %(default)s)",
    )
    mpi = run.add_argument_group("MPI")
    mpi.add_argument(
        "--mpi",
        choices=("auto", "openmpi", "mpich", "intelmpi", "srun"),
        default="auto",
        help="the MPI to use; auto: the one that mpi4py loads; srun: Slurm starts its ranks (default: %(default)s)",
    )
    mpi.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="K=V",
        help="set a variable for every rank, overriding the launcher's; may be repeated (default: none)",
    )
    run.add_argument(
        "--max-restarts",
        type=not_negative,
        default=0,
        metavar="N",
        help="when a rank, the network or mpirun fails, start again from the newest checkpoint, at most N times "
        "(default: %(default)s)",
    )
    run.add_argument(
        "--timeout",
        type=seconds,
        metavar="S",
        help="end the job, restarts included, after S seconds, with a checkpoint (default: never)",
    )
    run.add_argument(
        "--heartbeat-timeout",
        type=silence,
        default=30.0,
        metavar="S",
        help="end the job when a rank has been silent for S seconds, at least 3; 0: never (default: %(default)g)",
    )
    run.add_argument("--dry-run", action="store_true", help="print the plan and the command, start nothing")
    verify.add_parser(commands)
    script.add_parser(commands)
    doctor.add_parser(commands)
    scale.add_parser(commands)
    return parser


def _say(line: str) -> None:
    sys.stderr.write(" ".join(line.split()) + "\n")
