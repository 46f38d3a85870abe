"""What a contestant is told, and what it has to offer."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.networks import Network

SAMPLES = 1024
"""Training samples; a step gathers its batch from them, in random order."""
LEARNING_RATE, MOMENTUM = 0.01, 0.9


@dataclass(frozen=True)
class Task:
    """One process's part in a measurement."""

    contestant: str
    """Module of this folder."""
    variant: str
    """Which form of it."""
    network: Network
    batch: int
    """Samples of a step, over all ranks."""
    ranks: int
    rank: int
    """Of this process; a contestant started by mpirun learns it from there."""
    threads: int
    cores: tuple[int, ...]
    """That the process may run on."""
    folder: str
    """For files that the ranks meet at, among them the socket `parent`."""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Task:
        """The inverse of `to_json`."""
        fields = json.loads(text)
        network = fields.pop("network")
        network["shape"], fields["cores"] = tuple(network["shape"]), tuple(fields["cores"])
        network["model"] = {k: tuple(v) if isinstance(v, list) else v for k, v in network["model"].items()}
        return cls(network=Network(**network), **fields)


class Contestant(Protocol):
    """Made from a task, in a process of its own."""

    def run(self, steps: int) -> None:
        """Train for so many steps; return when they are done."""

    def facts(self) -> dict[str, Any]:
        """What else the report needs."""
