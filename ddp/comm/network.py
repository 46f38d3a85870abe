"""Latency and bandwidth between ranks, by MPI ping-pong."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from mpi4py import MPI

if TYPE_CHECKING:
    from ddp.comm.world import World

LATENCY_BYTES = 8
BANDWIDTH_BYTES = 4 * 2**20
BUDGET_S = 0.2
"""What the repeats of one size may take; a slow link gets fewer of them."""
MOST_REPEATS = 200


class Link(NamedTuple):
    """Two ranks of a communicator and what a message between them takes."""

    first: int
    second: int
    latency_s: float
    """One way, for LATENCY_BYTES."""
    bytes_per_s: float
    """One way, for BANDWIDTH_BYTES."""


def rounds(n: int) -> list[list[tuple[int, int]]]:
    """All pairs of `n` players, in rounds in which none plays twice: a round-robin tournament by the circle method.

    So the pairs of 100 hosts take the time of 99 of them, not of 4,950, and each host serves one at a time.
    """
    players = list(range(n)) + [-1] * (n % 2)  # against -1, a player rests
    schedule = []
    for _ in range(len(players) - 1):
        pairs = zip(players, reversed(players), strict=True)
        pairs_of_half = [(min(pair), max(pair)) for pair in list(pairs)[: len(players) // 2]]
        schedule.append(sorted(pair for pair in pairs_of_half if pair[0] >= 0))
        players = [players[0], players[-1], *players[1:-1]]
    return schedule


def measure_links(comm: MPI.Comm) -> list[Link]:
    """Measure every pair of ranks of `comm`; collective over it, the result is whole on its rank 0 only."""
    mine = []
    for pairs in rounds(comm.size):
        for first, second in pairs:
            if comm.rank in (first, second):
                _one_way_s(comm, first, second, LATENCY_BYTES)  # the first messages make the connection
                latency_s = _one_way_s(comm, first, second, LATENCY_BYTES)
                bandwidth = BANDWIDTH_BYTES / _one_way_s(comm, first, second, BANDWIDTH_BYTES)
                if comm.rank == first:
                    mine.append(Link(first, second, latency_s, bandwidth))
    gathered = comm.gather(mine, root=0) or []
    return sorted(link for links in gathered for link in links)


def links_between_hosts(world: World) -> list[dict[str, Any]]:
    """Every pair of hosts, by their first ranks; on one host the pair of ranks 0 and 1. Collective; whole on rank 0."""
    takes_part = world.local_rank == 0 if world.num_nodes > 1 else world.rank < 2
    names = world.comm.allgather((world.host, world.rank))
    chosen = [name for name, part in zip(names, world.comm.allgather(takes_part), strict=True) if part]
    comm = world.comm.Split(0 if takes_part else 1, key=world.rank)
    links = measure_links(comm) if takes_part else []
    world.wait_for_all()  # asleep: who spins here takes a core from who measures
    comm.Free()
    return [
        {
            "hosts": [chosen[link.first][0], chosen[link.second][0]],
            "ranks": [chosen[link.first][1], chosen[link.second][1]],
            "latency_s": link.latency_s,
            "bytes_per_s": link.bytes_per_s,
        }
        for link in links
    ]


def _one_way_s(comm: MPI.Comm, first: int, second: int, num_bytes: int) -> float:
    """Half the shortest round trip, in seconds, on `first`; what `second` gets means nothing."""
    message = np.zeros(num_bytes, np.uint8)
    leads = comm.rank == first
    other = second if leads else first

    def round_trip_s() -> float:
        start = time.perf_counter()
        if leads:
            comm.Send(message, other)
        comm.Recv(message, other)
        if not leads:
            comm.Send(message, other)
        return time.perf_counter() - start

    expected_s = round_trip_s()
    repeats = min(MOST_REPEATS, 1 + int(BUDGET_S / expected_s))
    theirs = comm.sendrecv(repeats, other, source=other)
    return min([expected_s, *(round_trip_s() for _ in range(repeats if leads else theirs))]) / 2
