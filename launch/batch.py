"""Batch scripts for Slurm, PBS and LSF: a job that is out of time queues again, and goes on from a checkpoint.

Before the time limit the launcher gets SIGUSR1 and passes it on; the ranks write a checkpoint and all ends with exit
code 75, upon which the job goes back into the queue and resumes. The launcher alone gets the signal, not all processes
of the job, where the batch system has the choice: Open MPI's daemons die of it.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """What the job needs, and what it runs."""

    nodes: int
    ranks_per_node: int
    threads: int
    """Per rank: so many cores each."""
    time_s: int
    """The limit that the batch system sets."""
    signal_s: int
    """How long before it the signal comes."""
    launcher: tuple[str, ...]
    """`python -m launch run` with all its arguments."""
    folder: str
    """Where it runs."""
    environment: Mapping[str, str]
    """Variables to set; PATH is put before the job's own."""
    job_name: str = "ddp"
    queue: str | None = None
    account: str | None = None
    memory: str | None = None
    """Of each node, such as 16G."""
    email: str | None = None
    directives: tuple[str, ...] = ()
    """Further options of the batch system, as the user wrote them."""
    modules: tuple[str, ...] = ()

    @property
    def ranks(self) -> int:
        """Of the whole job."""
        return self.nodes * self.ranks_per_node


@dataclass(frozen=True)
class Scheduler:
    """What differs between batch systems."""

    name: str
    prefix: str
    """Begins the lines of the script that are for the batch system."""
    submit: str
    """How its user submits the script."""
    options: Callable[[Request], list[str]]
    """Its options for a request."""
    requeue: str
    """What the script does on exit code 75, in bash; `code` is that of the launcher, `asked` the first signal."""
    keeps_time: bool = True
    """Whether it sends a signal before the time limit; else the script does."""


def batch_script(scheduler: Scheduler, request: Request) -> str:
    """The batch script, a text for bash."""
    timer = [] if scheduler.keeps_time else [_timer(request)]
    return "\n".join(
        [
            *_head(scheduler, request),
            f"# Written by `python -m launch script {scheduler.name}`; submit it with `{scheduler.submit}`.",
            "# Before the time limit the ranks are told to write a checkpoint and end with 75; then the job goes back",
            "# into the queue, and on from there. To submit this script again continues the same run.",
            "",
            "asked=",
            """trap 'asked=${asked:-USR1}; kill -s USR1 "$!" 2>/dev/null' USR1  # to the launcher, once it is there""",
            """trap 'asked=${asked:-TERM}; kill -s TERM "$!" 2>/dev/null' TERM""",
            "",
            *_setting(request),
            "",
            "code=75",
            'if [ -z "$asked" ]; then  # else there is nothing to save yet',
            "  # In the background: bash heeds no signal while a program runs in front.",
            "  " + " ".join([*timer, shlex.join(request.launcher), "&"]),
            '  while kill -0 "$!" 2>/dev/null; do wait "$!"; done  # a signal ends the waiting, not the job',
            '  wait "$!"',
            "  code=$?",
            '  if [ "$code" -eq 138 ]; then code=75; fi  # SIGUSR1 before the launcher was ready for it',
            "fi",
            "",
            scheduler.requeue,
            'exit "$code"',
            "",
        ]
    )


def plain_script(scheduler: Scheduler, request: Request) -> str:
    """A batch script for what needs no second start: the signals of the batch system go to the launcher alone."""
    return "\n".join(
        [*_head(scheduler, request), "", *_setting(request), "", f"exec {shlex.join(request.launcher)}", ""]
    )


def _head(scheduler: Scheduler, request: Request) -> list[str]:
    """The first line, and those for the batch system."""
    shell = "#!/bin/bash -l" if request.modules else "#!/bin/bash"  # a login shell knows `module`
    return [shell, *(f"{scheduler.prefix} {option}" for option in [*scheduler.options(request), *request.directives])]


def _setting(request: Request) -> list[str]:
    """The lines that make the environment what it was when the script was written, as far as it matters."""
    lines = [f"module load {shlex.quote(module)} || exit" for module in request.modules]
    for name, value in request.environment.items():
        lines.append(f"export {name}={shlex.quote(value)}" + (':"$PATH"' if name == "PATH" else ""))
    return [*lines, f"cd {shlex.quote(request.folder)} || exit"]


