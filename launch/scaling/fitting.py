"""The constants of the nodes and of the network between them, fitted to what collectives took.

A round of messages (`launch.scaling.algorithms`) takes a latency, and then as long as the slower of two things: a
rank's own link, for the bytes that it sends itself, or what all share (a switch, the memory of a node, the cores of
hosts that are one machine), for the bytes of all. Bytes that are added, and calls of the library, come on top. Errors
are relative, so that short sums count like long ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

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

Array = npt.NDArray[np.float64]
LONG_FROM = (1 << 12, 1 << 14, 1 << 16, 1 << 18)
"""Bytes from which on a message may pay for a handshake: which, the fit finds out."""
GAIN = 0.8
"""A shared medium is only believed in if it makes the squared errors smaller by this factor, at least."""
GOOD = 0.01
"""A typical relative error with which nothing more is looked for."""
SMALLEST = 1e-13
"""Stands for 0 where a logarithm is taken."""


@dataclass(frozen=True)
class Medium:
    """What carries messages. Seconds."""

    latency: float = 0.0
    """Of a round (alpha)."""
    handshake: float = 0.0
    """Besides, of a round of long messages."""
    per_byte: float = 0.0
    """Of a link (beta)."""
    shared_per_byte: float = 0.0
    """Of what all ranks share; 0: nothing is shared."""

    def latency_of(self, each: Round, long_from: float) -> float:
        """Before the first byte arrives, for all of its repetitions."""
        return each.times * (self.latency + (self.handshake if each.sent >= long_from else 0.0))

    def bytes_of(self, each: Round) -> float:
        """From the first byte to the last, for all of its repetitions."""
        return each.times * max(each.sent * self.per_byte, each.total * self.shared_per_byte)


@dataclass(frozen=True)
class Constants:
    """All that the fit finds. Seconds."""

    node: Medium = Medium()
    network: Medium = Medium()
    long_from: float = LONG_FROM[-1]
    """Bytes of a long message."""
    per_added_byte: float = 0.0
    """gamma"""
    call: float = 0.0
    """Of an Allreduce, whatever it sums."""
    background_call: float = 0.0
    """The same of an Iallreduce."""
    queued: float = 1.0
    """The part of its latencies that a sum pays which began while another was on its way: less than all, as they are on
    their way at the same time."""
    queued_one_way: float = 0.5
    """The same of its rounds in one direction: another sum may use the other one, so half where nothing tells."""

    def medium(self, each: Round) -> Medium:
        """What carries a round."""
        return self.node if each.medium == "node" else self.network

    def cost(self, schedule: Schedule, blocking: bool = True) -> Cost:
        """What a sum costs."""
        latency = sum(self.medium(each).latency_of(each, self.long_from) for each in schedule)
        both, one_way = (
            sum(self.medium(each).bytes_of(each) for each in schedule if each.one_way == is_one_way)
            for is_one_way in (False, True)
        )
        added = sum(each.times * each.added for each in schedule) * self.per_added_byte
        calls = sum(each.calls * each.times for each in schedule) * (self.call if blocking else self.background_call)
        work = both + added + calls
        queued = self.queued * latency + self.queued_one_way * one_way + work
        return Cost(latency + one_way + work, queued)


@dataclass(frozen=True)
class Cost:
    """Seconds of a sum."""

    seconds: float
    """Alone."""
    queued: float
    """If it began while another one was on its way, from the end of that."""


@dataclass(frozen=True)
class Observation:
    """What took how long."""

    what: str
    ranks: int
    num_bytes: int
    schedule: Schedule
    blocking: bool
    queued: tuple[Schedule, ...]
    """Sums that begin while it is on its way."""
    seconds: Array
    """By round of the measurements."""


def observations(one: Collectives) -> list[Observation]:
    """All that was measured at a number of ranks and has a formula."""
    found = []
    for sample in one.samples:
        schedules = sample_schedules(one, sample.what, sample.num_bytes)
        if schedules is not None:
            first, *queued = schedules
            blocking = sample.what not in ("iallreduce", "bucketed")
            seconds = np.array(sample.seconds)
            found.append(Observation(sample.what, one.ranks, sample.num_bytes, first, blocking, tuple(queued), seconds))
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
    """What a rung sends for the network that was measured, with nothing to compute; first of all the reports."""
    reports = blocking_sums(one, ranks, nodes, [one.report_bytes])
    if rung == "flat":
        return [(*reports, *blocking_sums(one, ranks, nodes, [one.num_bytes]))]
    if rung == "naive":
        return [(*reports, *blocking_sums(one, ranks, nodes, one.tensors))]
    if rung == "bucketed":
        first, *others = bucket_schedules(one, ranks, nodes, one.buckets)
        return [(*reports, *first), *others]
    if rung == "sharded":
        both = scatter_and_gather(one.mpi_library, ranks, nodes, one.num_bytes)
        squares = scatter_and_gather(one.mpi_library, ranks, nodes, one.num_bytes // 8192)
        return [(*reports, *both, *squares)]
    if rung == "node_shared":
        return [(*reports, *node_shared(one, ranks, nodes))]
    return None


def bucket_schedules(one: Collectives, ranks: int, nodes: int, buckets: Sequence[int]) -> list[Schedule]:
    """An Iallreduce for each."""
    return [sum_schedule(one.mpi_library, ranks, nodes, size, blocking=False) for size in buckets]


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


class Rounds:
    """The rounds of many observations as arrays, so that a trial of constants costs microseconds."""

    def __init__(self, observed: Sequence[Observation]) -> None:
        """Take them apart."""
        rows = [
            (
                index,
                each.times,
                each.sent,
                each.total,
                each.added,
                each.medium == "network",
                each.calls,
                one.blocking,
                late,
                each.one_way,
            )
            for index, one in enumerate(observed)
            for late, schedule in [(False, one.schedule), *((True, queued) for queued in one.queued)]
            for each in schedule
        ]
        columns = np.array(rows, np.float64).reshape(-1, 10).T
        self.count = len(observed)
        self.index = columns[0].astype(np.intp)
        self.times, self.sent, self.total, self.added = columns[1:5]
        self.network = columns[5].astype(bool)
        self.calls, self.blocking = columns[6], columns[7].astype(bool)
        self.late, self.one_way = columns[8].astype(bool), columns[9].astype(bool)

    def seconds(self, x: Array, long_from: float) -> Array:
        """Of each observation, for constants in the order of `NAMES`."""
        node, network = x[0:4], x[4:8]
        latency, handshake, per_byte, shared = np.where(self.network, network[:, np.newaxis], node[:, np.newaxis])
        waits = latency + handshake * (self.sent >= long_from)
        waits *= np.where(self.late, x[11], 1.0)
        work = np.maximum(self.sent * per_byte, self.total * shared)
        work = work * np.where(self.late & self.one_way, x[12], 1.0) + self.added * x[8]
        call = self.calls * np.where(self.blocking, x[9], x[10])
        total: Array = np.bincount(self.index, self.times * (waits + work + call), self.count).astype(np.float64)
        return total


NAMES = (
    *(f"node.{field.name}" for field in fields(Medium)),
    *(f"network.{field.name}" for field in fields(Medium)),
    *("per_added_byte", "call", "background_call", "queued", "queued_one_way"),
)
"""The constants as an array."""


def as_constants(x: Array, long_from: float) -> Constants:
    """From an array in the order of `NAMES`."""
    values = dict(zip(NAMES, x.tolist(), strict=True))
    node, network = (
        Medium(**{field.name: values[f"{medium}.{field.name}"] for field in fields(Medium)})
        for medium in ("node", "network")
    )
    rest = {name: values[name] for name in NAMES[8:]}
    return Constants(node, network, long_from, **rest)


def as_array(constants: Constants) -> Array:
    """In the order of `NAMES`."""
    media: list[Any] = [constants.node, constants.network]
    parts = [getattr(medium, field.name) for medium in media for field in fields(Medium)]
    return np.array([*parts, *(getattr(constants, name) for name in NAMES[8:])])


WEIGHTS: Mapping[str, float] = {"flat": 3.0, "bucketed": 3.0, "message": 0.5, "barrier": 0.5}
"""How much an error counts: what the trainer does, most; messages alone only tell what is shared."""


def fit(
    observed: Sequence[Observation], seconds: Sequence[float], added: float, start: Constants | None = None
) -> Constants:
    """The constants with the least squared relative errors.

    Args:
        observed: what was measured.
        seconds: of each: a median of its rounds, or of some that were drawn from them.
        added: seconds to add a byte to another, measured by itself; a sum's are no fewer.
        start: constants from which to start, and whose choices (long messages, what is shared) are kept.
    """
    rounds, target = Rounds(observed), np.log(np.maximum(seconds, SMALLEST))
    weights = np.array([WEIGHTS.get(one.what, 1.0) for one in observed])
    if start is not None:
        has_shared = start.node.shared_per_byte > 0, start.network.shared_per_byte > 0
        return _fit(rounds, target, weights, added, start.long_from, has_shared, as_array(start))[1]
    shapes = [(long_from, (shared, shared)) for shared in (False, True) for long_from in LONG_FROM]
    trials = {shape: _fit(rounds, target, weights, added, *shape, None) for shape in shapes}
    best = {
        shared: min((trials[shape] for shape in shapes if shape[1][0] == shared), key=lambda trial: trial[0])
        for shared in (False, True)
    }
    is_good = best[False][0] < len(observed) * GOOD**2 / 2
    return best[not is_good and best[True][0] < GAIN * best[False][0]][1]


def _fit(
    rounds: Rounds,
    target: Array,
    weights: Array,
    added: float,
    long_from: float,
    has_shared: tuple[bool, bool],
    start: Array | None,
) -> tuple[float, Constants]:
    """Half the sum of squares, and the constants, for one choice of what is long and whether something is shared."""
    scale = _scales(rounds, target)
    x0 = scale if start is None else np.maximum(start, 1e-3 * scale)
    free = _present(rounds, long_from, has_shared)
    fixed = np.where(np.array(NAMES) == "per_added_byte", added, 0.0)
    fixed[-2:] = Constants.queued, Constants.queued_one_way

    def constants(y: Array) -> Array:
        x = fixed.copy()
        x[free] = y * scale[free]
        x[8] = max(x[8], added)
        return x

    def errors(y: Array) -> Array:
        times = np.maximum(rounds.seconds(constants(y), long_from), SMALLEST)
        result: Array = weights * (np.log(times) - target)
        return result

    upper = np.where([name.startswith("queued") for name in NAMES], 1.0, np.inf)[free]
    y0 = np.minimum(x0[free] / scale[free], np.where(np.isfinite(upper), 0.999, np.inf))
    found = least_squares(errors, y0, bounds=(np.zeros(y0.size), upper), loss="soft_l1", f_scale=0.1, max_nfev=200)
    return float(found.cost), as_constants(constants(found.x), long_from)


def _present(rounds: Rounds, long_from: float, has_shared: tuple[bool, bool]) -> npt.NDArray[np.bool_]:
    """Which constants the observations say anything about."""
    flags = []
    for medium, shared in zip((~rounds.network, rounds.network), has_shared, strict=True):
        is_long = medium & (rounds.sent >= long_from)
        flags += [bool(medium.any()), bool(is_long.any()), bool((medium & (rounds.sent > 0)).any()), shared]
        flags[-1] = shared and flags[-2]
    calls = rounds.calls > 0
    flags += [bool((rounds.added > 0).any()), bool((calls & rounds.blocking).any())]
    flags += [bool((calls & ~rounds.blocking).any()), bool(rounds.late.any())]
    flags.append(bool((rounds.late & rounds.one_way).any()))
    return np.array(flags)


def _scales(rounds: Rounds, target: Array) -> Array:
    """About how large each constant is: the shortest times are latencies, the longest are bytes."""
    seconds = np.exp(target)
    x = np.full(len(NAMES), seconds.min())
    for offset, medium in ((0, ~rounds.network), (4, rounds.network)):
        sent = np.bincount(rounds.index, rounds.times * rounds.sent * medium, rounds.count)
        total = np.bincount(rounds.index, rounds.times * rounds.total * medium, rounds.count)
        if sent.max() > 0:
            longest = int(sent.argmax())
            x[offset + 2] = seconds[longest] / sent[longest]
            x[offset + 3] = seconds[longest] / total[longest]
    x[8], x[11:] = max(x[2], x[6]) / 10, 1.0
    return x
