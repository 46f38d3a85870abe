"""Networks of many hosts for the simulator SimGrid, as the XML that it reads: a fat tree and a dragonfly.

All links have the same bandwidth, in each direction. Hosts are named `host-0`, `host-1`, ... There may be more of them
than ranks, where a topology has no form for just so many; ranks then take the first ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable

HOSTS_PER_LEAF = 16
"""Of a fat tree: hosts of a switch of the lower level."""
HOSTS_PER_ROUTER = 4
"""Of a dragonfly."""

PLATFORM = """<?xml version='1.0'?>
<!DOCTYPE platform SYSTEM "https://simgrid.org/simgrid.dtd">
<platform version="4.1">
  <cluster id="cluster" prefix="host-" suffix="" radical="0-{last}" speed="1Gf" bw="{bandwidth!r}Bps" lat="{hop!r}s"
           topology="{kind}" topo_parameters="{parameters}"/>
</platform>
"""


def fat_tree(ranks: int, uplinks: int = HOSTS_PER_LEAF) -> tuple[str, str, int]:
    """Two levels of switches, each of the lower ones joined to `uplinks` upper ones.

    With as many uplinks as hosts, all hosts can send to others of any leaf at full speed (full bisection); with a
    quarter of them, a quarter of that (a tapered tree). Two hosts are 2 links apart, or 4.

    Returns:
        SimGrid's name for the topology, its parameters, and the number of hosts.
    """
    hosts = min(HOSTS_PER_LEAF, ranks)
    leaves = math.ceil(ranks / hosts)
    return "FAT_TREE", f"2;{hosts},{leaves};1,{min(uplinks, hosts)};1,1", hosts * leaves


def dragonfly(ranks: int) -> tuple[str, str, int]:
    """Groups of routers that are all joined to each other; each router has the way to one other group.

    g groups of g routers of HOSTS_PER_ROUTER hosts (J. Kim et al., "Technology-driven, highly-scalable dragonfly
    topology", ISCA 2008). Two groups have as many links between them as a router has hosts: traffic to everybody finds
    no bottleneck. Routes are the shortest, which traffic between just two groups has to share. Two hosts are 2 to 5
    links apart.

    Returns:
        SimGrid's name for the topology, its parameters, and the number of hosts.
    """
    groups = max(2, math.ceil(math.sqrt(ranks / HOSTS_PER_ROUTER)))
    parameters = f"{groups},{HOSTS_PER_ROUTER};1,1;{groups},2;{HOSTS_PER_ROUTER}"
    return "DRAGONFLY", parameters, groups * groups * HOSTS_PER_ROUTER


TOPOLOGIES: dict[str, Callable[[int], tuple[str, str, int]]] = {
    "fat tree": fat_tree,
    "fat tree, tapered 4:1": lambda ranks: fat_tree(ranks, max(1, min(HOSTS_PER_LEAF, ranks) // 4)),
    "dragonfly": dragonfly,
}
"""By name, what makes one for a number of ranks."""


def platform(topology: str, ranks: int, bandwidth: float, hop_s: float) -> str:
    """The XML of a platform.

    Args:
        topology: a key of TOPOLOGIES.
        ranks: hosts that are wanted, at least.
        bandwidth: bytes a second of each link.
        hop_s: seconds that each link takes for the first byte.
    """
    kind, parameters, hosts = TOPOLOGIES[topology](ranks)
    return PLATFORM.format(last=hosts - 1, bandwidth=bandwidth, hop=hop_s, kind=kind, parameters=parameters)
