"""The replica check: do all ranks still hold the same parameters?

They compute them from the same sums, so they must. A bit that flips in a rank's memory, or a library that adds wrongly
for one of them, would otherwise be seen by nobody: the ranks would go on with different networks.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ddp.comm.failure import DivergedError
from ddp.comm.world import World
from ddp.fixed_point import FloatScales
from ddp.nn import Sequential
from ddp.optim import Optimizer

MOST_NAMED = 4

Digests = Mapping[str, int]
"""A CRC-32 of each part of a rank's state, by name."""


class ReplicaCheck:
    """Compares checksums of everything that a step changes and all ranks have.

    Attributes:
        agreed_step: the newest step after which all ranks were found to agree.
    """

    def __init__(self, world: World, every: int, model: Sequential, optimizer: Optimizer, scales: FloatScales) -> None:
        """Take the number of steps between checks (0: none at all) and what to compare; collective.

        That is the parameters, the optimizer's state if every rank has all of it, running statistics, and the scales of
        the gradient sums.
        """
        self.world, self.every, self.agreed_step = world, every, 0
        self.parts: dict[str, npt.NDArray[Any]] = {}
        # Of nodes with several ranks and with one, the reducer node_shared gives only the latter's ranks all of it.
        is_divided = world.any_rank(any(flat.size != model.num_parameters for flat in optimizer.state.values()))
        for prefix, flat in {"": model.parameters, **({} if is_divided else optimizer.state)}.items():
            name = f"optimizer.{prefix}." if prefix else ""
            self.parts |= {name + tensor: flat[where] for tensor, where in model.parameter_slices.items()}
        for index, layer in enumerate(model.layers):
            self.parts |= {f"{index}.{name}": buffer for name, buffer in layer.buffers().items()}
        self.parts["scales of the gradient sums"] = scales.exponents

    def check(self, step: int) -> None:
        """Compare all ranks after a step, unless there are to be no checks; collective.

        Raises:
            DivergedError: on all ranks alike, if they differ.
        """
        if self.every == 0 or self.world.size == 1:
            return
        mine = 0
        for part in self.parts.values():
            mine = zlib.crc32(part.data, mine)
        found = self.world.all_gather_rows(np.array([mine], np.float64), "replica check")  # which holds 32 bits exactly
        if (found != found[0]).any():
            digests = {name: zlib.crc32(part.data) for name, part in self.parts.items()}
            ranks = self.world.all_gather((self.world.host, digests), "replicas that differ")
            hosts, by_rank = [host for host, _ in ranks], [other for _, other in ranks]
            raise DivergedError(describe(hosts, by_rank, step, self.agreed_step))
        self.agreed_step = step


def describe(hosts: Sequence[str], digests: Sequence[Digests], step: int, agreed_step: int) -> str:
    """Who differs from most, in what, and what to do about it; one line.

    Args:
        hosts: of each rank.
        digests: of each rank; they are not all alike.
        step: after which they were found to differ.
        agreed_step: the newest one after which they agreed.
    """
    common = max(digests, key=digests.count)
    odd = [rank for rank, other in enumerate(digests) if other != common]
    is_majority = digests.count(common) > len(odd)
    named = odd if is_majority else range(len(digests))
    places = _list([f"rank {rank} on {hosts[rank]}" for rank in named])
    names = _list([name for name in common if any(other[name] != common[name] for other in digests)])
    verb = "has" if len(named) == 1 else "have"
    what = "other parameters than most ranks" if is_majority else "different parameters, and most agree with none"
    return (
        f"{places} {verb} {what} after step {step} ({names}); all ranks agreed after step {agreed_step}. A fault of"
        f" memory, processor or network: resume from a checkpoint of step {agreed_step} or before, on other nodes"
    )


def _list(words: Sequence[str]) -> str:
    more = f" and {len(words) - MOST_NAMED} more" if len(words) > MOST_NAMED else ""
    return ", ".join(words[:MOST_NAMED]) + more
