"""The launcher trains over hosts, with the bits of one host."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster, name
from tests.cluster.jobs import LONG, SHORT, Bits, ClusterJob, Mpi, final_sha256, launch_command
from tests.system.jobs import records


@pytest.mark.parametrize(("ranks", "hosts"), [(4, 2), (4, 4)])
def test_the_bits_are_those_of_one_host(
    ranks: int,
    hosts: int,
    cluster: Cluster,
    mpi: Mpi,
    undisturbed: Bits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if hosts == 4:
        monkeypatch.delenv("NUMBA_CACHE_DIR")  # as at a user's: each host has compiled kernels of its own
    hostfile = mpi.write_hostfile(tmp_path / "hosts", range(1, hosts + 1), slots=2)
    finished = ClusterJob(cluster, [*launch_command(mpi, ranks, hostfile), *SHORT], tmp_path).end()
    assert finished.code == 0, finished.text
    start = records(tmp_path / "runs" / "run")[0]
    assert start["world_size"] == ranks
    assert start["hosts"] == [name(1 + rank * hosts // ranks) for rank in range(ranks)]
    assert final_sha256(tmp_path) == undisturbed(SHORT)


def test_every_reducer_has_the_same_bits_between_hosts_and_the_fastest_is_named(
    cluster: Cluster, mpi: Mpi, undisturbed: Bits, tmp_path: Path
) -> None:
    """All in one run, two ranks on each of two hosts: memory within, messages between."""
    hostfile = mpi.write_hostfile(tmp_path / "hosts", range(1, 3), slots=2)
    finished = ClusterJob(cluster, [*launch_command(mpi, 4, hostfile), *LONG], tmp_path).end()
    assert finished.code == 0, finished.text
    (choice,) = [record for record in records(tmp_path / "runs" / "run") if record["event"] == "reducer"]
    assert set(choice["step_ms"]) == {"flat", "node_shared", "bucketed", "sharded"}
    assert f"reducer {choice['rung']}: {choice['reason']}" in finished.text
    assert final_sha256(tmp_path) == undisturbed(LONG)
