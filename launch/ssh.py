"""Runs a command on several hosts at once, through ssh; none can hang the launcher."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from launch.hosts import Host, is_local

MOST_AT_ONCE = 64
CONNECT_S = 5
NO_SSH = 255
"""What ssh itself ends with when it does not reach the host."""

OPTIONS = ("-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_S}", "-o", "ServerAliveInterval=5")
"""Never asks for a password; gives a silent host up after CONNECT_S seconds, and a connection after 15."""

CARRIED = ("PYTHONPATH", "LD_LIBRARY_PATH", "NUMBA_CACHE_DIR", "DDP_JOB")
"""Variables of this process that a command on another host is given too; a login of ssh's has none of them."""


@dataclass(frozen=True)
class Answer:
    """What came of a command on a host."""

    host: Host
    code: int | None
    """Its exit code, NO_SSH if the host could not be reached; None: no end within the time-out."""
    output: str
    errors: str

    @property
    def problem(self) -> str:
        """What went wrong, in one line; empty if nothing."""
        if self.code is None:
            return "no answer within the time-out"
        if self.code == 0:
            return ""
        said = [line for line in self.errors.splitlines() if line.strip()]
        return said[-1].strip() if said else f"exit code {self.code}"


def ssh_command(host: Host, command: Sequence[str], environment: Mapping[str, str], cwd: str) -> list[str]:
    """The argument list that runs `command` on another host, in the folder `cwd`, with these variables set."""
    assignments = [f"{name}={environment[name]}" for name in CARRIED if name in environment]
    line = f"cd {shlex.quote(cwd)} && exec {shlex.join(['env', *assignments, *command])}"
    return ["ssh", *OPTIONS, "--", host.name, line]


def run_on(hosts: Sequence[Host], command: Sequence[str], timeout_s: float, input_text: str = "") -> list[Answer]:
    """Run `command` on every host, all at once, in this working directory; on this machine without ssh.

    Args:
        hosts: where.
        command: arguments; no shell reads them.
        timeout_s: after so many seconds the command (here, not what it started there) is killed.
        input_text: its standard input.

    Returns:
        An answer for each host, in their order; a host that cannot be reached is one with a `problem`.
    """
    if not hosts:
        return []
    with ThreadPoolExecutor(min(len(hosts), MOST_AT_ONCE)) as pool:
        return list(pool.map(lambda host: _run(host, command, timeout_s, input_text), hosts))


def _run(host: Host, command: Sequence[str], timeout_s: float, input_text: str) -> Answer:
    remote = not is_local(host)
    if remote and shutil.which("ssh") is None:
        return Answer(host, NO_SSH, "", "no ssh on PATH: install an ssh client")
    arguments = ssh_command(host, command, os.environ, os.getcwd()) if remote else list(command)
    try:
        done = subprocess.run(
            arguments,
            input=input_text,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return Answer(host, None, "", "")
    except OSError as error:
        return Answer(host, 127, "", f"{arguments[0]}: {error.strerror}")
    return Answer(host, done.returncode, done.stdout, done.stderr)