def _timer(request: Request) -> str:
    # In front, so that it signals the launcher alone; the time that the lines above took is over already.
    return f"timeout --foreground --preserve-status --signal=USR1 $(({request.time_s - request.signal_s} - SECONDS))"


def _slurm(request: Request) -> list[str]:
    return [
        f"--job-name={request.job_name}",
        f"--nodes={request.nodes}",
        f"--ntasks-per-node={request.ranks_per_node}",
        f"--cpus-per-task={request.threads}",
        f"--time={clock(request.time_s, with_days=True)}",
        f"--signal=B:USR1@{request.signal_s}",  # B: to this script alone
        "--requeue",
        "--open-mode=append",
        *_given("--partition=", request.queue),
        *_given("--account=", request.account),
        *_given("--mem=", request.memory),
        *([f"--mail-user={request.email}", "--mail-type=END,FAIL"] if request.email else []),
    ]


def _pbs(request: Request) -> list[str]:
    cores, ranks = request.ranks_per_node * request.threads, request.ranks_per_node
    chunk = f"{request.nodes}:ncpus={cores}:mpiprocs={ranks}:ompthreads={request.threads}"
    memory = f":mem={request.memory.lower()}b" if request.memory else ""
    return [
        f"-N {request.job_name}",
        "-S /bin/bash",
        f"-l select={chunk}{memory}",
        "-l place=scatter",
        f"-l walltime={clock(request.time_s)}",
        "-r y",
        "-j oe",
        *_given("-q ", request.queue),
        *_given("-A ", request.account),
        *([f"-M {request.email}", "-m ae"] if request.email else []),
    ]


def _lsf(request: Request) -> list[str]:
    cores = f" affinity[core({request.threads})]" if request.threads > 1 else ""  # else a slot is a core
    memory = f" rusage[mem={request.memory}B]" if request.memory else ""
    limit = math.ceil(request.time_s / 60)
    return [
        f"-J {request.job_name}",
        f"-n {request.ranks}",
        f'-R "span[ptile={request.ranks_per_node}]{cores}{memory}"',
        f"-W {limit // 60}:{limit % 60:02d}",
        f"-wa USR1 -wt {math.ceil(request.signal_s / 60) + 1}",  # LSF looks at the clock about once a minute
        '-Q "75"',
        "-r",
        f"-o {request.job_name}.%J.log",
        *_given("-q ", request.queue),
        *_given("-P ", request.account),
        *([f"-u {request.email} -N"] if request.email else []),
    ]


def _given(option: str, value: str | None) -> list[str]:
    return [option + value] if value else []


def clock(seconds: int, with_days: bool = False) -> str:
    """As `HH:MM:SS`, or `D-HH:MM:SS` from a day on."""
    hours, rest = divmod(seconds, 3600)
    days = hours // 24 if with_days else 0
    return (f"{days}-" if days else "") + f"{hours - 24 * days:02d}:{rest // 60:02d}:{rest % 60:02d}"


# A cancelled job must not come back: what was asked for first decides. Slurm and LSF keep the job and its number; PBS
# lets users only submit another, for which the script is there under the name that it runs by.
_REQUEUE = """\
if [ "$code" -eq 75 ] && [ "$asked" != TERM ]; then
  {command} || echo "error: cannot queue the job again; submit the script once more to go on" >&2
fi"""
SCHEDULERS = {
    "slurm": Scheduler(
        "slurm", "#SBATCH", "sbatch FILE", _slurm, _REQUEUE.format(command='scontrol requeue "$SLURM_JOB_ID"')
    ),
    "pbs": Scheduler("pbs", "#PBS", "qsub FILE", _pbs, _REQUEUE.format(command='qsub "$0"'), keeps_time=False),
    "lsf": Scheduler(
        "lsf",
        "#BSUB",
        "bsub < FILE",
        _lsf,
        "# LSF itself queues the job again after 75 (-Q); TERM came first if it was cancelled.\n"
        'if [ "$code" -eq 75 ] && [ "$asked" = TERM ]; then code=143; fi',
    ),
}
