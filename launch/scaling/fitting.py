"""The constants of the nodes and of the network between them, fitted to what collectives took.

A round of messages (`launch.scaling.algorithms`) takes a latency, and then as long as the slower of two things: a
rank's own link, for the bytes that it sends itself, or what all share (a switch, the memory of a node, the cores of
hosts that are one machine), for the bytes of all. Where two partners send to each other by one connection, long
messages may be slower than the link. Bytes that are added, and calls of the library, come on top. Of sums that are on
their way at once, one uses the link while the others wait. Errors are relative, so that short sums count like long
ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from launch.scaling.algorithms import Schedule
from launch.scaling.observations import Observation

Array = npt.NDArray[np.float64]
LONG_FROM = (1 << 12, 1 << 14, 1 << 16, 1 << 18)
"""Bytes from which on a message may pay for a handshake: which, the fit finds out."""
BUFFERED = (1 << 18, 1 << 20)
"""Bytes that a connection takes at once in both directions: which, the fit finds out."""
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
    both_ways: float = 0.0
    """Besides, of a byte that two partners send to each other by one connection, beyond what it takes at once."""
    shared_per_byte: float = 0.0
    """Of what all ranks share; 0: nothing is shared."""


@dataclass(frozen=True)
class Constants:
    """All that the fit finds. Seconds."""

    node: Medium = Medium()
    network: Medium = Medium()
    long_from: float = LONG_FROM[-1]
    """Bytes of a long message."""
    buffered: float = BUFFERED[-1]
    """Bytes that a connection takes at once."""
    per_added_byte: float = 0.0
    """gamma"""
    call: float = 0.0
    """Of an Allreduce, whatever it sums."""
    background_call: float = 0.0
    """The same of an Iallreduce."""
    one_way: float = 0.5
    """The part of its rounds in one direction for which a sum keeps others from the link: they may use the other
    direction, so half where nothing tells."""

    def cost(self, schedule: Schedule, blocking: bool = True) -> Cost:
        """What a sum costs."""
        seconds = busy = 0.0
        for each in schedule:
            medium = self.node if each.medium == "node" else self.network
            latency = medium.latency + (medium.handshake if each.sent >= self.long_from else 0.0)
            link = (each.sent + each.beside) * medium.per_byte
            if each.mutual:
                link += max(0.0, each.sent - self.buffered) * medium.both_ways
            carried = max(link, each.total * medium.shared_per_byte)
            own = each.added * self.per_added_byte + each.calls * (self.call if blocking else self.background_call)
            seconds += each.times * (latency + carried + own)
            busy += each.times * (carried * (self.one_way if each.one_way else 1.0) + own)
        return Cost(seconds, busy)


@dataclass(frozen=True)
class Cost:
    """Seconds of a sum."""

    seconds: float
    """Alone."""
    busy: float
    """How long it keeps others from the link: latencies and idle directions left out."""


def together(costs: Sequence[Cost]) -> float:
    """Seconds of sums that begin at once: the link carries one after the other, and each takes what it takes alone."""
    return max(max(cost.seconds for cost in costs), sum(cost.busy for cost in costs))


class Rounds:
    """The rounds of many observations as arrays, so that a trial of constants costs microseconds."""

    def __init__(self, observed: Sequence[Observation]) -> None:
        """Take them apart."""
        sums = [(index, one, schedule) for index, one in enumerate(observed) for schedule in one.sums]
        rows = [
            [
                *(number, each.times, each.sent, each.total, each.added, each.medium == "network"),
                *(each.calls, one.blocking, each.one_way, each.mutual, each.beside),
            ]
            for number, (_, one, schedule) in enumerate(sums)
            for each in schedule
        ]
        columns = np.array(rows, np.float64).reshape(-1, 11).T
        self.of_sum, self.sums = columns[0].astype(np.intp), len(sums)
        self.times, self.sent, self.total, self.added = columns[1:5]
        self.network, self.calls, self.blocking = columns[5].astype(bool), columns[6], columns[7].astype(bool)
        self.one_way, self.mutual, self.beside = columns[8].astype(bool), columns[9].astype(bool), columns[10]
        self.of_observation, self.count = np.array([index for index, _, _ in sums], np.intp), len(observed)
        self.firsts = np.flatnonzero(np.diff(self.of_observation, prepend=-1))
        self.several = np.bincount(self.of_observation, minlength=self.count) > 1

    def seconds(self, x: Array, long_from: float, buffered: float) -> Array:
        """Of each observation, for constants in the order of `NAMES`."""
        media = np.where(self.network, x[MEDIUM : 2 * MEDIUM, np.newaxis], x[:MEDIUM, np.newaxis])
        latency, handshake, per_byte, both_ways, shared = media
        waits = latency + handshake * (self.sent >= long_from)
        link = (self.sent + self.beside) * per_byte + self.mutual * np.maximum(self.sent - buffered, 0) * both_ways
        carried = np.maximum(link, self.total * shared)
        added, call, background_call, one_way = x[2 * MEDIUM :]
        own = self.added * added + self.calls * np.where(self.blocking, call, background_call)
        alone = np.bincount(self.of_sum, self.times * (waits + carried + own), self.sums)
        busy = self.times * (carried * np.where(self.one_way, one_way, 1.0) + own)
        busy_of_all = np.bincount(self.of_observation[self.of_sum], busy, self.count)
        longest: Array = np.maximum.reduceat(alone, self.firsts)
        return np.where(self.several, np.maximum(longest, busy_of_all), longest)


MEDIUM = len(fields(Medium))
NAMES = (
    *(f"node.{field.name}" for field in fields(Medium)),
    *(f"network.{field.name}" for field in fields(Medium)),
    *("per_added_byte", "call", "background_call", "one_way"),
)
"""The constants as an array."""
ADDED, ONE_WAY = NAMES.index("per_added_byte"), NAMES.index("one_way")


@dataclass(frozen=True)
class Shape:
    """What the fit chooses besides numbers."""

    long_from: float
    buffered: float
    node_shares: bool
    network_shares: bool


def as_constants(x: Array, shape: Shape) -> Constants:
    """From an array in the order of `NAMES`."""
    values = x.tolist()
    node, network = Medium(*values[:MEDIUM]), Medium(*values[MEDIUM : 2 * MEDIUM])
    return Constants(node, network, shape.long_from, shape.buffered, *values[2 * MEDIUM :])


def as_array(constants: Constants) -> Array:
    """In the order of `NAMES`."""
    parts = [*astuple(constants.node), *astuple(constants.network)]
    return np.array([*parts, *(getattr(constants, name) for name in NAMES[2 * MEDIUM :])])


def shape_of(constants: Constants) -> Shape:
    """What was chosen."""
    shares = [medium.shared_per_byte > 0 for medium in (constants.node, constants.network)]
    return Shape(constants.long_from, constants.buffered, *shares)


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
        start: constants from which to start, and whose choices are kept.
    """
    weights = np.array([WEIGHTS.get(one.what, 1.0) for one in observed])
    trial = Trial(Rounds(observed), np.log(np.maximum(seconds, SMALLEST)), weights, added)
    if start is not None:
        return trial.fit(shape_of(start), as_array(start))[1]
    chosen = []
    for shares in (False, True):
        shapes = [Shape(*sizes, shares, shares) for sizes in product(LONG_FROM, BUFFERED)]
        chosen.append(min((trial.fit(shape) for shape in shapes), key=lambda found: found[0]))
    (cost, alone), (cost_shared, shared) = chosen
    is_good = cost < len(observed) * GOOD**2 / 2
    return shared if not is_good and cost_shared < GAIN * cost else alone


