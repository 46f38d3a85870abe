"""What communication costs by the alpha-beta model, and how well measurements fit it.

A message of n bytes takes alpha + n beta (R. Hockney, "The communication challenge for MPP", Parallel Computing 20,
1994); adding n bytes to n others takes n gamma. A collective is made of such steps: R. Thakur, R. Rabenseifner and
W. Gropp, "Optimization of collective communication operations in MPICH", IJHPCA 19(1), 2005. docs/communication.md
explains the formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from launch.scaling.algorithms import Schedule, doubling, halving, rounds


@dataclass(frozen=True)
class Line:
    """Seconds as a function of bytes: `latency + num_bytes * per_byte`."""

    latency: float
    """Seconds (alpha)."""
    per_byte: float
    """Seconds a byte (beta), the inverse of the bandwidth."""

    def __call__(self, num_bytes: float) -> float:
        """The seconds that so many bytes take."""
        return self.latency + num_bytes * self.per_byte


def fit(sizes: Sequence[float], seconds: Sequence[float]) -> Line:
    """The line with the least squared relative error; neither of its two numbers is negative.

    Absolute errors would leave the latency to chance: those of the largest message exceed all of it.

    Raises:
        ValueError: with fewer than two sizes, or a time that is not above 0.
    """
    n, t = np.asarray(sizes, np.float64), np.asarray(seconds, np.float64)
    if np.unique(n).size < 2 or (t <= 0).any():
        raise ValueError(f"a line needs two sizes and times above 0: {sizes}, {seconds}")
    columns, ones = np.stack([1 / t, n / t], axis=1), np.ones(n.size)
    latency, per_byte = np.linalg.lstsq(columns, ones, rcond=None)[0].tolist()
    if latency < 0 or per_byte < 0:  # the best that is allowed then lies where one of them is 0
        alone = [column @ ones / (column @ column) for column in columns.T]
        errors = [float(np.sum((column * x - 1) ** 2)) for column, x in zip(columns.T, alone, strict=True)]
        latency, per_byte = (alone[0], 0.0) if errors[0] < errors[1] else (0.0, alone[1])
    return Line(float(latency), float(per_byte))


def bus_bandwidth(ranks: int, num_bytes: int, seconds: float) -> float:
    """Bytes a second over the slowest link of an optimal allreduce: each rank must send 2 (P-1)/P of the buffer.

    So it can be compared with the hardware's, for any number of ranks. Source: nccl-tests, doc/PERFORMANCE.md.
    """
    return 2 * (ranks - 1) / ranks * num_bytes / seconds


@dataclass(frozen=True)
class Machine:
    """What the formulas are made of, each measured by itself in the same run."""

    message: Line
    """A message while another comes in, of n bytes each (alpha, beta)."""
    addition: Line
    """Adding n bytes to n others (gamma)."""
    update: Line
    """The SGD update of n bytes of parameters."""


@dataclass(frozen=True)
class Job:
    """Who communicates, and what."""

    ranks: int
    nodes: int
    num_bytes: int
    tensors: Sequence[int]
    """Bytes of each parameter tensor."""
    buckets: Sequence[int]
    """Bytes of each bucket."""
    piece_bytes: int
    """An Allreduce of more is done piece by piece by `naive` and `flat`."""
    report_bytes: int
    """Of what the shards report besides, which all rungs but `dummy` sum first."""

    @property
    def ranks_per_node(self) -> int:
        """Ranks of a node, equally many on all."""
        return self.ranks // self.nodes


def seconds(machine: Machine, schedule: Schedule) -> float:
    """Rounds of messages, one after the other, on a network that nobody shares."""
    return sum(each.times * (machine.message(each.sent) + each.added * machine.addition.per_byte) for each in schedule)


def allreduce(machine: Machine, ranks: int, num_bytes: float) -> float:
    """The better of recursive doubling and of a reduce-scatter with an allgather (Rabenseifner)."""
    return min(seconds(machine, algorithm(ranks, num_bytes)) for algorithm in (doubling, halving))


def reduce_scatter(machine: Machine, ranks: int, num_bytes: float) -> float:
    """By recursive halving: each rank sends and adds (P-1)/P of the buffer."""
    per_byte = machine.message.per_byte + machine.addition.per_byte
    return rounds(ranks) * machine.message.latency + (ranks - 1) / ranks * num_bytes * per_byte


def allgather(machine: Machine, ranks: int, num_bytes: float) -> float:
    """By recursive doubling: each rank receives (P-1)/P of the buffer."""
    return rounds(ranks) * machine.message.latency + (ranks - 1) / ranks * num_bytes * machine.message.per_byte


def _reports(machine: Machine, job: Job) -> float:
    return allreduce(machine, job.ranks, job.report_bytes)


def _in_pieces(machine: Machine, job: Job, num_bytes: int) -> float:
    whole, rest = divmod(num_bytes, job.piece_bytes)
    sizes = [job.piece_bytes] * whole + [rest] * (rest > 0)
    return sum(allreduce(machine, job.ranks, size) for size in sizes)


def _naive(machine: Machine, job: Job) -> float:
    return _reports(machine, job) + sum(_in_pieces(machine, job, size) for size in job.tensors)


def _flat(machine: Machine, job: Job) -> float:
    return _reports(machine, job) + _in_pieces(machine, job, job.num_bytes)


def _bucketed(machine: Machine, job: Job) -> float:
    """With nothing to hide behind."""
    return _reports(machine, job) + sum(allreduce(machine, job.ranks, size) for size in job.buckets)


def _node_shared(machine: Machine, job: Job) -> float:
    """A rank adds its part of all gradients of the node, and meets the others again once it has updated it."""
    part = job.num_bytes / job.ranks_per_node
    added = (job.ranks_per_node - 1) * part * machine.addition.per_byte
    between = 0.0
    if job.nodes > 1:  # all ranks of a node send at once, by one link
        link = Line(machine.message.latency, machine.message.per_byte * job.ranks_per_node)
        between = allreduce(Machine(link, machine.addition, machine.update), job.nodes, part)
    return _reports(machine, job) + added + between + rounds(job.ranks_per_node) * machine.message.latency


def _sharded(machine: Machine, job: Job) -> float:
    both = reduce_scatter(machine, job.ranks, job.num_bytes) + allgather(machine, job.ranks, job.num_bytes)
    return _reports(machine, job) + both + allgather(machine, job.ranks, 0)


def _scatter_gather(machine: Machine, job: Job) -> float:
    return reduce_scatter(machine, job.ranks, job.num_bytes) + allgather(machine, job.ranks, job.num_bytes)


REDUCE: dict[str, Callable[[Machine, Job], float]] = {
    "Allreduce": lambda machine, job: allreduce(machine, job.ranks, job.num_bytes),
    "Reduce_scatter, Allgather": _scatter_gather,
    "naive": _naive,
    "flat": _flat,
    "bucketed": _bucketed,
    "node_shared": _node_shared,
    "sharded": _sharded,
}
"""The formula of each contestant; `_node_shared` and `_sharded` include the way back of what was updated."""


def updated_share(name: str, job: Job) -> float:
    """The part of the parameters that a rank updates."""
    shares = {"node_shared": 1 / job.ranks_per_node, "sharded": 1 / job.ranks}
    return shares.get(name, shares["sharded"] if name == "Reduce_scatter, Allgather" else 1.0)


def reduce(name: str, machine: Machine, job: Job) -> float:
    """Seconds until every rank has what the sums are for; the update itself not counted."""
    return REDUCE[name](machine, job)


def reduce_and_update(name: str, machine: Machine, job: Job) -> float:
    """Seconds until every rank has the new parameters."""
    return REDUCE[name](machine, job) + machine.update(job.num_bytes * updated_share(name, job))
