"""What communication costs between the hosts, measured as a study does."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.cluster.cluster import Cluster, name
from tests.cluster.jobs import ENVIRONMENT

MEASURE = """
from pathlib import Path
from launch.scaling.collectives import measure
measure({ranks}, 1, ["-H", "{hosts}", "--env", "UCX_RNDV_THRESH=inf"], {tensors}, Path("{folder}"), limit_s={limit_s})
"""
"""Without a limit, UCX agrees with the other side before it sends a long message. Where two partners do so at the same
moment, they send at once or one after the other, as it happens, and in half of all runs take twice the time."""


def measure_collectives(
    cluster: Cluster, folder: Path, ranks: int, tensors: tuple[int, ...], limit_s: float = 20
) -> None:
    """Add what a study would know of the network between the first hosts, one rank on each, to a folder.

    Args:
        cluster: the hosts.
        folder: on what all of them share.
        ranks: how many hosts.
        tensors: bytes of the parameter tensors.
        limit_s: how long to measure.
    """
    hosts = ",".join(f"{name(host)}:1" for host in range(1, ranks + 1))
    program = MEASURE.format(ranks=ranks, hosts=hosts, tensors=list(tensors), folder=folder, limit_s=limit_s)
    cluster.exec(1, [sys.executable, "-c", program], timeout_s=200, environment=ENVIRONMENT)
