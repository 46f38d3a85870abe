"""From what the user asks for to a plan, an mpirun command and the environment of the ranks."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from launch.discovery import Launcher
from launch.environment import forwarded, rank_environment, shell_line
from launch.errors import HostError, UsageError
from launch.flavours import build_command
from launch.hosts import Host, hostfile_lines, is_local, parse_hosts, read_hostfile
from launch.placement import Available, Binding, Plan, available_here, available_on, make_plan
from launch.scheduler import allocation


@dataclass(frozen=True)
class Request:
    """What the user asks for."""

    ranks: int
    threads: int | None = None
    bind: Binding = "auto"
    hosts: tuple[Host, ...] = ()
    """Empty: this host."""
    is_allocated: bool = False
    """Whether a batch system named the hosts, rather than the user."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """For every rank (`--env`)."""


@dataclass(frozen=True)
class Job:
    """What is started."""

    plan: Plan
    command: tuple[str, ...]
    environment: Mapping[str, str]
    """What ranks see beside the launcher's own."""
    hostfile: Path | None
    """Where `hostfile_text` must be when the command is run."""
    hostfile_text: str

    def shell(self) -> str:
        """Lines for a POSIX shell that do the same."""
        line = shell_line(self.command, self.environment, os.environ)
        if self.hostfile is None:
            return line
        return f"printf '%s\\n' {shlex.join(self.hostfile_text.splitlines())} > {self.hostfile}\n{line}"


def requested_hosts(hosts: str | None, hostfile: str | None, environment: Mapping[str, str]) -> tuple[list[Host], bool]:
    """The hosts of `-H` or `--hostfile`, else those of the batch job, and whether it is the latter; none: this host.

    Raises:
        UsageError: if both are given, or either is wrong.
    """
    if hosts is not None and hostfile is not None:
        raise UsageError(f"-H {hosts} and --hostfile {hostfile}: give one of them")
    if hosts is not None:
        return list(parse_hosts(hosts)), False
    if hostfile is not None:
        return list(read_hostfile(Path(hostfile))), False
    given = allocation(environment)
    return (list(given.hosts), True) if given else ([], False)


def find_available(request: Request, assume: bool = False) -> list[Available]:
    """What the hosts of a request have, by asking them.

    Args:
        request: names the hosts.
        assume: take a host that does not answer for one like this, with a warning, as for a dry run.

    Raises:
        HostError: if one does not answer.
        UsageError: if one is not known at all.
    """
    hosts = request.hosts
    if not hosts:
        return list(available_here())
    if len(hosts) == 1 and is_local(hosts[0]):
        return [replace(available_here()[0], host=hosts[0])]
    there, missing = available_on(hosts)
    if not missing:
        return there
    if not (assume or request.is_allocated):
        raise _not_there(missing)
    for host, problem in missing.items():
        sys.stderr.write(f"warning: {host.name}: {problem}; taken for a host like this one\n")
    known = {each.host: each for each in there}
    here = available_here()[0]
    return [known.get(host, Available(host, here.cores)) for host in hosts]


def _not_there(missing: Mapping[Host, str]) -> Exception:
    host, problem = next(iter(missing.items()))
    more = f" (nor do {len(missing) - 1} more)" if len(missing) > 1 else ""
    if "resolve hostname" in problem:
        return UsageError(f"{host.name}: no such host{more}; correct its name in -H or --hostfile")
    return HostError(
        f"{host.name} does not answer{more}: {problem}; leave it out, or see `python -m launch doctor -H {host.name}`"
    )


def build_job(
    request: Request,
    launcher: Launcher,
    program: Sequence[str],
    available: Sequence[Available],
    hostfile: Path | None = None,
    labelled: bool = False,
) -> Job:
    """Plan the job and write its command.

    Args:
        request: what the user asks for.
        launcher: the mpirun and its kind.
        program: what each rank runs.
        available: the hosts, and what they have.
        hostfile: where the hosts are going to be written for mpirun; not needed if this host is the only one.
        labelled: whether output is to be marked with its rank.

    Raises:
        UsageError: if the request cannot be met.
    """
    flavour = launcher.flavour
    plan = make_plan(request.ranks, request.threads, request.bind, available)
    environment = rank_environment(plan, flavour, request.variables)
    is_remote = any(not is_local(place.host) for place in plan.hosts)
    is_named = bool(flavour.even_hosts) and plan.is_even  # on the command line itself
    file = hostfile if (is_remote or len(plan.hosts) > 1) and not is_named else None
    if file is not None:
        environment |= {name: value.format(file=file) for name, value in flavour.hosts_environment.items()}
    assert file is not None or is_named or not is_remote
    command = build_command(
        plan,
        flavour,
        mpirun=launcher.mpirun,
        program=program,
        exported=[*environment, *(forwarded(os.environ, environment) if is_remote else ())],
        as_root=os.geteuid() == 0,
        hostfile=file,
        labelled=labelled,
    )
    places = [(place.host, place.ranks) for place in plan.hosts]
    lines = hostfile_lines(places, flavour.host_line, flavour.line_per_rank)
    return Job(plan, tuple(command), environment, file, lines if file else "")
