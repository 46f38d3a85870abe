"""What a host has: `python -m launch.probe` prints it as JSON; `probe` asks several hosts at once."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from launch.hosts import Host
from launch.ssh import run_on

COMMAND = (sys.executable, "-m", "launch.probe")
TIMEOUT_S = 15.0
"""ssh gives a silent host up after 5 s; a cold network file system takes some more to load Python."""


@dataclass(frozen=True)
class Facts:
    """One host, as a Python process that was started there sees it."""

    host_name: str
    cores: tuple[int, ...]
    """Those that a process there may run on."""
    python: str
    """Version."""
    machine: str
    """Names the running kernel."""
    time: float
    """Its clock, seconds since 1970."""
    node: str
    """Slurm's name for it; empty outside of a job step."""


def facts() -> Facts:
    """Of this host."""
    cores, node = tuple(sorted(os.sched_getaffinity(0))), os.environ.get("SLURMD_NODENAME", "")
    return Facts(socket.gethostname(), cores, platform.python_version(), running_kernel(), time.time(), node)


def running_kernel() -> str:
    """A name of this boot of this machine, the same in all of its containers; empty where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def probe(hosts: Sequence[Host], timeout_s: float = TIMEOUT_S) -> dict[Host, Facts | str]:
    """Ask every host, all at once, by the same Python as here; the facts, or why there are none, in one line."""
    if "SLURM_JOB_ID" in os.environ and (found := _probe_job(hosts, timeout_s)):
        return found
    answers = run_on(hosts, COMMAND, timeout_s)
    return {answer.host: answer.problem or _read(answer.output) for answer in answers}


def _probe_job(hosts: Sequence[Host], timeout_s: float) -> dict[Host, Facts | str]:
    """Ask the nodes of this Slurm job by srun: what ssh starts is outside of the job and sees all cores of the node.

    Nothing, if not all of them answer.
    """
    step = ["srun", f"--nodes={len(hosts)}", f"--ntasks={len(hosts)}", "--ntasks-per-node=1", "--overlap", "--wait=5"]
    step += [f"--nodelist={','.join(host.name for host in hosts)}", "--cpu-bind=none", "--mpi=none", "--export=ALL"]
    try:
        done = subprocess.run(
            [*step, *COMMAND], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    read = [_read(line) for line in done.stdout.splitlines()]
    by_name = {found.node: found for found in read if isinstance(found, Facts)}
    return {host: by_name[host.name] for host in hosts} if by_name.keys() >= {host.name for host in hosts} else {}


def _read(output: str) -> Facts | str:
    try:
        said = json.loads(output.splitlines()[-1])  # a login may greet first
        return Facts(**{**said, "cores": tuple(said["cores"])})
    except (IndexError, KeyError, TypeError, ValueError):
        return f"said {output[-100:]!r} instead of what it has"


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(facts())) + "\n")
