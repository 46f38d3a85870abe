"""The hosts that a batch system has given to this job, as its environment tells: Slurm, PBS, LSF."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from launch.errors import UsageError
from launch.hosts import Host, counted

_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Allocation:
    """What a batch system has given."""

    scheduler: str
    """Such as `Slurm job 17`."""
    hosts: tuple[Host, ...]


def slurm_hosts(node_list: str) -> list[str]:
    """The names in a Slurm host list such as `node[1-3,7]`, by Slurm's own tool.

    Raises:
        UsageError: if there is no such tool, or it does not understand the list.
    """
    command = ["scontrol", "show", "hostnames", node_list]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(f"SLURM_JOB_NODELIST={node_list}: `{' '.join(command)}` fails ({error}); give -H") from None
    return done.stdout.split()


def allocation(environment: Mapping[str, str], expand: Callable[[str], list[str]] = slurm_hosts) -> Allocation | None:
    """The hosts of the batch job that this process belongs to, with the ranks that each may get; None outside of one.

    Args:
        environment: the variables of this process.
        expand: turns Slurm's list of hosts into their names.

    Raises:
        UsageError: if what the batch system has set cannot be read.
    """
    if "SLURM_JOB_ID" in environment and "SLURM_JOB_NODELIST" in environment:
        return Allocation(f"Slurm job {environment['SLURM_JOB_ID']}", _slurm(environment, expand))
    if "PBS_NODEFILE" in environment:
        return Allocation(f"PBS job {environment.get('PBS_JOBID', '')}".strip(), _pbs(environment["PBS_NODEFILE"]))
    if "LSB_JOBID" in environment and (hosts := _lsf(environment)):
        return Allocation(f"LSF job {environment['LSB_JOBID']}", hosts)
    return None


def _slurm(environment: Mapping[str, str], expand: Callable[[str], list[str]]) -> tuple[Host, ...]:
    names = expand(environment["SLURM_JOB_NODELIST"])
    # Without a number of tasks, Slurm says 1 a node, which nobody has asked for.
    asked = {"SLURM_NTASKS", "SLURM_NTASKS_PER_NODE"} & environment.keys()
    tasks = environment.get("SLURM_TASKS_PER_NODE", "") if asked else ""
    slots = _repeated(tasks) if tasks else [None] * len(names)
    if len(slots) != len(names):
        raise UsageError(f"SLURM_TASKS_PER_NODE={tasks} does not fit the {len(names)} nodes of SLURM_JOB_NODELIST")
    return tuple(Host(name, number) for name, number in zip(names, slots, strict=True))


def _repeated(text: str) -> list[int | None]:
    """Slurm's short form: `2(x3),1` is 2, 2, 2, 1."""
    numbers: list[int | None] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            raise UsageError(f"SLURM_TASKS_PER_NODE={text}: {part!r} is not understood; give the hosts with -H")
        numbers += [int(match[1])] * int(match[2] or 1)
    return numbers


def _pbs(path: str) -> tuple[Host, ...]:
    try:
        lines = Path(path).read_text(encoding="utf-8").split()
    except OSError as error:
        raise UsageError(f"PBS_NODEFILE={path}: {error.strerror}; unset it outside of a job, or give -H") from None
    return counted(lines, f"PBS_NODEFILE={path}")


def _lsf(environment: Mapping[str, str]) -> tuple[Host, ...]:
    """LSF names a host with its slots (`LSB_MCPU_HOSTS`), or once for each slot (`LSB_HOSTS`)."""
    words = environment.get("LSB_MCPU_HOSTS", "").split()
    try:
        names = [name for name, slots in zip(words[::2], words[1::2], strict=True) for _ in range(int(slots))]
    except ValueError:
        raise UsageError(
            f"LSB_MCPU_HOSTS={' '.join(words)} is not `host slots` pairs; give the hosts with -H"
        ) from None
    return counted(names or environment.get("LSB_HOSTS", "").split(), "LSB_MCPU_HOSTS")
