"""The processes of the cluster's hosts, as seen from outside."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

LISTENER = "sshd: /usr/sbin/sshd -D"
"""How the process begins that waits for connections; those of connections are `sshd: root@notty`."""
WAIT_S = 20.0


class ClusterError(RuntimeError):
    """The cluster, or a command on it, failed."""


@dataclass(frozen=True)
class Process:
    """A process of a host, by its id outside."""

    pid: int
    parent: int
    arguments: tuple[str, ...]
    environment: Mapping[str, str]

    def __str__(self) -> str:
        """For messages."""
        return f"{self.pid}: {' '.join(self.arguments)}"


def processes_of(init: int) -> list[Process]:
    """All in the pid namespace of this process 1, but for itself and those that have ended."""
    inside = namespace(init, "pid")
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        with contextlib.suppress(OSError):
            if pid == init or namespace(pid, "pid") != inside:
                continue
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            arguments = _split((entry / "cmdline").read_bytes())
            variables = dict(text.partition("=")[::2] for text in _split((entry / "environ").read_bytes()))
            if arguments:  # else it has ended
                found.append(Process(pid, parent, arguments, variables))
    return found


def namespace(pid: int | str, kind: str) -> str:
    """Which namespace of a kind a process is in.

    Raises:
        OSError: if it has ended.
    """
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def is_running(pid: int) -> bool:
    """Whether it has not ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> list[int]:
    """Of its main thread."""
    try:
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
    """Wait for it.

    Raises:
        ClusterError: that names `what`, if it does not come true.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(0.01)


def _split(text: bytes) -> tuple[str, ...]:
    return tuple(part.decode(errors="replace") for part in text.split(b"\0") if part)
