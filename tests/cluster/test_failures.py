"""Each fault ends a job in the stated time, with the stated message and exit code; nothing is left on any host."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.failures import SILENCE_S
from tests.cluster.jobs import ENDLESS, LONG, Bits, ClusterJob, Ends, Mpi, final_sha256, launch_command
from tests.cluster.processes import children
from tests.system.jobs import TIMEOUT_S, records

WATCHFUL = ("--heartbeat-timeout", str(SILENCE_S))
LIMITED = ("--comm.timeout_s", str(SILENCE_S))

HEARTBEAT_S = 1.0
"""Between two of a rank."""

Launch = Callable[..., ClusterJob]


@pytest.fixture
def launch(cluster: Cluster, mpi: Mpi, tmp_path: Path) -> Launch:
    """Starts a job by the launcher, on node1, with one rank on each of some hosts."""

    def start(
        *trainer: str,
        hosts: Sequence[int] = (1, 2),
        options: Sequence[str] = WATCHFUL,
        fault: str | None = None,
        ranks: int | None = None,
    ) -> ClusterJob:
        hostfile = mpi.write_hostfile(tmp_path / "hosts", hosts, slots=2)
        command = launch_command(mpi, ranks or len(hosts), hostfile, *options, fault=fault)
        return ClusterJob(cluster, [*command, *(trainer or ENDLESS)], tmp_path)

    return start


def in_mid_run(job: ClusterJob) -> ClusterJob:
    """Wait until it trains, and the launcher has heard so from all ranks."""
    job.wait_for_training()
    time.sleep(2 * HEARTBEAT_S)
    return job


def cmdline(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def set_in(job: ClusterJob) -> float:
    """Wait until a planted fault sets in; when that was."""
    deadline = time.monotonic() + TIMEOUT_S
    while not (job.cwd / "planted").exists():
        assert job.process.poll() is None, job.output().text
        assert time.monotonic() < deadline, job.output().text
        time.sleep(0.02)
    return time.monotonic()


def test_a_rank_raises(launch: Launch, ends: Ends) -> None:
    job = launch(fault="failure_beside_a_thread")
    finished = ends(job, "rank raises", set_in(job))
    assert finished.err.count("Traceback") == 1
    assert finished.err.count("RuntimeError: planted") == 1


def test_a_rank_is_killed(launch: Launch, ends: Ends) -> None:
    job = in_mid_run(launch())
    assert job.kill_rank(1) == 2
    ends(job, "rank killed", time.monotonic())


def test_a_rank_sleeps_for_ever(launch: Launch, ends: Ends) -> None:
    job = launch(*ENDLESS, *LIMITED, fault="hung_step")
    finished = ends(job, "rank sleeps", set_in(job))
    assert "planted.py" in finished.err  # where it sleeps


def test_a_rank_is_stopped(launch: Launch, ends: Ends) -> None:
    job = in_mid_run(launch())
    host, process = job.rank(1)
    assert host == 2
    os.kill(process.pid, signal.SIGSTOP)
    ends(job, "rank stopped", time.monotonic())


def test_mpirun_is_killed(launch: Launch, ends: Ends) -> None:
    job = launch()
    job.wait_for_training()
    (launcher,) = children(job.process.pid)
    mpirun = next(pid for pid in children(launcher) if re.search("mpi(run|exec)|prterun", cmdline(pid)))
    os.kill(mpirun, signal.SIGKILL)
    ends(job, "mpirun killed", time.monotonic())


def test_the_launcher_is_killed(launch: Launch, ends: Ends) -> None:
    job = launch()
    job.wait_for_training()
    job.signal(signal.SIGKILL)
    ends(job, "launcher killed", time.monotonic())


def test_the_connection_to_a_host_is_killed(
    launch: Launch, ends: Ends, mpi: Mpi, undisturbed: Bits, tmp_path: Path
) -> None:
    """MPICH's processes there have other connections."""
    job = launch(*LONG, fault="throttled")
    job.wait_for_training()
    connections = [process for process in job.cluster.processes(2) if process.arguments[0].startswith("sshd: ")]
    for process in connections:
        os.kill(process.pid, signal.SIGKILL)
    assert connections
    ends(job, "connection not needed" if mpi.option == "mpich" else "connection killed", time.monotonic())
    if mpi.option == "mpich":
        assert final_sha256(tmp_path) == undisturbed(LONG)


def test_a_link_goes_down(launch: Launch, ends: Ends) -> None:
    job = in_mid_run(launch(hosts=(1, 2, 3)))
    job.cluster.link(3, "down")
    ends(job, "link down", time.monotonic())


def test_a_host_crashes(launch: Launch, ends: Ends) -> None:
    job = in_mid_run(launch(hosts=(1, 2, 3)))
    job.cluster.crash(3)
    ends(job, "host crashes", time.monotonic())


def test_a_host_does_not_answer_at_launch(launch: Launch, cluster: Cluster, ends: Ends) -> None:
    cluster.link(2, "down")
    ends(launch(), "host silent", time.monotonic())


def test_a_host_refuses_ssh_at_launch(launch: Launch, cluster: Cluster, ends: Ends) -> None:
    cluster.stop_sshd(2)
    ends(launch(), "host refuses", time.monotonic())


def test_sigterm_to_the_launcher_and_resume(launch: Launch, ends: Ends, undisturbed: Bits, tmp_path: Path) -> None:
    job = launch(*LONG, "--checkpoint.every_epochs", "0", fault="throttled")
    job.wait_for_training(15)
    job.signal(signal.SIGTERM)
    ends(job, "launcher terminated", time.monotonic())
    finished = launch(*LONG, "--resume", "auto").end()
    assert finished.code == 0, finished.text
    assert [record["event"] for record in records(tmp_path / "runs" / "run")].count("start") == 2
    assert final_sha256(tmp_path) == undisturbed(LONG)


def test_a_restart_without_the_host_that_crashed(
    launch: Launch, cluster: Cluster, ends: Ends, undisturbed: Bits, tmp_path: Path
) -> None:
    options = (*WATCHFUL, "--max-restarts", "1")
    job = launch(*LONG, "--checkpoint.every_steps", "10", hosts=(1, 2, 3), options=options, fault="throttled")
    job.wait_for_training(15)
    cluster.crash(3)
    ends(job, "host left out", time.monotonic())
    first, second = (record for record in records(tmp_path / "runs" / "run") if record["event"] == "start")
    assert "node3" in first["hosts"]
    assert "node3" not in second["hosts"]
    assert final_sha256(tmp_path) == undisturbed(LONG)
