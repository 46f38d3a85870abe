"""Runs mpirun as a child, passes signals on to it, and leaves no rank behind.

mpirun and its ranks get a session of their own, so that a Ctrl-C in the terminal reaches them once, through
the launcher. Open MPI puts each rank into a process group of its own but leaves it in mpirun's session, and
its ranks outlive an mpirun that was killed: they are ended by their session. MPICH's ranks have sessions of
their own, and its proxy ends them as soon as mpirun is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

GRACE_S = 5.0
"""How long ranks may take to end after the first SIGINT, SIGTERM or SIGHUP, in seconds."""

EXIT_RESUMABLE = 75
"""The exit code of a job that has written a checkpoint because a signal asked it to."""

_Handler = Callable[[int, FrameType | None], None]


@dataclass(frozen=True)
class Ended:
    """How a job ended."""

    code: int
    was_signalled: bool
    """Whether a signal came to this process meanwhile: then the end is wanted, whatever the code."""


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    grace_s: float = GRACE_S,
    output: IO[bytes] | None = None,
    errors: IO[bytes] | None = None,
) -> int:
    """As `watch`, for a command that needs no time for a checkpoint; the exit code."""
    return watch(command, environment, grace_s, output=output, errors=errors).code


def watch(
    command: Sequence[str],
    environment: Mapping[str, str],
    grace_s: float = GRACE_S,
    checkpoint_s: float | None = None,
    output: IO[bytes] | None = None,
    errors: IO[bytes] | None = None,
) -> Ended:
    """Run `command` to its end in this environment; its output is not touched.

    A child killed by signal n counts as exit code 128 + n. SIGINT, SIGTERM and SIGHUP are passed on; what still
    runs `grace_s` seconds later, or at the second such signal, is killed, and 128 plus the first signal is
    the code, unless the child ended with 0 or EXIT_RESUMABLE all the same. SIGUSR1 is passed on and nothing else.
    While it runs, the handlers of these signals and the real-time interval timer of this process are in use;
    call it from the main thread.

    Args:
        command: mpirun and its arguments.
        environment: all of it.
        grace_s: how long the ranks may take to end.
        checkpoint_s: if given, SIGTERM is passed on as SIGUSR1, and the ranks have so many seconds more: Open MPI's
            mpirun kills them 0.25 s after a SIGTERM, and every mpirun passes SIGUSR1 on without a limit.
        output: where its standard output goes; default: where the launcher's own does.
        errors: the same of its standard error.

    Raises:
        OSError: if the command cannot be started.
    """
    job = _Job(grace_s, checkpoint_s)
    with _handling(job.handlers()):
        child = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
        job.started(child.pid)
        code = child.wait()
    _kill_session(child.pid)
    code = code if code >= 0 else 128 - code
    if job.stopped_by is not None and code not in (0, EXIT_RESUMABLE):
        code = 128 + job.stopped_by
    return Ended(code, job.was_signalled)


class _Job:
    """mpirun while it runs, and what a signal to the launcher does to it."""

    def __init__(self, grace_s: float, checkpoint_s: float | None) -> None:
        self.grace_s, self.checkpoint_s = grace_s, checkpoint_s
        self.pid: int | None = None
        self.stopped_by: int | None = None
        self.was_signalled = False
        # What came while the child was being made: it may run, and signal us, before Popen has returned.
        self.early: list[int] = []

    def handlers(self) -> dict[int, _Handler]:
        handlers: dict[int, _Handler] = {
            signal.SIGINT: self.stop,
            signal.SIGTERM: self.stop,
            signal.SIGHUP: self.stop,
            signal.SIGUSR1: self.forward,
            signal.SIGALRM: self.kill,
        }
        # nohup's way to let a job outlive its terminal.
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            del handlers[signal.SIGHUP]
        return handlers

    def started(self, pid: int) -> None:
        self.pid = pid
        for number in self.early:
            self.forward(number, None)

    def forward(self, number: int, _frame: FrameType | None) -> None:
        self.was_signalled = True
        if self.pid is None:
            self.early.append(number)
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def stop(self, number: int, _frame: FrameType | None) -> None:
        if self.stopped_by is not None:
            self.kill(number, None)
            return
        self.stopped_by = number
        if number == signal.SIGTERM and self.checkpoint_s is not None:
            signal.setitimer(signal.ITIMER_REAL, self.checkpoint_s + self.grace_s)
            self.forward(signal.SIGUSR1, None)
        else:
            signal.setitimer(signal.ITIMER_REAL, self.grace_s)
            self.forward(number, None)

    def kill(self, _number: int, _frame: FrameType | None) -> None:
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)


@contextlib.contextmanager
def _handling(handlers: Mapping[int, _Handler]) -> Iterator[None]:
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _kill_session(session: int) -> None:
    """End what mpirun left behind; without a /proc there is nothing to look it up in."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(int(entry.name)) == session:
                os.kill(int(entry.name), signal.SIGKILL)
