"""The messages that make a collective, round by round, and which of them a library sends for which sum.

Where the number of ranks is no power of two, some fold their part into a neighbour's first and get the result at the
end: two more rounds of the whole buffer, which for a long one is most of the time. If an odd number of ranks folds, a
neighbour's first partner has nothing to wait for, and sends to the same link at the same time.
Sources: R. Thakur, R. Rabenseifner and W. Gropp, "Optimization of collective communication operations in MPICH",
IJHPCA 19(1), 2005; the tables by which MPICH 5.0 (maint/tuning/coll) and Open MPI 5.0 (coll/tuned) choose.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

Medium = Literal["node", "network"]


@dataclass(frozen=True)
class Round:
    """Messages that are on their way at once, and what is then done with them."""

    sent: float
    """Bytes of the longest that a rank sends; between nodes, that a node does."""
    total: float
    """Bytes of all together: what a medium carries that all of them share."""
    added: float = 0.0
    """Bytes that a rank adds to others."""
    times: int = 1
    """How many such rounds follow each other."""
    medium: Medium = "network"
    calls: int = 0
    """Calls of the library that begin here."""
    one_way: bool = False
    """Whether links are used in one direction only: another sum may use the other one meanwhile."""
    mutual: bool = False
    """Whether partners send to each other, by one connection."""
    beside: float = 0.0
    """Bytes of the next round that come by the same link already."""


Schedule = tuple[Round, ...]
Algorithm = Callable[[int, float], Schedule]
"""From the number of ranks and of bytes."""


def power_below(ranks: int) -> int:
    """The largest power of two that is no larger."""
    return 1 << (ranks.bit_length() - 1)


def rounds(ranks: int) -> int:
    """Steps in which P ranks can all hear of each other, each sending one message a step: log2 P, rounded up."""
    return math.ceil(math.log2(ranks))


def _folded(ranks: int, n: float, first: float, core: Callable[[int, float], list[Round]]) -> Schedule:
    """A power of two of ranks does it, after the others have given it theirs and before they get the result.

    `first`: bytes of the core's first message.
    """
    power = power_below(ranks)
    rest = ranks - power
    if rest == 0:
        return tuple(core(power, n))
    beside = first if rest % 2 and power > 1 else 0.0
    fold, unfold = Round(n, rest * n, n, one_way=True, beside=beside), Round(n, rest * n, one_way=True)
    return (fold, *core(power, n), unfold)


def doubling(ranks: int, n: float) -> Schedule:
    """Everyone swaps all with a partner, again and again."""

    def core(power: int, n: float) -> list[Round]:
        return [Round(n, power * n, n, rounds(power), mutual=True)] if power > 1 else []

    return _folded(ranks, n, n, core)


def halving(ranks: int, n: float) -> Schedule:
    """A reduce-scatter by recursive halving, then an allgather by doubling (Rabenseifner)."""

    def core(power: int, n: float) -> list[Round]:
        sizes = [n / 2**k for k in range(1, rounds(power) + 1)]
        down = [Round(size, power * size, size, mutual=True) for size in sizes]
        return down + [Round(size, power * size, mutual=True) for size in reversed(sizes)]

    return _folded(ranks, n, n / 2, core)


def ring(ranks: int, n: float) -> Schedule:
    """Parts go round twice: to be added, then to be known."""
    if ranks == 1:
        return ()
    part = n / ranks
    mutual = ranks == 2
    return Round(part, n, part, ranks - 1, mutual=mutual), Round(part, n, 0.0, ranks - 1, mutual=mutual)


def gather_and_add(ranks: int, n: float) -> Schedule:
    """Everyone gets all buffers, and adds them."""
    return (Round(n, ranks * n, n, ranks - 1),) if ranks > 1 else ()


def reduce_and_broadcast(ranks: int, n: float) -> Schedule:
    """Down a binomial tree to one rank, and back up."""
    if ranks == 1:
        return ()
    steps = rounds(ranks)
    each = (ranks - 1) / steps * n
    return Round(n, each, n, steps), Round(n, each, 0.0, steps)


def exchange(ranks: int, n: float) -> Schedule:
    """Everyone sends to the next rank."""
    return (Round(n, ranks * n, mutual=ranks == 2),) if ranks > 1 else ()


def dissemination(ranks: int) -> Schedule:
    """A barrier."""
    return (Round(0.0, 0.0, 0.0, rounds(ranks)),) if ranks > 1 else ()


def on_nodes(algorithm: Algorithm, ranks: int, nodes: int, n: float) -> Schedule:
    """Between nodes by one algorithm; before and after it, the ranks of each node among themselves by halves."""
    inside = ranks if nodes == 1 else -(-ranks // nodes)
    if nodes == 1:
        return tuple(replace(each, medium="node") for each in algorithm(ranks, n))
    within = [replace(each, medium="node") for each in halving(inside, n)]
    return (*within, *algorithm(nodes, n))


_Table = tuple[tuple[float, Algorithm], ...]
"""Below which number of bytes which algorithm."""
_LAST = math.inf
_DISJOINT: tuple[tuple[float, _Table], ...] = (
    (3, ((_LAST, doubling),)),
    (4, ((_LAST, gather_and_add),)),
    (8, ((1 << 20, gather_and_add), (_LAST, doubling))),
    (16, ((1 << 18, gather_and_add), (1 << 20, halving), (_LAST, doubling))),
    (32, ((1 << 15, gather_and_add), (1 << 17, reduce_and_broadcast), (_LAST, halving))),
    (64, ((1 << 15, gather_and_add), (1 << 17, doubling), (_LAST, halving))),
    (128, ((1 << 18, doubling), (_LAST, halving))),
    (256, ((1 << 17, reduce_and_broadcast), (1 << 18, doubling), (_LAST, halving))),
    (512, ((1 << 12, reduce_and_broadcast), (_LAST, halving))),
    (_LAST, ((1 << 11, reduce_and_broadcast), (1 << 14, doubling), (_LAST, halving))),
)
"""Open MPI's choice by ranks, one a node, and bytes."""


