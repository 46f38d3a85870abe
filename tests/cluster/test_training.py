"""The launcher trains over hosts, with the bits of one host."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster, name
from tests.cluster.jobs import SHORT, Bits, ClusterJob, Mpi, final_sha256, launch_command
from tests.system.jobs import records


@pytest.mark.parametrize(("ranks", "hosts"), [(4, 2), (4, 4)])
def test_the_bits_are_those_of_one_host(
    ranks: int, hosts: int, cluster: Cluster, mpi: Mpi, undisturbed: Bits, tmp_path: Path
) -> None:
    hostfile = mpi.write_hostfile(tmp_path / "hosts", range(1, hosts + 1), slots=2)
    finished = ClusterJob(cluster, [*launch_command(mpi, ranks, hostfile), *SHORT], tmp_path).end()
    assert finished.code == 0, finished.text
    start = records(tmp_path / "runs" / "run")[0]
    assert start["world_size"] == ranks
    assert start["hosts"] == [name(1 + rank * hosts // ranks) for rank in range(ranks)]
    assert final_sha256(tmp_path) == undisturbed(SHORT)
