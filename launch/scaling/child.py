"""Runs the launcher as a child of a study: its output in a file, ended at once when the study is to end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""SIGUSR1 is a batch system's word that the time is over."""
GRACE_S = 30.0
"""How long the launcher, which itself ends ranks that do not end within 5 s, may take to end on all hosts."""
POLL_S = 1.0
"""Seldom: what is measured runs on the same cores."""


class Interrupted(Exception):
    """A signal has ended the study; `code` is its exit code."""

    def __init__(self, number: int) -> None:
        """Take the signal."""
        super().__init__(number)
        self.code = 128 + (signal.SIGTERM if number == signal.SIGUSR1 else number)


class Children:
    """As a context manager, turns signals that ask for the end into `Interrupted`, once no child is left.

    A child gets every one of them as SIGINT: the launcher then ends its ranks within seconds, where SIGTERM would let
    them write a checkpoint, for which a study has no use.
    """

    def __init__(self) -> None:
        """No child, no signal."""
        self._child: subprocess.Popen[bytes] | None = None
        self._is_starting = False
        self._number: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        """Catch signals."""
        caught = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]  # as of nohup
        self._previous = {number: signal.signal(number, self._signalled) for number in caught}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let signals be again what they were."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _signalled(self, number: int, _frame: FrameType | None) -> None:
        self._number = self._number or number
        if self._child is not None:
            self._child.send_signal(signal.SIGINT)
        elif not self._is_starting:
            raise Interrupted(self._number)

    def run(
        self,
        command: Sequence[str],
        output: Path,
        errors: Path | None = None,
        until: Callable[[], bool] | None = None,
    ) -> int:
        """Run a command to its end; its exit code, 128 + N if signal N ended it.

        Args:
            command: in a session of its own, so that a Ctrl-C in the terminal reaches it through this process alone.
            output: a file for what it writes.
            errors: another one for its standard error.
            until: asked every POLL_S; once it says yes, the command gets a SIGTERM.

        Raises:
            Interrupted: if a signal came to this process meanwhile.
        """
        self._is_starting = True
        with output.open("wb") as out, (errors or Path(os.devnull)).open("wb") as err:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err if errors else out, start_new_session=True
            )
        try:
            self._child, self._is_starting = child, False
            if self._number is not None:
                child.send_signal(signal.SIGINT)
            code = self._wait(child, until)
        finally:
            self._child, self._is_starting = None, False
            if child.poll() is None:
                _kill(child)
        if self._number is not None:
            raise Interrupted(self._number)
        return code if code >= 0 else 128 - code

    def _wait(self, child: subprocess.Popen[bytes], until: Callable[[], bool] | None) -> int:
        process = os.pidfd_open(child.pid)
        deadline: float | None = None
        try:
            while not select.select([process], [], [], POLL_S)[0]:
                if until is not None and until():
                    child.terminate()
                    until = None
                if self._number is not None:
                    deadline = deadline or time.monotonic() + GRACE_S
                    if time.monotonic() > deadline:
                        _kill(child)
        finally:
            os.close(process)
        return child.wait()


def _kill(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
