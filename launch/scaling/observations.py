"""What each measured action sends, by which its time is explained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from launch.scaling.algorithms import (
    Round,
    Schedule,
    as_one_call,
    dissemination,
    exchange,
    scatter_and_gather,
    sum_schedule,
)
from launch.scaling.collectives import Collectives

BLOCK_BYTES = 65536
"""Of the parameters, each with a sum of squares (`ddp.kernels.update.BLOCK`)."""


@dataclass(frozen=True)
class Observation:
    """What took how long."""

    what: str
    ranks: int
    num_bytes: int
    sums: tuple[Schedule, ...]
    """What is sent; if several, all at once."""
    blocking: bool
    seconds: npt.NDArray[np.float64]
    """By round of the measurements."""


def observations(one: Collectives) -> list[Observation]:
    """All that was measured at a number of ranks and has a formula."""
    found = []
    for sample in one.samples:
        sums = sample_schedules(one, sample.what, sample.num_bytes)
        if sums is not None:
            blocking = sample.what not in ("iallreduce", "bucketed")
            seconds = np.array(sample.seconds)
            found.append(Observation(sample.what, one.ranks, sample.num_bytes, tuple(sums), blocking, seconds))
    return found


def sample_schedules(one: Collectives, what: str, num_bytes: int) -> list[Schedule] | None:
    """What is sent in a measured action; of several that begin at once, each. None: there is no formula."""
    ranks, nodes, library = one.ranks, one.nodes, one.mpi_library
    if what == "message":
        return [_of_neighbours(one, num_bytes)]
    if what == "barrier":
        return [_on(one, dissemination(ranks))]
    if what == "allreduce":
        return [blocking_sums(one, ranks, nodes, [num_bytes])]
    if what == "iallreduce":
        return [sum_schedule(library, ranks, nodes, num_bytes, blocking=False)]
    return rung_schedules(one, what, ranks, nodes)


def _on(one: Collectives, schedule: Schedule) -> Schedule:
    return tuple(replace(each, medium="node" if one.nodes == 1 else "network") for each in schedule)


def _of_neighbours(one: Collectives, num_bytes: int) -> Schedule:
    """Between nodes, one rank of each sends to the next node."""
    return _on(one, exchange(one.ranks if one.nodes == 1 else one.nodes, num_bytes))


def blocking_sums(one: Collectives, ranks: int, nodes: int, sizes: Sequence[int]) -> Schedule:
    """One Allreduce after the other, long ones in pieces."""
    pieces = []
    for size in sizes:
        whole, rest = divmod(size, one.piece_bytes)
        pieces += [one.piece_bytes] * whole + [rest] * (rest > 0)
    schedules = (sum_schedule(one.mpi_library, ranks, nodes, piece) for piece in pieces)
    return tuple(each for schedule in schedules for each in schedule)


def rung_schedules(one: Collectives, rung: str, ranks: int, nodes: int) -> list[Schedule] | None:
    """What a rung sends for the network that was measured, with nothing to compute.

    The reports first; of `bucketed` the buckets, then the reports, all at once.
    """
    reports = blocking_sums(one, ranks, nodes, [one.report_bytes])
    if rung == "flat":
        return [(*reports, *blocking_sums(one, ranks, nodes, [one.num_bytes]))]
    if rung == "naive":
        return [(*reports, *blocking_sums(one, ranks, nodes, one.tensors))]
    if rung == "bucketed":
        buckets = [sum_schedule(one.mpi_library, ranks, nodes, size, blocking=False) for size in one.buckets]
        return [*buckets, reports]
    if rung == "sharded":
        both = scatter_and_gather(one.mpi_library, ranks, nodes, one.num_bytes)
        return [(*reports, *both, *squares(one, ranks, nodes))]
    if rung == "node_shared":
        return [(*reports, *node_shared(one, ranks, nodes))]
    return None


def squares(one: Collectives, ranks: int, nodes: int) -> Schedule:
    """A number of each block, that its rank has summed: an Allgatherv, as the second half of a sum is."""
    num_bytes = 8 * sum(-(-tensor // BLOCK_BYTES) for tensor in one.tensors)
    both = scatter_and_gather(one.mpi_library, ranks, nodes, num_bytes)
    return as_one_call(tuple(each for each in both if not each.added))


def node_shared(one: Collectives, ranks: int, nodes: int) -> Schedule:
    """Each rank adds its part of all gradients of the node; equal parts are summed between nodes; then all meet."""
    inside = -(-ranks // nodes)
    added = Round(0.0, 0.0, (inside - 1) * one.num_bytes / inside, medium="node")
    meeting = tuple(replace(each, medium="node") for each in dissemination(inside))
    between: Schedule = ()
    if nodes > 1:
        part = one.num_bytes / inside
        between = tuple(
            replace(each, sent=each.sent * inside, total=each.total * inside)
            for each in sum_schedule(one.mpi_library, nodes, nodes, part, blocking=False)
        )
    return (added, *as_one_call(between), *meeting)
