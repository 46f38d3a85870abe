"""Jobs over hosts by plain mpirun, without the launcher."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.jobs import ENDLESS, LONG, SHORT, THROTTLED, TRAIN, Bits, ClusterJob, Ends, Mpi, final_sha256
from tests.system.jobs import records

END_S = 10.0


def test_the_bits_are_those_of_one_host(cluster: Cluster, mpi: Mpi, undisturbed: Bits, tmp_path: Path) -> None:
    hostfile = mpi.write_hostfile(tmp_path / "hosts", [1, 2])
    finished = ClusterJob(cluster, mpi.mpirun(2, hostfile, [*TRAIN, *SHORT]), tmp_path).end()
    assert finished.code == 0, finished.text
    assert records(tmp_path / "runs" / "run")[0]["hosts"] == ["node1", "node2"]
    assert final_sha256(tmp_path) == undisturbed(SHORT)


def test_sigterm_to_mpirun_and_resume(
    cluster: Cluster, mpi: Mpi, ends: Ends, undisturbed: Bits, tmp_path: Path
) -> None:
    """Open MPI leaves the ranks 0.25 s, in which they may or may not save: then the last checkpoint counts."""
    hostfile = mpi.write_hostfile(tmp_path / "hosts", [1, 2])
    job = ClusterJob(cluster, mpi.mpirun(2, hostfile, [*THROTTLED, *LONG, "--checkpoint.every_steps", "10"]), tmp_path)
    job.wait_for_training(15)
    job.signal(signal.SIGTERM)
    ends(job, "mpirun terminated" if mpi.option == "mpich" else "mpirun kills", time.monotonic())
    resume = [*TRAIN, *LONG, "--resume", "auto"]
    finished = ClusterJob(cluster, mpi.mpirun(2, hostfile, resume), tmp_path).end()
    assert finished.code == 0, finished.text
    assert "resumed at step" in finished.out
    assert "resumed at step 0" not in finished.out
    assert final_sha256(tmp_path) == undisturbed(LONG)


def test_a_killed_mpirun_takes_its_ranks_with_it(cluster: Cluster, mpi: Mpi, tmp_path: Path) -> None:
    hostfile = mpi.write_hostfile(tmp_path / "hosts", [1, 2, 3])
    job = ClusterJob(cluster, mpi.mpirun(3, hostfile, [*TRAIN, *ENDLESS]), tmp_path)
    job.wait_for_training()
    assert [job.rank(rank)[0] for rank in range(3)] == [1, 2, 3]
    job.signal(signal.SIGKILL)
    job.end(END_S)


@pytest.mark.parametrize("mpi", ["mpich"], indirect=True)
def test_a_stopped_rank_is_not_taken_for_an_end(cluster: Cluster, mpi: Mpi, tmp_path: Path) -> None:
    """That these tests can fail: what still runs is seen."""
    hostfile = mpi.write_hostfile(tmp_path / "hosts", [1, 2])
    job = ClusterJob(cluster, mpi.mpirun(2, hostfile, [*TRAIN, *ENDLESS]), tmp_path)
    job.wait_for_training()
    os.kill(job.rank(1)[1].pid, signal.SIGSTOP)
    with pytest.raises(pytest.fail.Exception, match="no end within"):
        job.end(1.0)
    assert job.left() == []
