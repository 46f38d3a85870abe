"""Networks that a study is predicted for: the usual ones, and others from a file."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.errors import UsageError

FORM = "[[network]] with name, gbit_per_s, latency_us and, if not 1, ranks_per_node"


@dataclass(frozen=True)
class Network:
    """What joins nodes: each has one link, which its ranks share, and all can send at full speed at once."""

    name: str
    gbit_per_s: float
    """Of a link, in each direction; 10**9 bits."""
    latency_us: float
    """From one process to another, one way, MPI's own part included."""
    ranks_per_node: int | None = None
    """Ranks that share a link; None: as many as the study had on a node."""

    @property
    def seconds_per_byte(self) -> float:
        """Of a link."""
        return 8e-9 / self.gbit_per_s

    @property
    def latency_s(self) -> float:
        """One way."""
        return self.latency_us * 1e-6


NETWORKS = (
    Network("1 Gbit/s", 1.0, 50.0),
    Network("10 Gbit/s", 10.0, 20.0),
    Network("100 Gbit/s", 100.0, 2.0),
)
"""Ethernet through the kernel's TCP, of two generations, and a fabric with a card that does the work. The latencies are
assumed: between two processes, as such networks usually have them."""


def read_networks(path: Path) -> tuple[Network, ...]:
    """The networks of a TOML file: see FORM.

    Raises:
        UsageError: one line that names the file, the network and the fix.
    """
    try:
        contents = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--networks {path}: {error.strerror}; give a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--networks {path}: no TOML ({error})") from None
    tables = contents.get("network")
    if set(contents) != {"network"} or not isinstance(tables, list) or not tables:
        raise UsageError(f"--networks {path}: write a table a network, {FORM}")
    networks = tuple(_network(path, number, table) for number, table in enumerate(tables, 1))
    names = [network.name for network in (*NETWORKS, *networks)]
    for network in networks:
        if names.count(network.name) > 1:
            raise UsageError(f"--networks {path}: {network.name!r} is the name of two; give each its own")
    return networks


def _network(path: Path, number: int, table: Any) -> Network:
    where = f"--networks {path}, network {number}"
    if not isinstance(table, dict):
        raise UsageError(f"{where}: write {FORM}")
    if unknown := set(table) - {"name", "gbit_per_s", "latency_us", "ranks_per_node"}:
        raise UsageError(f"{where}: unknown {min(unknown)!r}; write {FORM}")
    name, ranks = table.get("name"), table.get("ranks_per_node")
    if not isinstance(name, str) or not name.strip():
        raise UsageError(f"{where}: name = {name!r}; give it a name, in quotes")
    if ranks is not None and (type(ranks) is not int or ranks < 1):
        raise UsageError(f"{where}: ranks_per_node = {ranks!r}; give a whole number, 1 or more")
    return Network(
        name.strip(),
        _number(where, table, "gbit_per_s", positive=True),
        _number(where, table, "latency_us", positive=False),
        ranks,
    )


def _number(where: str, table: dict[str, Any], name: str, positive: bool) -> float:
    value: Any = table.get(name)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value < 0 or (positive and value == 0):
        wanted = "a number above 0" if positive else "a number, 0 or more"
        raise UsageError(f"{where}: {name} = {value!r}; give {wanted}")
    return float(value)
