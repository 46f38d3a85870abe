"""The arguments of `python -m launch scale`, and what they mean."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import script
from launch.argument_types import not_negative, positive, seconds
from launch.batch import clock
from launch.environment import parse_assignment
from launch.errors import UsageError
from launch.placement import Available

if TYPE_CHECKING:
    from launch.scaling.study import Settings, Study

OWN_OPTIONS = {
    "--threads": "give --threads before it",
    "--train.steps": "give --steps before it",
    "--output.dir": "a study has a folder of its own; give --output before it",
    "--output.name": "a study names its runs itself; leave it out",
    "--resume": "a study that goes on has the same --output; leave it out",
    "--print-config": "start no study for it, but `python -m ddp.train --print-config`",
}
"""What must not stand after the `--`, and what to do instead."""
TARGET, BATCH_FACTORS = 0.9, (1, 4, 16)
SUBMIT_ONLY = ("ranks_per_node", "time", "memory", "queue", "account", "directive", "module", "email")


def check_trainer(trainer: Sequence[str]) -> None:
    """Refuse arguments of the trainer that the study itself gives.

    Raises:
        UsageError: naming the first of them, and the fix.
    """
    for argument in trainer:
        if fix := OWN_OPTIONS.get(argument.partition("=")[0]):
            raise UsageError(f"{argument} after the --: {fix}")


def check_options(options: argparse.Namespace) -> None:
    """Refuse options that do not go together.

    Raises:
        UsageError: naming one of them, and the fix.
    """
    for name in () if options.submit else SUBMIT_ONLY:
        if getattr(options, name):
            raise UsageError(f"--{name.replace('_', '-')} is for --submit slurm|pbs: leave it out, or give that too")
    if options.submit:
        _check_submit(options)
    if options.mode != "accuracy":
        for name in ("target", "batches"):
            if getattr(options, name) is not None:
                raise UsageError(f"--{name} is for --mode accuracy: leave it out, or give that too")
    elif len(options.threads) > 1:
        raise UsageError(f"--threads {_listed(options.threads)}: --mode accuracy takes one number")


def _check_submit(options: argparse.Namespace) -> None:
    if options.mode == "accuracy":
        raise UsageError(f"--submit {options.submit}: not with --mode accuracy; run it within a batch job")
    for name in ("hosts", "hostfile"):
        if given := getattr(options, name):
            option = "-H" if name == "hosts" else "--hostfile"
            raise UsageError(f"{option} {given}: with --submit the batch system chooses the hosts; leave it out")
    for name in ("ranks", "ranks_per_node", "time", "steps"):
        if not getattr(options, name):
            why = ": there is no trial run here to choose them by" if name == "steps" else ""
            raise UsageError(f"--submit {options.submit} needs --{name.replace('_', '-')}{why}")
    per_node = options.ranks_per_node
    for ranks in options.ranks:
        if ranks > per_node and ranks % per_node:
            raise UsageError(
                f"--ranks {ranks}: no multiple of --ranks-per-node {per_node}, so that nodes would have different"
                f" numbers; give a multiple, or at most {per_node}"
            )


def placement(options: argparse.Namespace) -> list[str]:
    """The options of `launch run` that say where ranks run.

    Raises:
        UsageError: for a variable that is none.
    """
    found = []
    if options.hosts is not None:
        found += ["-H", options.hosts]
    if options.hostfile is not None:
        found += ["--hostfile", str(Path(options.hostfile).absolute())]
    found += [] if options.mpi == "auto" else ["--mpi", options.mpi]
    found += [] if options.bind == "auto" else ["--bind", options.bind]
    for assignment in options.env:
        parse_assignment(assignment)
        found += ["--env", assignment]
    return found


def settings(options: argparse.Namespace, ranks: Sequence[int], trainer: Sequence[str]) -> Settings:
    """What the arguments ask for.

    Raises:
        UsageError: for a variable that is none.
    """
    from launch.scaling.study import Settings

    return Settings(
        tuple(ranks),
        tuple(options.threads),
        options.mode,
        options.repeats,
        options.steps or 0,
        options.seed,
        tuple(placement(options)),
        tuple(trainer),
    )


def command_line(study: Study, folder: Path, options: argparse.Namespace) -> list[str]:
    """What begins the study again, or lets it go on: all that decides is stated."""
    given = study.settings
    words = ["python", "-m", "launch", "scale", "--ranks", _listed(given.ranks), "--threads", _listed(given.threads)]
    words += ["--mode", given.mode, "--repeats", str(given.repeats), "--seed", str(given.seed)]
    words += ["--steps", str(given.steps)] if given.steps else []
    words += ["--timeout", f"{study.timeout_s:g}"] if study.timeout_s else []
    words += [*given.placement, "--output", str(folder)]
    words += ["--networks", study.networks] if study.networks else []
    if given.mode == "accuracy":
        words += ["--target", str(target(options))]
        words += ["--batches", _listed(options.batches)] if options.batches else []
    if options.submit:
        words += ["--submit", options.submit, *_batch_words(options)]
    return [*words, "--", *given.trainer] if given.trainer else words


def target(options: argparse.Namespace) -> float:
    """The test accuracy to come to."""
    return float(options.target or TARGET)


def batches(options: argparse.Namespace, study: Study) -> list[int]:
    """The global batches to come to it with."""
    return options.batches or [study.batch * factor for factor in BATCH_FACTORS]


def _batch_words(options: argparse.Namespace) -> list[str]:
    words = ["--ranks-per-node", str(options.ranks_per_node), "--time", clock(options.time)]
    for name in ("memory", "queue", "account", "email"):
        words += [f"--{name}", getattr(options, name)] if getattr(options, name) else []
    words += [f"--directive={directive}" for directive in options.directive]
    return words + [word for module in options.module for word in ("--module", module)]


def read_placement(words: Sequence[str]) -> argparse.Namespace:
    """The options that `placement` wrote: hosts, hostfile, mpi, bind, env."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    _add_places(parser)
    return parser.parse_args(words)


