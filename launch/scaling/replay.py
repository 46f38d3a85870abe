"""A program for any Python that has SimGrid: replays the buckets of a step as messages between simulated hosts.

    python replay.py PLATFORM.xml JOB.json      # prints the simulated seconds until all ranks have all sums

It imports nothing of this package, since SimGrid may be installed for another Python (Debian's), and makes one engine,
of which a process can have no second one. The job has:

    ranks       their number, one a host
    algorithm   halving, doubling or ring
    buckets     a list of [when it is ready in s, bytes]
    software_s  of a message, beside what the network's links take
    gamma       seconds to add a byte
    most_rounds of a ring that are simulated; the others are like them, and counted

An Allreduce is what MPICH makes of it: R. Thakur, R. Rabenseifner and W. Gropp, "Optimization of collective
communication operations in MPICH", IJHPCA 19(1), 2005.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

SETTINGS = (
    # A message takes its links' latencies, and then its bytes at the bandwidth that is its fair share.
    "network/model:CM02",
    "network/TCP-gamma:0",
    "network/crosstraffic:0",
)


class Exchange(NamedTuple):
    """What a rank does in a round: it sends to one rank and receives from one, either of which may be nobody (-1)."""

    to: int
    source: int
    num_bytes: float
    is_added: bool
    """Whether it adds what it has received to its own."""
    repeats: int = 1
    """Rounds that are alike."""


def halving(rank: int, ranks: int, num_bytes: float) -> Iterator[Exchange]:
    """A reduce-scatter by recursive halving, then an allgather by recursive doubling (Rabenseifner)."""
    return _among_power_of_two(rank, ranks, num_bytes, _halves)


def doubling(rank: int, ranks: int, num_bytes: float) -> Iterator[Exchange]:
    """Everyone swaps all with a partner, at distances 1, 2, 4, ..."""
    return _among_power_of_two(rank, ranks, num_bytes, _whole)


def ring(rank: int, ranks: int, num_bytes: float) -> Iterator[Exchange]:
    """Parts of 1/P go around, once to be summed and once to be known to all."""
    if ranks > 1:
        for is_added in (True, False):
            yield Exchange((rank + 1) % ranks, (rank - 1) % ranks, num_bytes / ranks, is_added, ranks - 1)


ALGORITHMS = {"halving": halving, "doubling": doubling, "ring": ring}


def _among_power_of_two(rank: int, ranks: int, num_bytes: float, exchanges: Any) -> Iterator[Exchange]:
    """Ranks beyond the largest power of two give all that they have to a neighbour first, and get the sums at last."""
    members = 1 << (ranks.bit_length() - 1)
    extra = ranks - members
    has_neighbour = rank < 2 * extra
    if has_neighbour and rank % 2 == 0:
        yield Exchange(rank + 1, -1, num_bytes, False)
        yield Exchange(-1, rank + 1, num_bytes, False)
        return
    if has_neighbour:
        yield Exchange(-1, rank - 1, num_bytes, True)
    member = rank // 2 if has_neighbour else rank - extra
    for mask, size, is_added in exchanges(members, num_bytes):
        partner = member ^ mask
        partner = 2 * partner + 1 if partner < extra else partner + extra
        yield Exchange(partner, partner, size, is_added)
    if has_neighbour:
        yield Exchange(rank - 1, -1, num_bytes, False)


def _halves(members: int, num_bytes: float) -> Iterator[tuple[int, float, bool]]:
    masks = [1 << bit for bit in range(members.bit_length() - 1)]
    for mask in masks:
        yield mask, num_bytes / (2 * mask), True
    for mask in reversed(masks):
        yield mask, num_bytes / (2 * mask), False


def _whole(members: int, num_bytes: float) -> Iterator[tuple[int, float, bool]]:
    for bit in range(members.bit_length() - 1):
        yield 1 << bit, num_bytes, True


def run(platform: str, job: dict[str, Any]) -> float:
    """Simulate a job on a platform; the seconds until the last rank has all sums."""
    simgrid: Any = importlib.import_module("simgrid")

    engine = simgrid.Engine(["replay", "--log=root.thresh:critical", *(f"--cfg={setting}" for setting in SETTINGS)])
    engine.load_platform(platform)
    meeting, finished = simgrid.Barrier(job["ranks"]), list[float]()
    for rank in range(job["ranks"]):
        host = simgrid.Host.by_name(f"host-{rank}")
        program = f"rank-{rank}", _rank, simgrid, rank, job, meeting, finished
        if hasattr(host, "add_actor"):  # from 4.0 on
            host.add_actor(*program)
        else:
            simgrid.Actor.create(program[0], host, *program[1:])
    engine.run()
    if len(finished) != job["ranks"]:
        raise RuntimeError(f"only {len(finished)} of {job['ranks']} ranks came to their end")
    return max(finished)


def _rank(simgrid: Any, rank: int, job: dict[str, Any], meeting: Any, finished: list[float]) -> None:
    """What a rank does: bucket after bucket, each when it is ready and the one before is done."""
    sleep = simgrid.this_actor.sleep_for
    for ready_s, num_bytes in job["buckets"]:
        simgrid.this_actor.sleep_until(ready_s)
        for exchange in ALGORITHMS[job["algorithm"]](rank, job["ranks"], num_bytes):
            pause_s = job["software_s"] + (exchange.num_bytes * job["gamma"] if exchange.is_added else 0.0)
            rounds = min(exchange.repeats, job["most_rounds"])
            is_cut = rounds < exchange.repeats
            if is_cut:
                meeting.wait()
            started = simgrid.Engine.clock
            for _ in range(rounds):
                _swap(simgrid, rank, exchange)
                sleep(pause_s)
            if is_cut:  # in the long run the slowest sets the pace for all
                meeting.wait()
                sleep((simgrid.Engine.clock - started) / rounds * (exchange.repeats - rounds))
    finished.append(simgrid.Engine.clock)


def _swap(simgrid: Any, rank: int, exchange: Exchange) -> None:
    """Send and receive at once."""
    sent = None
    if exchange.to >= 0:
        sent = simgrid.Mailbox.by_name(f"{rank}-{exchange.to}").put_async(True, round(exchange.num_bytes))
    if exchange.source >= 0:
        simgrid.Mailbox.by_name(f"{exchange.source}-{rank}").get()
    if sent is not None:
        sent.wait()


if __name__ == "__main__":
    with open(sys.argv[2], encoding="utf-8") as file:
        sys.stdout.write(f"{run(sys.argv[1], json.load(file))!r}\n")
