"""A thread that calls the MPI library while the kernels compute, so that what is on its way moves.

Measured on two hosts with 2 Gbit/s between them (docs/tracing.md): a Test each half millisecond hides nine tenths of
what one Allreduce would take, a Test between layers less, and the libraries' own progress threads take more than they
give. Kernels release the interpreter's lock.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

from mpi4py import MPI

INTERVAL_S = 0.0005


@dataclass
class Transfer:
    """A request on its way; all times by `time.perf_counter`, in seconds."""

    request: MPI.Request
    started: float
    """Before the call that began it."""
    returned: float
    """After that call."""
    completed: float | None = None
    """When it was seen to be complete."""

    @property
    def is_complete(self) -> bool:
        """Whether somebody has seen that it is."""
        return self.completed is not None

    def test(self) -> bool:
        """Look whether it is complete; lets all that is on its way move."""
        if self.request.Test():
            self.completed = time.perf_counter()
        return self.is_complete

    def wait(self) -> None:
        """Return when it is complete."""
        self.request.Wait()
        self.completed = time.perf_counter()


class ProgressThread:
    """Tests the transfers that it is given, one after the other, until they are complete."""

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        """Start the thread, which sleeps while there is nothing to do."""
        self.interval_s = interval_s
        self._transfers: deque[Transfer] = deque()
        self._testing = threading.Lock()
        self._wake, self._ends = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="MPI progress", daemon=True)
        self._thread.start()

    def add(self, transfer: Transfer) -> None:
        """Take a transfer; never waits for the thread."""
        self._transfers.append(transfer)
        self._wake.set()

    def stop(self) -> None:
        """Let the thread sleep: the caller may now wait for the transfers itself, without a pause."""
        self._wake.clear()
        with self._testing:
            self._transfers.clear()

    def close(self) -> None:
        """End the thread."""
        self._ends = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            if self._ends:
                return
            with self._testing:
                while self._transfers and self._transfers[0].test():
                    self._transfers.popleft()
            time.sleep(self.interval_s)
