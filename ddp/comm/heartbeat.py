"""A rank's signs of life for the launcher that started it, and the launcher's for the rank.

Each is a UDP datagram of JSON, one a second: the rank says what it is doing, the launcher answers. So the launcher
sees which rank of which host is gone or stuck while mpirun waits for ever, and no rank outlives its launcher: MPI
libraries do neither when a link is down for good. A rank beats from before MPI is loaded until after the last
collective.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ddp.comm.activity import Activity
from ddp.comm.failure import EXIT_FAILURE, stagger

BEAT_S = 1.0
LONGEST_BEAT_S = 2 * BEAT_S
"""What counts of the time between two beats: if it was more, this process or its machine was stopped, not the other."""
MAX_BYTES = 2000
DAEMONS = {"prted", "orted"}
"""What Open MPI's mpirun starts on each other host; without its ranks it would wait there for a lost mpirun."""


class Heartbeat:
    """Beats on a thread of its own, from `start` to `stop`."""

    def __init__(
        self, job: str, address: str, port: int, silence_s: float, activity: Activity, abort: Callable[[int], object]
    ) -> None:
        """Take what the launcher told.

        Args:
            job: the token of the run, which both sides' datagrams bear.
            address: of the launcher; a name or an IPv4 or IPv6 address.
            port: its UDP port.
            silence_s: after so many seconds without an answer the launcher is gone, if it has answered before.
            activity: of this rank, which is told.
            abort: ends all ranks with an exit code.

        Raises:
            OSError: if the address cannot be resolved or reached.
        """
        self.job, self.silence_s, self.activity, self.abort = job, silence_s, activity, abort
        family, kind, protocol, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0]
        self._socket = socket.socket(family, kind, protocol)
        self._socket.connect(where)
        self._socket.setblocking(False)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Beat, at once and then regularly."""
        self._send(leaving=False)
        self._thread.start()

    def stop(self, leaving: bool) -> None:
        """Beat no more; with a last word if this rank leaves in good order."""
        self._ended.set()
        self._thread.join()
        if leaving:
            self._send(leaving=True)
        self._socket.close()

    def _run(self) -> None:
        silent_s, was_answered, last = 0.0, False, time.monotonic()
        while not self._ended.wait(BEAT_S):
            now = time.monotonic()
            silent_s, last = silent_s + min(now - last, LONGEST_BEAT_S), now
            if self._is_answered():
                silent_s, was_answered = 0.0, True
            if was_answered and silent_s > self.silence_s:
                self._give_up()
            self._send(leaving=False)

    def _send(self, leaving: bool) -> None:
        # Refused where nobody listens (any more), impossible where the link is down: the answers' absence tells both.
        with contextlib.suppress(OSError):
            self._socket.send(json.dumps(beat(self.job, self.activity, leaving)).encode())

    def _is_answered(self) -> bool:
        """Whether anything of the launcher has come since the last call."""
        found = False
        with contextlib.suppress(OSError):
            while True:
                found |= _job_of(self._socket.recv(MAX_BYTES)) == self.job
        return found

    def _give_up(self) -> None:
        activity = self.activity
        stagger(activity.rank)
        sys.stderr.write(
            f"error: rank {activity.rank} on {activity.host} failed {activity.place()}: no answer from the launcher for"
            f" {self.silence_s:g} s: it or the network is gone\n"
        )
        sys.stderr.flush()
        end_daemon(os.getppid())
        self.abort(EXIT_FAILURE)


def beat(job: str, activity: Activity, leaving: bool) -> dict[str, str | int | float | bool]:
    """What a datagram says."""
    current = activity.current
    told = current or activity.last
    return {
        "job": job,
        "rank": activity.rank,
        "host": activity.host,
        "pid": os.getpid(),
        "step": activity.step,
        "doing": current.name if current else "",
        "sequence": told.sequence,
        "bytes": told.num_bytes,
        "for_s": round(time.monotonic() - current.began, 3) if current else 0.0,
        "leaving": leaving,
    }


def end_daemon(parent: int) -> None:
    """Kill the process that started this rank, if it is Open MPI's daemon on this host.

    Cut off from mpirun, it waits as long as TCP does, a quarter of an hour. MPICH's ends with its ranks.
    """
    with contextlib.suppress(OSError):
        if Path(f"/proc/{parent}/comm").read_text().strip() in DAEMONS:
            os.kill(parent, signal.SIGKILL)


def _job_of(datagram: bytes) -> str | None:
    with contextlib.suppress(ValueError, AttributeError):
        job = json.loads(datagram).get("job")
        return job if isinstance(job, str) else None
    return None


@contextlib.contextmanager
def heartbeat(
    activity: Activity, abort: Callable[[int], object], environment: Mapping[str, str] = os.environ
) -> Iterator[None]:
    """Beat meanwhile, if a launcher listens: DDP_HEARTBEAT is `<address> <port> <silence_s>`, DDP_JOB the token.

    Raises:
        ValueError: if that variable holds anything else.
        OSError: if the address cannot be resolved.
    """
    wanted = environment.get("DDP_HEARTBEAT", "")
    if not wanted:
        yield
        return
    address, port, silence_s = wanted.split()
    beating = Heartbeat(environment.get("DDP_JOB", ""), address, int(port), float(silence_s), activity, abort)
    beating.start()
    try:
        yield
    except BaseException:
        beating.stop(leaving=False)
        raise
    beating.stop(leaving=True)
