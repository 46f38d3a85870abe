"""Ends what is left of a job on this host: `python -m launch.cleanup TOKEN`, or this file on Python's standard input.

It imports nothing of the package, so that a host which lacks it, or has another version, can be cleaned too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

MARK = "DDP_JOB"
"""The variable in the environment of every rank."""

DAEMON_MARK = "ddp_job"
"""The setting on the command line of Open MPI's daemons, see `daemon_environment`."""

DAEMONS = {"hydra_pmi_proxy", "hydra_bstrap_pr", "orted", "prted", "prterun", "srun", "slurmstepd"}
"""Who starts ranks, by the 15 characters that the kernel keeps of a name."""

ENDED_BY_US = DAEMONS - {"srun", "slurmstepd"}
PATIENCE_S = 3.0


def daemon_environment(token: str) -> dict[str, str]:
    """What mpirun must find in its environment for its daemons on other hosts to carry the mark."""
    return {f"OMPI_MCA_{DAEMON_MARK}": token, f"PRTE_MCA_{DAEMON_MARK}": token}


def end_job(token: str) -> int:
    """Kill what carries the mark, and the daemons that started it, until nothing of it is left; how many there were."""
    ended: set[int] = set()
    deadline = time.monotonic() + PATIENCE_S
    while (found := processes_of(token)) and time.monotonic() < deadline:
        for process in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        ended |= found
        time.sleep(0.02)
    return len(ended)


def end_session(session: int) -> None:
    """Kill what is left of a session; without a /proc there is nothing to look it up in."""
    for process in _processes():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(process) == session:
                os.kill(process, signal.SIGKILL)


def processes_of(token: str) -> set[int]:
    """The ranks of a job on this host, its daemons, and nothing of this process's own."""
    found = set()
    for process in _processes():
        # Those of other users cannot be read; those that have just ended, and zombies, have nothing to read.
        with contextlib.suppress(OSError, ValueError, IndexError):
            if _is_marked(Path(f"/proc/{process}"), token):
                found.add(process)
                found |= _daemon_above(process)
    return found - {os.getpid(), os.getppid()}


def _is_marked(process: Path, token: str) -> bool:
    if f"{MARK}={token}".encode() in (process / "environ").read_bytes().split(b"\0"):
        return True
    words = (process / "cmdline").read_bytes().split(b"\0")
    return words[words.index(DAEMON_MARK.encode()) + 1] == token.encode() if DAEMON_MARK.encode() in words else False


def _daemon_above(process: int) -> set[int]:
    """The parent, if it is one of those that start ranks: Hydra's proxies carry no mark."""
    status = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    parent = int(status[1])
    return {parent} if Path(f"/proc/{parent}/comm").read_text().strip() in ENDED_BY_US else set()


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]


def main(arguments: list[str]) -> int:
    """Clean this host; the exit code."""
    (token,) = arguments
    end_job(token)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