@dataclass(frozen=True)
class Trial:
    """What constants are tried on."""

    rounds: Rounds
    target: Array
    """Logarithms of seconds."""
    weights: Array
    added: float

    def fit(self, shape: Shape, start: Array | None = None) -> tuple[float, Constants]:
        """Half the sum of squares, and the constants."""
        scale, free = self._scales(), self._present(shape)
        x0 = scale if start is None else np.maximum(start, 1e-3 * scale)
        fixed = np.zeros(len(NAMES))
        fixed[ADDED], fixed[ONE_WAY] = self.added, Constants.one_way

        def constants(y: Array) -> Array:
            x = fixed.copy()
            x[free] = y * scale[free]
            x[ADDED] = max(x[ADDED], self.added)
            return x

        def errors(y: Array) -> Array:
            times = np.maximum(self.rounds.seconds(constants(y), shape.long_from, shape.buffered), SMALLEST)
            result: Array = self.weights * (np.log(times) - self.target)
            return result

        upper = np.full(len(NAMES), np.inf)
        upper[ONE_WAY] = 1.0
        y0 = np.minimum(x0[free] / scale[free], np.where(np.isfinite(upper[free]), 0.999, np.inf))
        bounds = np.zeros(y0.size), upper[free]
        found = least_squares(errors, y0, bounds=bounds, loss="soft_l1", f_scale=0.1, max_nfev=200)
        return float(found.cost), as_constants(constants(found.x), shape)

    def _present(self, shape: Shape) -> npt.NDArray[np.bool_]:
        """Which constants the observations say anything about."""
        each = self.rounds
        flags = []
        for medium, shares in ((~each.network, shape.node_shares), (each.network, shape.network_shares)):
            sends = medium & (each.sent > 0)
            flags += [medium.any(), (medium & (each.sent >= shape.long_from)).any(), sends.any()]
            flags += [(medium & each.mutual & (each.sent > shape.buffered)).any(), shares and sends.any()]
        calls = each.calls > 0
        flags += [(each.added > 0).any(), (calls & each.blocking).any(), (calls & ~each.blocking).any()]
        flags.append((each.one_way & each.several[each.of_observation[each.of_sum]]).any())
        return np.array(flags, bool)

    def _scales(self) -> Array:
        """About how large each constant is: the shortest times are latencies, the longest are bytes."""
        each, seconds = self.rounds, np.exp(self.target)
        x = np.full(len(NAMES), seconds.min())
        of_observation = each.of_observation[each.of_sum]
        for offset, medium in ((0, ~each.network), (MEDIUM, each.network)):
            sent = np.bincount(of_observation, each.times * each.sent * medium, each.count)
            total = np.bincount(of_observation, each.times * each.total * medium, each.count)
            if sent.max() > 0:
                longest = int(sent.argmax())
                x[offset + 2] = x[offset + 3] = seconds[longest] / sent[longest]
                x[offset + 4] = seconds[longest] / total[longest]
        x[ADDED], x[ONE_WAY] = max(x[2], x[MEDIUM + 2]) / 10, 1.0
        return x
