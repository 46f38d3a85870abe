"""`python -m launch script slurm|pbs|lsf`: prints a batch script; see `launch.batch`."""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.batch import SCHEDULERS, Request, batch_script, clock
from launch.errors import UsageError
from launch.trainer_arguments import checkpoint_grace_s, option_values, resuming, with_run_name

MARGIN_S = 30
"""Beside checkpoint.grace_s, between the signal and the time limit, in seconds: the launcher kills what is left 5 s
after the grace, and a busy file system, the end of mpirun and the way back into the queue take their time."""

_WORD = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")  # what no scheduler and no shell reads as anything else
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_TIME = re.compile(r"(?:(\d{1,3})-)?(\d{1,3}):([0-5]\d):([0-5]\d)")
_MEMORY = re.compile(r"([1-9]\d*)([KMGT])B?", re.IGNORECASE)


def run(options: argparse.Namespace, program: Sequence[str], trainer: Sequence[str], library: object) -> int:
    """Print the script; the exit code is 0.

    Raises:
        UsageError: for what the parser cannot see: threads or --resume given after the `--`, a configuration that is
            not there, too short a time.
    """
    del program, library  # the job's own launcher looks for them where it runs
    sys.stdout.write(batch_script(SCHEDULERS[options.scheduler], request_of(options, trainer)))
    return 0


def request_of(options: argparse.Namespace, trainer: Sequence[str]) -> Request:
    """What the command line asks for, to be run in this folder by this Python.

    Raises:
        UsageError: see `run`.
    """
    if option_values(trainer, "threads"):
        raise UsageError("--threads after the --: give it before, where it also asks for the cores")
    given = [value for value in option_values(trainer, "resume") if value != "auto"]
    if given:
        raise UsageError(f"--resume {given[0]}: the script itself resumes what its --output.name has; leave it out")
    for file in option_values(trainer, "config"):
        if not Path(file).is_file():
            raise UsageError(f"--config {file}: no such file in {Path.cwd()}, where the job will look for it")
    signal_s = math.ceil(checkpoint_grace_s(trainer)) + MARGIN_S
    if options.time < (least := 2 * signal_s + 60):
        raise UsageError(
            f"--time of {options.time} s leaves too little: the signal comes {signal_s} s before its end"
            f" (checkpoint.grace_s and {MARGIN_S}); give {clock(least)} or more"
        )
    ranks = options.nodes * options.ranks_per_node
    launcher = [sys.executable, "-m", "launch", "run", "-n", str(ranks), "--threads", str(options.threads)]
    launcher += [] if options.mpi == "auto" else ["--mpi", options.mpi]
    launcher += ["--max-restarts", str(options.max_restarts)] if options.max_restarts else []
    return Request(
        nodes=options.nodes,
        ranks_per_node=options.ranks_per_node,
        threads=options.threads,
        time_s=options.time,
        signal_s=signal_s,
        launcher=(*launcher, "--", *resuming(with_run_name(trainer))),
        folder=str(Path.cwd()),
        environment=job_environment(),
        job_name=options.job_name,
        **batch_values(options),
    )


def job_environment() -> dict[str, str]:
    """What a job must find to run this Python and this package."""
    given = {name: os.environ[name] for name in ("PYTHONPATH",) if os.environ.get(name)}
    return {"PATH": str(Path(sys.executable).parent)} | given


def add_parser(commands: Any) -> None:
    """Add the command to those of `python -m launch`."""
    parser = commands.add_parser(
        "script",
        help="print a script for a batch system: Slurm, PBS or LSF",
        description="Print a batch script that trains on whole nodes' shares of ranks and threads, is told to write a"
        " checkpoint before its time is over, queues itself again, and goes on.",
        usage="%(prog)s slurm|pbs|lsf --nodes N --ranks-per-node R --threads T --time 01:00:00 [options]"
        " [-- ddp.train arguments]",
        epilog="The run gets a name (--output.name) when the script is written: to submit it again continues that"
        " run. The signal comes checkpoint.grace_s and 30 s before the limit.",
        allow_abbrev=False,
    )
    parser.add_argument("scheduler", choices=tuple(SCHEDULERS), help="the batch system (PBS: PBS Pro and OpenPBS)")
    resources = parser.add_argument_group("resources")
    for option, metavar, text in (
        ("--nodes", "N", "nodes"),
        ("--ranks-per-node", "R", "ranks on each"),
        ("--threads", "T", "threads of each rank, for each of which it gets a core"),
    ):
        resources.add_argument(option, type=_number, required=True, metavar=metavar, help=f"{text} (required)")
    resources.add_argument(
        "--time", type=seconds, required=True, metavar="HH:MM:SS", help="time limit, also as D-HH:MM:SS (required)"
    )
    job = parser.add_argument_group("the job")
    add_batch_options(resources)
    job.add_argument("--job-name", type=_name, default="ddp", metavar="NAME", help="its name (default: %(default)s)")
    job.add_argument(
        "--mpi",
        choices=("auto", "openmpi", "mpich", "intelmpi", "srun"),
        default="auto",
        help="as for `launch run` (default: %(default)s)",
    )
    job.add_argument(
        "--max-restarts",
        type=_number,
        default=0,
        metavar="N",
        help="start again within the job after a failure, as for `launch run` (default: %(default)s)",
    )


def add_batch_options(group: Any) -> None:
    """Add the options of a batch job that are not required, whatever it runs."""
    group.add_argument("--memory", type=_memory, metavar="16G", help="memory of each node")
    group.add_argument("--queue", "--partition", type=_word, metavar="NAME", help="where to queue")
    group.add_argument("--account", type=_word, metavar="NAME", help="who pays")
    group.add_argument(
        "--directive",
        type=_line,
        action="append",
        default=[],
        metavar="OPTION",
        help="a further option of the batch system, as --directive=--exclusive; may be repeated",
    )
    group.add_argument(
        "--module",
        type=_word,
        action="append",
        default=[],
        metavar="NAME",
        help="an environment module to load, as openmpi/5.0; may be repeated",
    )
    group.add_argument("--email", type=_word, metavar="ADDRESS", help="who is told of its end")


def batch_values(options: argparse.Namespace) -> dict[str, Any]:
    """Those options as fields of a `Request`."""
    return {
        "queue": options.queue,
        "account": options.account,
        "memory": options.memory,
        "email": options.email,
        "directives": tuple(options.directive),
        "modules": tuple(options.module),
    }


def seconds(text: str) -> int:
    """The seconds of `HH:MM:SS` or `D-HH:MM:SS`.

    Raises:
        argparse.ArgumentTypeError: for any other text, and for no time at all.
    """
    match = _TIME.fullmatch(text) if text.isascii() else None
    days, hours, minutes, rest = (int(part or 0) for part in match.groups()) if match else (0, 0, 0, 0)
    total = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    if not total:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; write HH:MM:SS, as 01:30:00, or D-HH:MM:SS")
    return total


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _memory(text: str) -> str:
    match = _MEMORY.fullmatch(text) if text.isascii() else None
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write a whole number and K, M, G or T, as 16G")
    return f"{match[1]}{match[2].upper()}"


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name; use letters, digits, `.`, `-` and `_`, 64 at most")
    return text


def _word(text: str) -> str:
    if not _WORD.fullmatch(text) or text.startswith("-"):
        raise argparse.ArgumentTypeError(f"{text!r} is not one word of letters, digits and `@%+=:,./-_`")
    return text


def _line(text: str) -> str:
    if not text.isprintable() or not text.startswith("-"):
        raise argparse.ArgumentTypeError(f"{text!r} is not an option; write --directive=--exclusive")
    return text