def _of_open_mpi(ranks: int, nodes: int, n: float) -> Algorithm:
    if nodes == 1:
        return doubling if n < (1 << 12) else halving
    table = next(table for below, table in _DISJOINT if nodes < below)
    return next(algorithm for below, algorithm in table if n < below)


def sum_schedule(library: str, ranks: int, nodes: int, n: float, blocking: bool = True) -> Schedule:
    """One Allreduce or Iallreduce of n bytes by a library, such as `MPICH 5.0.2`; unknown ones are taken for MPICH.

    Open MPI's Iallreduce is that which `ddp.comm.environment.prepare` sets.
    """
    if library.startswith("Open MPI"):
        algorithm = _of_open_mpi(ranks, nodes, n) if blocking else halving
    else:
        between = nodes if nodes > 1 else ranks
        short = n <= (8 if blocking else 2048) or n // 4 < power_below(between)
        algorithm = doubling if short else halving
    return as_one_call(on_nodes(algorithm, ranks, nodes, n))


def scatter_and_gather(library: str, ranks: int, nodes: int, n: float) -> Schedule:
    """Reduce_scatter, then Allgatherv: pairwise and round a ring if long, by halves and doubling if short."""
    algorithm: Algorithm = ring if n >= (1 << 19) else halving
    medium: Medium = "node" if nodes == 1 else "network"
    inside = 1 if nodes == 1 else -(-ranks // nodes)
    # All ranks of a node share its link; most of what they send leaves the node.
    shared = tuple(replace(each, sent=each.sent * inside, medium=medium) for each in algorithm(ranks, n))
    return as_one_call(shared)


def as_one_call(schedule: Schedule) -> Schedule:
    """Count one call of the library at its beginning."""
    return (replace(schedule[0], times=1, calls=1), *_rest(schedule)) if schedule else ()


def _rest(schedule: Schedule) -> Schedule:
    first = schedule[0]
    again = (replace(first, times=first.times - 1),) if first.times > 1 else ()
    return (*again, *schedule[1:])
