"""What a host has: `python -m launch.probe` prints it as JSON; `probe` asks several hosts at once."""

from __future__ import annotations

import json
import os
import platform
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from launch.hosts import Host
from launch.ssh import run_on

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


def facts() -> Facts:
    """Of this host."""
    cores = tuple(sorted(os.sched_getaffinity(0)))
    return Facts(socket.gethostname(), cores, platform.python_version(), running_kernel(), time.time())


def running_kernel() -> str:
    """A name of this boot of this machine, the same in all of its containers; empty where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def probe(hosts: Sequence[Host], timeout_s: float = TIMEOUT_S) -> dict[Host, Facts | str]:
    """Ask every host, all at once, by the same Python as here; the facts, or why there are none, in one line."""
    found: dict[Host, Facts | str] = {}
    for answer in run_on(hosts, [sys.executable, "-m", "launch.probe"], timeout_s):
        found[answer.host] = answer.problem or _read(answer.output)
    return found


def _read(output: str) -> Facts | str:
    try:
        said = json.loads(output.splitlines()[-1])  # a login may greet first
        return Facts(said["host_name"], tuple(said["cores"]), said["python"], said["machine"], said["time"])
    except (IndexError, KeyError, TypeError, ValueError):
        return f"said {output[-100:]!r} instead of what it has"


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(facts())) + "\n")