def default_ranks(available: Sequence[Available], cores: int, threads: int) -> list[int]:
    """1, 2, 4, ... as far as there are cores and slots.

    Args:
        available: the hosts.
        cores: physical cores of them all.
        threads: the most of a rank.
    """
    slots = [each.host.slots for each in available]
    least = cores // threads
    most = least if None in slots else min(least, sum(slot or 0 for slot in slots))
    return [2**power for power in range(int(math.log2(max(1, most))) + 1)]


def add_parser(commands: Any) -> None:
    """Add the command to those of `python -m launch`."""
    parser = commands.add_parser(
        "scale",
        help="study how training scales: run, explain, predict, report",
        description="Train at each number of ranks and threads, several times in an order drawn anew for each round, "
        "and write a report: speed-up, efficiency, where it is lost, a model of the communication and what it predicts "
        "for more ranks. The same --output again lets an interrupted study go on.",
        usage="%(prog)s [options] [-- ddp.train arguments]\n       %(prog)s report DIR",
        epilog="Exit code: 0 all points are measured; 1 some failed, or (report) are still missing, or trained other "
        "bits than they must; 2 a mistake in the arguments; 4 a host does not answer; 130 and 143 after SIGINT and "
        "SIGTERM, with what was measured kept. batch.shards is raised to the largest number of ranks unless it is "
        "given. `report DIR` collects what batch jobs have measured, and writes the report anew.",
        allow_abbrev=False,
    )
    parser.add_argument("what", nargs="*", metavar="report DIR", help="write the report of a study's folder anew")
    _add_points(parser.add_argument_group("points"))
    _add_places(parser.add_argument_group("where"))
    output = parser.add_argument_group("output")
    output.add_argument("--output", metavar="DIR", help="the study's folder (default: studies/<model>-<data>-<time>)")
    output.add_argument("--networks", metavar="FILE", help="a TOML file with further networks to predict for")
    _add_batch(parser.add_argument_group("batch jobs"))
    accuracy = parser.add_argument_group("--mode accuracy")
    accuracy.add_argument("--target", type=_fraction, metavar="A", help=f"test accuracy to come to (default: {TARGET})")
    accuracy.add_argument(
        "--batches",
        type=numbers,
        metavar="B,...",
        help="global batch sizes; the learning rate follows them from the configured one (default: the configured one, "
        "4 and 16 times as many samples, as far as there are so many)",
    )


def _add_points(group: Any) -> None:
    group.add_argument(
        "--ranks", type=numbers, metavar="P,...", help="numbers of ranks (default: 1,2,4,... up to the physical cores)"
    )
    group.add_argument(
        "--threads", type=numbers, default=[1], metavar="T,...", help="numbers of threads per rank (default: 1)"
    )
    group.add_argument(
        "--mode",
        choices=("strong", "weak", "both", "accuracy"),
        default="both",
        help="strong: batch.size stays; weak: it is that of a rank; accuracy: time and epochs to a target accuracy, by "
        "batch and ranks (default: %(default)s)",
    )
    group.add_argument(
        "--repeats", type=positive, default=5, metavar="N", help="runs of each point (default: %(default)s)"
    )
    group.add_argument(
        "--steps", type=_steps, metavar="N", help="SGD steps of each run (default: about 4 s of them at the baseline)"
    )
    group.add_argument(
        "--seed", type=not_negative, default=0, metavar="N", help="of the order of the runs (default: %(default)s)"
    )
    group.add_argument(
        "--timeout",
        type=seconds,
        metavar="S",
        help="a run that takes longer counts as hung, and is ended (default: 600, or 30 times what is expected; with "
        "--mode accuracy a week)",
    )


def _add_places(group: Any) -> None:
    group.add_argument("-H", dest="hosts", metavar="h1:4,h2:4", help="hosts, and the most ranks for each, as of run")
    group.add_argument("--hostfile", metavar="F", help="a file with a host a line, as of run")
    group.add_argument(
        "--mpi",
        choices=("auto", "openmpi", "mpich", "intelmpi", "srun"),
        default="auto",
        help="the MPI to use, as of run (default: %(default)s)",
    )
    group.add_argument(
        "--bind", choices=("auto", "core", "none"), default="auto", help="as of run (default: %(default)s)"
    )
    group.add_argument("--env", action="append", default=[], metavar="K=V", help="a variable for every rank, as of run")


def _add_batch(group: Any) -> None:
    group.add_argument("--submit", choices=("slurm", "pbs"), help="run each run as a batch job; report DIR collects")
    group.add_argument("--ranks-per-node", type=positive, metavar="R", help="ranks on each node, at most")
    group.add_argument("--time", type=script.seconds, metavar="HH:MM:SS", help="time limit of each job")
    script.add_batch_options(group)


def numbers(text: str) -> list[int]:
    """Whole numbers of at least 1, each once: `1,2,4`.

    Raises:
        argparse.ArgumentTypeError: for anything else.
    """
    return sorted({positive(part.strip()) for part in text.split(",")})


def _steps(text: str) -> int:
    if positive(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r}: give at least 2, the first ones are the warm-up")
    return int(text)


def _fraction(text: str) -> float:
    value = seconds(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a fraction above 0, up to 1, such as 0.9")
    return value


def _listed(values: Sequence[int]) -> str:
    return ",".join(map(str, values))
