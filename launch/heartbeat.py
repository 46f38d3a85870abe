"""The ranks' heartbeat, as the launcher hears it: one UDP datagram a second from each, answered at once.

mpirun does not notice a host whose cable was pulled, nor a rank that was stopped. A rank that has been heard and falls
silent is gone, and so it finds itself when no answer comes any more (`ddp.comm.heartbeat`).
"""

from __future__ import annotations

import contextlib
import json
import math
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from launch.event_loop import EventLoop
from launch.hosts import Host, is_local
from launch.wording import plural

LARGEST = 4096
TICK_S = 1.0

REFUSAL_S = 0.2
"""How long refusals count after the question: Open MPI leaves the other ranks 0.25 s when one has failed."""

RECEIVE_ERRORS = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
"""Linux' IP_RECVERR: keep what the network says of datagrams that could not be delivered, and to whom."""


@dataclass(frozen=True)
class Beat:
    """What a rank last said of itself."""

    rank: int
    host: str
    pid: int
    step: int
    """-1 before training begins."""
    doing: str
    """The collective that it was in; empty: none."""
    leaving: bool
    """Whether it was about to end."""
    heard: float
    """When, by `time.monotonic`."""

    @property
    def where(self) -> str:
        """In words: `last at step 117, in 'sum of gradients'`."""
        step = f"step {self.step}" if self.step >= 0 else "its start"
        return f"last at {step}" + (f", in {self.doing!r}" if self.doing else "")


