"""Ends a run that hangs, and says which rank the others wait for.

A rank that never comes to a collective, be it asleep, stopped or cut off, leaves all others waiting inside MPI, for
ever and without a word. So a thread of each rank looks on. When its rank has been in one collective for too long, it
calls a coordinator: rank 0, or where that does not react, another one, in the end itself. The coordinator asks all
ranks where they are, and their watchdogs answer, even those of ranks that sleep. After a few seconds it writes one
report (ddp.comm.stall_report) and aborts. Whoever was asked ends by itself soon after, should the abort not reach it.

The watchdogs talk by a communicator of their own, from their own threads, which needs MPI_THREAD_MULTIPLE; where the
library does not grant it, each tells of its own rank alone.
"""

from __future__ import annotations

import contextlib
import faulthandler
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from mpi4py import MPI

from ddp.comm.failure import ABORT_S, EXIT_FAILURE, MAX_STAGGER_S, STDERR, Abort, stagger
from ddp.comm.stall_report import State, own_state, report
from ddp.comm.world import World

POLL_S = 0.5
BUSY_POLL_S = 0.05
CALL_S = 1.5
"""How long a coordinator may take to react to a call, before the next candidate is called."""
COLLECT_S = 3.0
"""How long the ranks may take to say where they are."""
LAST_S = COLLECT_S + MAX_STAGGER_S + ABORT_S
"""How long after it was asked a rank ends, whatever became of the coordinator."""

CALL, ASK, STATE = 1, 2, 3
"""Tags: come and look; where are you?; here."""


class Watchdog:
    """Looks on at this rank from a thread, from `start` to `stop`.

    Attributes:
        timeout_s: how long a collective may take; 0: as long as it wants.
    """

    def __init__(self, world: World, timeout_s: float, abort: Abort) -> None:
        """Take the ranks, and what ends them; collective."""
        self.world, self.timeout_s, self.abort = world, timeout_s, abort
        with world.collective("meeting of the watchdogs"):
            self.comm = world.comm.Dup()
            self.hosts: list[str] = self.comm.allgather(world.activity.host)
            leader: int = world.node.bcast(world.rank)
        self.is_connected = MPI.Query_thread() == MPI.THREAD_MULTIPLE
        candidates = sorted({rank for rank in (0, 1, leader) if rank < world.rank})
        self.candidates = [*candidates, world.rank] if self.is_connected else [world.rank]
        self.is_asked = False
        self._states: dict[int, State] = {}
        self._sent: list[MPI.Request] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Look on."""
        if self.world.size > 1:
            self._thread.start()

    def limit(self, timeout_s: float) -> None:
        """From now on a collective may take so long; 0: as long as it wants."""
        self.timeout_s = timeout_s
        if self.world.size > 1:
            self._set_backstop()

    def stop(self) -> None:
        """Look on no more; before MPI ends."""
        self._ended.set()
        if self.world.size > 1:
            self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def _run(self) -> None:
        sequence, waited_s, last = 0, 0.0, time.monotonic()
        while not self._ended.wait(min(POLL_S, self.timeout_s / 4 or POLL_S)):
            self._serve()
            now, current = time.monotonic(), self.world.activity.current
            if current is None or current.sequence != sequence:
                sequence, waited_s = current.sequence if current else 0, 0.0
            else:
                # Of the time since the last look no more than this: more, and the whole process was stopped meanwhile.
                waited_s += min(now - last, 4 * POLL_S)
            last = now
            if 0 < self.timeout_s < waited_s and not self.is_asked:
                self._call()

    def _set_backstop(self) -> None:
        """Have the stacks written even if this thread does not come back in time, since code keeps Python's lock."""
        if self.abort.begun:
            return
        faulthandler.cancel_dump_traceback_later()
        if self.timeout_s:
            faulthandler.dump_traceback_later(max(self.timeout_s, 1.0), file=STDERR)

    def _serve(self) -> None:
        """Heed what other watchdogs have sent."""
        self._set_backstop()
        status = MPI.Status()
        while self.is_connected and self.comm.Iprobe(status=status):
            source, tag = status.source, status.tag
            content = self.comm.recv(source=source, tag=tag)
            if tag == CALL:
                self._coordinate()
            elif tag == ASK:
                self._send(own_state(self.world.activity), source, STATE)
                self._expect_end()
            else:
                self._states[source] = content

    def _call(self) -> None:
        """Have a rank coordinate: the first candidate that reacts, by asking this one."""
        for rank in self.candidates:
            if rank == self.world.rank:
                self._coordinate()
            else:
                self._send(None, rank, CALL)
            for _ in self._until(CALL_S):
                if self.is_asked:
                    return

    def _coordinate(self) -> None:
        """Ask all ranks, tell, and end the run; unless another rank does."""
        if self.is_asked or self._states:
            return
        rank, size = self.world.rank, self.world.size
        self._states[rank] = own_state(self.world.activity)
        for other in range(size) if self.is_connected else ():
            if other != rank:
                self._send(None, other, ASK)
        for _ in self._until(COLLECT_S if self.is_connected else 0):
            if self.is_asked:
                return
            if len(self._states) == size:
                break
        if self._ended.is_set():
            return
        faulthandler.cancel_dump_traceback_later()
        stagger(rank)
        sys.stderr.write(report(self._states, self.hosts if self.is_connected else None, self.timeout_s))
        sys.stderr.flush()
        self.abort(EXIT_FAILURE)

    def _expect_end(self) -> None:
        if not self.is_asked:
            self.is_asked = True
            self.abort.within(LAST_S, EXIT_FAILURE)

    def _until(self, seconds: float) -> Iterator[None]:
        """Serve for so long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self._ended.wait(BUSY_POLL_S):
            self._serve()
            yield

    def _send(self, content: Any, rank: int, tag: int) -> None:
        """Send without waiting, since the other may be gone; the request is kept, as its buffer must be."""
        with contextlib.suppress(MPI.Exception):
            self._sent.append(self.comm.isend(content, rank, tag))


@contextlib.contextmanager
def watchdog(world: World, timeout_s: float, abort: Abort) -> Iterator[Watchdog]:
    """Look on meanwhile, and after an exception too, which ends the run. Collective; all ranks must leave together."""
    dog = Watchdog(world, timeout_s, abort)
    dog.start()
    yield dog
    dog.stop()
