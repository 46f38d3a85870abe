"""SIGTERM and SIGUSR1 ask a run to end after the present step; a second signal ends it where it stands.

Python calls a handler between two byte codes, which a rank that waits inside MPI may not reach for long. But
the interpreter's own handler, in C, also writes the signal's number into a pipe, at once and on whichever
thread it comes; a thread of ours waits there, takes note, and keeps the time.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from ddp.comm import environment
from ddp.comm.failure import EXIT_FAILURE, EXIT_RESUMABLE, STAGGER_S, print_error, stagger

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
SAME_S = 1.0
"""Signals that come within so many seconds of the first are that signal, by another way: batch systems send it to
every process, and mpirun passes on to the ranks its own copy."""

_POLL_S = 0.2
_STAGGER_S = 2.0  # between rank 0 and the others at the end of the grace: Open MPI 4 takes a second to abort
_ABORT_S = 5.0


def signal_name(number: int) -> str:
    """Such as SIGTERM."""
    return signal.Signals(number).name


class StopSignals:
    """The signals of this process, from `install` on.

    Attributes:
        requested: the first signal that came, if any.
        grace_s: seconds from the first signal until the run is ended where it stands.
        abort: ends every rank of the run with an exit code.
        has_work: whether there is anything to lose: a run that is ended before its first step can be resumed.
    """

    def __init__(self, abort: Callable[[int], object] = os._exit, grace_s: float = 30.0) -> None:
        """Take how to end the run, and when; both may be set anew at any time."""
        self.requested: signal.Signals | None = None
        self.grace_s, self.abort, self.has_work = grace_s, abort, False
        self._leaves = False
        self._pipe = (-1, -1)

    def install(self) -> None:
        """Catch the signals from now on; from the main thread."""
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, self._handle)
            signal.siginterrupt(number, False)  # libraries need not expect that their calls are interrupted
        threading.Thread(target=self._watch, name="stop signals", daemon=True).start()

    def remove(self) -> None:
        """Let the signals do what they do by default; for tests."""
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        os.close(self._pipe[1])

    def until_signal(self, action: Callable[[], None]) -> None:
        """Run `action`, which communicates with no other rank, and leave it where it stands when a signal comes."""
        try:
            self._leaves = True
            if self.requested is None:
                action()
        except _SignalCame:
            pass
        finally:
            self._leaves = False

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.requested = self.requested or signal.Signals(number)
        if self._leaves:
            self._leaves = False
            raise _SignalCame

    def _watch(self) -> None:
        number = None
        while number is None:
            number = self._next(None)
            if number == _CLOSED:
                return
        self.requested = self.requested or signal.Signals(number)
        first = time.monotonic()
        while (left := first + self.grace_s - time.monotonic()) > 0:
            number = self._next(min(_POLL_S, left))
            if number == _CLOSED:
                return
            if number is not None and time.monotonic() > first + SAME_S:
                self._end(128 + number, f"a second signal, {signal_name(number)}: stopped at once")
        told = f"checkpoint.grace_s = {self.grace_s:g} s after {self.requested.name}"
        if self.has_work:
            self._end(
                EXIT_FAILURE,
                f"{told}: no end of the step, stopped; the newest checkpoint is an earlier one",
                _STAGGER_S,
            )
        self._end(EXIT_RESUMABLE, f"{told}: stopped before the first step; nothing is lost", _STAGGER_S)

    def _next(self, timeout_s: float | None) -> int | None:
        """The next of our signals; None after the time-out, or for a signal of others."""
        if not select.select([self._pipe[0]], [], [], timeout_s)[0]:
            return None
        number = int.from_bytes(os.read(self._pipe[0], 1), "little")
        return number if number in (*SIGNALS, _CLOSED) else None

    def _end(self, code: int, reason: str, stagger_s: float = STAGGER_S) -> NoReturn:
        stagger(environment.launched_rank(), stagger_s)
        print_error(reason)
        # Should the MPI library wait for the main thread, mpirun sees this process end instead.
        threading.Timer(_ABORT_S, os._exit, [code]).start()
        self.abort(code)
        os._exit(code)


_CLOSED = 0
"""What is read from a pipe that is closed at the other end."""


class _SignalCame(BaseException):
    """Leaves what is running; no `except Exception` on the way stops it."""