class Heartbeats:
    """Listens to the ranks of one job."""

    def __init__(
        self, token: str, address: str, silence_s: float, hosts: Sequence[str], warn: Callable[[str], object]
    ) -> None:
        """Open a socket.

        Args:
            token: marks the datagrams of this job.
            address: of this machine, as the ranks reach it.
            silence_s: how long a rank may be silent.
            hosts: of each rank, as the plan has it.
            warn: takes a line for the user.
        """
        self.token, self.silence_s, self.hosts, self.warn = token, silence_s, hosts, warn
        self.beats: dict[int, Beat] = {}
        self._address = address
        self._socket = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(*RECEIVE_ERRORS[self._socket.family], 1)
        self._socket.bind((address, 0))
        self._begun = self._looked = time.monotonic()
        self._has_warned = False
        self._senders: dict[Any, int] = {}
        self._asked = math.inf
        self.gone: list[int] = []
        """Ranks whose processes were no more when `ask` asked."""

    @property
    def variable(self) -> str:
        """DDP_HEARTBEAT, which tells ranks where to send."""
        return f"{self._address} {self._socket.getsockname()[1]} {self.silence_s:g}"

    def begin(self, loop: EventLoop, fail: Callable[[str], object]) -> None:
        """Listen in this loop; `fail` gets the line that names ranks which have fallen silent."""
        self._begun = self._looked = time.monotonic()
        loop.on_readable(self._socket.fileno(), self.receive)

        def look() -> None:
            self.receive()
            if message := self.silent(time.monotonic()):
                fail(message)

        loop.every(TICK_S, look)

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()

    def receive(self) -> None:
        """Take all datagrams that have come, and answer them."""
        answer = json.dumps({"job": self.token}).encode()
        while True:
            try:
                data, sender = self._socket.recvfrom(LARGEST)
            except BlockingIOError:
                self._take_refusals()
                return
            except OSError:  # an answer could not be delivered
                self._take_refusals()
                continue
            if beat := self._read(data):
                self.beats[beat.rank], self._senders[sender] = beat, beat.rank
                with contextlib.suppress(OSError):
                    self._socket.sendto(answer, sender)

    def ask(self) -> None:
        """Find out, now that something has gone wrong, which processes are no more; once.

        A host answers a datagram for a process that has died with a refusal, at once. When mpirun ends all others a
        moment later, nobody can tell any more who was the first.
        """
        if self._asked < math.inf:
            return
        self._asked = time.monotonic()
        for sender in self._senders:
            for _ in range(2):  # the first may fail because of another
                try:
                    self._socket.sendto(json.dumps({"job": self.token}).encode(), sender)
                    break
                except OSError:
                    self._take_refusals()

    def _take_refusals(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                _, _, _, sender = self._socket.recvmsg(LARGEST, LARGEST, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
                rank = self._senders.get(sender)
                is_recent = self._asked <= time.monotonic() < self._asked + REFUSAL_S
                if rank is not None and is_recent and rank not in self.gone and not self.beats[rank].leaving:
                    self.gone.append(rank)

    def _read(self, data: bytes) -> Beat | None:
        """A datagram of this job's; None for any other."""
        try:
            said: dict[str, Any] = json.loads(data)
            if said["job"] != self.token or not 0 <= int(said["rank"]) < len(self.hosts):
                return None
            return Beat(
                rank=int(said["rank"]),
                host=str(said["host"]),
                pid=int(said["pid"]),
                step=int(said["step"]),
                doing=str(said["doing"]),
                leaving=bool(said["leaving"]),
                heard=time.monotonic(),
            )
        except (ValueError, KeyError, TypeError):
            return None

    def silent(self, now: float) -> str:
        """The line that names who has been silent for too long, whole hosts first; empty if nobody has."""
        slept_s = now - self._looked - 2 * TICK_S
        self._looked = now
        if slept_s > 0:  # it was this process that was stopped
            self._begun += slept_s
            self.beats = {r: Beat(**{**vars(b), "heard": b.heard + slept_s}) for r, b in self.beats.items()}
        present = [beat for beat in self.beats.values() if not beat.leaving]
        if all(now - beat.heard <= self.silence_s for beat in present):
            self._warn_of_unheard(now)
            return ""
        # Those that fell silent for the same reason may have spoken a second later.
        return self._message([beat for beat in present if now - beat.heard > self.silence_s - 2 * TICK_S])

    def _message(self, silent: Sequence[Beat]) -> str:
        ranks = {beat.rank for beat in silent}
        dead = [host for host in dict.fromkeys(self.hosts) if self._is_dead(host, ranks)]
        on_dead = set().union(*map(self.ranks_on, dead))
        names = [f"any rank on {host} ({plural('rank', self.ranks_on(host))})" for host in dead]
        names += [f"rank {beat.rank} on {beat.host}" for beat in silent if beat.rank not in on_dead]
        oldest = min(silent, key=lambda beat: (beat.rank not in on_dead, beat.rank))
        return f"no heartbeat from {', '.join(names)} for {self.silence_s:g} s ({oldest.where})"

    def ranks_on(self, host: str) -> set[int]:
        """The ranks that were heard from a host of the plan."""
        return {rank for rank in self.beats if self.hosts[rank] == host}

    def _is_dead(self, host: str, silent: set[int]) -> bool:
        """Whether all of a host's ranks are silent, there being several, and other hosts."""
        ranks = self.ranks_on(host)
        return len(ranks) > 1 and ranks <= silent and len(set(self.hosts)) > 1

    def _warn_of_unheard(self, now: float) -> None:
        """Once, of those that have never been heard of."""
        unheard = [rank for rank in range(len(self.hosts)) if rank not in self.beats]
        if self._has_warned or not unheard or now - self._begun <= self.silence_s:
            return
        self._has_warned = True
        where = ", ".join(dict.fromkeys(self.hosts[rank] for rank in unheard))
        self.warn(
            f"warning: nothing heard of {plural('rank', unheard)} on {where} for {self.silence_s:g} s: a hang there"
            f" will not be noticed; does a firewall block UDP to {self._address}?"
        )

    def step_of(self, ranks: Iterable[int]) -> int:
        """The last step that any of these ranks told; -1 if none did."""
        return max((self.beats[rank].step for rank in ranks if rank in self.beats), default=-1)

    def rank_of(self, pid: int, host: str) -> int | None:
        """Which rank that process is."""
        return next((b.rank for b in self.beats.values() if b.pid == pid and same_host(b.host, host)), None)


def same_host(one: str, other: str) -> bool:
    """Whether two names are the same host's, with or without its domain."""
    return one == other or one.partition(".")[0] == other.partition(".")[0]


def address_towards(hosts: Sequence[Host]) -> str:
    """This machine's address, as the first other host reaches it; the loopback if there is none."""
    for host in hosts:
        if is_local(host):
            continue
        with contextlib.suppress(OSError):
            family, kind, _, _, where = socket.getaddrinfo(host.name, 9, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, kind) as probe:
                probe.connect(where)  # which sends nothing, but finds the route
                return str(probe.getsockname()[0])
    return "127.0.0.1"
