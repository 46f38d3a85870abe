"""The starts of one job: each plans anew, with the hosts that still answer."""

from __future__ import annotations

import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from launch.discovery import Launcher
from launch.hosts import Host, is_local
from launch.job import Job, Request, build_job, find_available
from launch.restart import Change
from launch.ssh import run_on
from launch.supervise import Ended
from launch.supervision import Supervision
from launch.trainer_arguments import asks_only, checkpoint_grace_s, run_directory
from launch.wording import count

ALIVE_S = 10.0
"""How long a host may take to say that it is there; ssh itself gives a silent one up after 5 s."""


class Starts:
    """Starts a job, as often as need be."""

    def __init__(
        self,
        request: Request,
        launcher: Launcher,
        program: Sequence[str],
        *,
        keeps_log: bool,
        heartbeat_s: float,
        timeout_s: float | None,
        show: Callable[[Job], object],
    ) -> None:
        """Take what is wanted; nothing is started yet, but the time runs.

        Args:
            request: ranks, threads and hosts; hosts that fail are left out of it.
            launcher: the mpirun and its kind.
            program: what each rank runs, without the trainer's arguments.
            keeps_log: whether it is the trainer, which records its end in the run directory.
            heartbeat_s: after so many seconds of silence a rank counts as gone; 0: never.
            timeout_s: how long all starts may take together.
            show: shows the plan of each.
        """
        self.request, self.launcher, self.program = request, launcher, list(program)
        self._keeps_log, self._heartbeat_s, self._show = keeps_log, heartbeat_s, show
        self._lost: set[Host] = set()
        self._deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s

    def start(self, arguments: Sequence[str]) -> Ended:
        """Run the job with these arguments of the trainer to its end.

        Raises:
            HostError: if a host does not answer.
            UsageError: if the request cannot be met.
        """
        available = find_available(self.request)
        supervision = Supervision(
            self.launcher.flavour,
            self.request.ranks,
            self.request.hosts,
            None if asks_only(arguments) else run_directory(arguments),
            expects_log=self._keeps_log and not asks_only(arguments),
            heartbeat_s=self._heartbeat_s,
        )
        request = replace(self.request, variables={**supervision.variables(), **self.request.variables})
        with supervision, tempfile.TemporaryDirectory(prefix="ddp-launch-") as folder:
            hostfile = Path(folder) / "hosts"
            job = build_job(request, self.launcher, [*self.program, *arguments], available, hostfile, labelled=True)
            self._show(job)
            if job.hostfile is not None:
                job.hostfile.write_text(job.hostfile_text, encoding="utf-8")
            left_s = self._deadline - time.monotonic()
            ended = supervision.watch(
                job.command,
                {**os.environ, **job.environment},
                [(place.host, place.ranks) for place in job.plan.hosts],
                checkpoint_s=checkpoint_grace_s(arguments),
                timeout_s=max(0.0, left_s) if left_s < math.inf else None,
                # Those that have told of themselves: a batch system's hosts may take no commands through ssh.
                reachable=[place.host for place in job.plan.hosts if place.available.machine],
            )
        self._lost = {host for host in self.request.hosts if host.name in supervision.unreachable}
        return ended

    def leave_out_dead(self, alive: Callable[[Sequence[Host]], Sequence[Host]] | None = None) -> Change:
        """Ask all hosts whether they are there, and start on the others no more; with fewer ranks if need be.

        Args:
            alive: which of some hosts answer; by default those on which a command can be run.
        """
        hosts = self.request.hosts
        if all(map(is_local, hosts)):
            return Change()
        there = tuple((alive or answering)([host for host in hosts if host not in self._lost]))
        dead = [host for host in hosts if host not in there]
        if not dead or (self.request.is_allocated and all(map(is_local, there))):
            return Change()  # a batch system's hosts may take no commands through ssh at all
        without = f" without {', '.join(host.name for host in dead)}"
        if not there:
            return Change(without, "no host answers", is_possible=False)
        slots = [host.slots for host in there if host.slots is not None]
        ranks = min(self.request.ranks, sum(slots)) if len(slots) == len(there) else self.request.ranks
        self.request = replace(self.request, ranks=ranks, hosts=there)
        names = ", ".join(host.name for host in there)
        return Change(without, f"{count(ranks, 'rank')} on {names}")


def answering(hosts: Sequence[Host]) -> list[Host]:
    """Those hosts on which Python can be run."""
    return [answer.host for answer in run_on(hosts, [sys.executable, "-c", ""], ALIVE_S) if answer.code == 0]
