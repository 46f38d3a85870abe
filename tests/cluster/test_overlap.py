"""Between hosts, buckets are on their way while the backward pass computes; shown by traces, not by times."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ddp.observe.trace import merge
from tests.cluster.cluster import Cluster
from tests.cluster.jobs import TRAIN, ClusterJob, Mpi
from tests.traces import by_track, lies_in, stop

STEPS = 12
RATE, BURST = "2gbit", "256kb"
ARGUMENTS = (
    *("--model.name", "mnist_cnn", "--data.name", "synthetic", "--data.samples", "512", "--batch.size", "128"),
    *("--threads", "1", "--train.steps", str(STEPS), "--train.evaluate_every", "0"),
    *("--comm.reducer", "bucketed", "--output.trace", "true", "--output.name", "run"),
)


@pytest.fixture
def slow_network(cluster: Cluster) -> Iterator[Cluster]:
    """Links of 2 Gbit/s: without a limit they are as fast as the cores that compute can copy."""
    cluster.shape(RATE, BURST)
    yield cluster
    cluster.shape(None)


def test_buckets_arrive_while_backward_computes(slow_network: Cluster, mpi: Mpi, tmp_path: Path) -> None:
    hostfile = mpi.write_hostfile(tmp_path / "hosts", [1, 2])
    finished = ClusterJob(slow_network, mpi.mpirun(2, hostfile, [*TRAIN, *ARGUMENTS]), tmp_path).end()
    assert finished.code == 0, finished.text
    trace = by_track(merge(tmp_path / "runs" / "run"))
    for rank in (0, 1):
        backward = [event for event in trace[rank, "main"] if event["name"] == "backward"]
        sums = [event for event in trace[rank, "communication"] if event["name"] == "sum of gradients"]
        calls = [event for event in trace[rank, "communication"] if event["name"] == "start bucket"]
        buckets = [track for (of_rank, name), track in trace.items() if of_rank == rank and name.startswith("bucket ")]
        assert len(buckets) > 1
        assert len(backward) == len(sums) >= STEPS
        assert all(any(lies_in(call, phase) for phase in backward) for call in calls)
        assert all(len(track) == len(sums) for track in buckets)
        # Seen to be complete before anybody waited: by the thread that lets them move.
        hidden = sum(stop(event) < wait["ts"] for track in buckets for event, wait in zip(track, sums, strict=True))
        assert hidden > 0
