"""Faults that are planted into a scaling study are found, and named in its report."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from launch.scaling.collectives import read_collectives, slow_links
from tests.cluster.cluster import Cluster
from tests.cluster.collectives import measure_collectives
from tests.cluster.jobs import Mpi
from tests.cluster.processes import processes_of
from tests.cluster.test_scale import environment
from tests.system.jobs import LAUNCH, Job

TOGETHER_S = 400.0
CORES = sorted(os.sched_getaffinity(0))
BUSY = 2
"""Processes on the busy core: one alone takes less than half of it from a rank that sleeps while it waits."""
# Long enough a step that the kernel's scheduler can deal out the core several times meanwhile.
LONG_STEPS = ["--batch.size", "1024", "--comm.reducer", "flat"]


class Report:
    """What a study's report says."""

    def __init__(self, folder: Path) -> None:
        self.json: dict[str, Any] = json.loads((folder / "report.json").read_text())
        self.text = (folder / "report.md").read_text()
        self.page = (folder / "report.html").read_text()

    def faults(self, kind: str) -> list[str]:
        """In words."""
        return [fault["text"] for fault in self.json["faults"] if fault["kind"] == kind]

    def shows(self, text: str) -> bool:
        """Whether it is in both forms of the report."""
        return text in self.text and text in self.page


def study(cluster: Cluster, mpi: Mpi, folder: Path, hosts: str, *arguments: str) -> Report:
    """Make a study from node1, whose own ranks keep to the first core."""
    program = ["taskset", "-c", str(CORES[0]), mpi.python, "-m", "launch", "scale", "-H", hosts]
    points = ["--mode", "strong", "--output", "study", *arguments]
    done = cluster.exec(1, [*program, *points], folder, TOGETHER_S, environment())
    print(done.stdout, done.stderr)
    return Report(folder / "study")


@contextmanager
def on_a_busy_core(cluster: Cluster, host: int, core: int) -> Iterator[None]:
    """All that a host runs shares one core with processes that never sleep."""
    busy = [subprocess.Popen(["taskset", "-c", str(core), "sh", "-c", "while :; do :; done"]) for _ in range(BUSY)]
    try:
        set_cores(cluster, host, [core])
        yield
    finally:
        set_cores(cluster, host, CORES)
        for process in busy:
            process.kill()
            process.wait()


def set_cores(cluster: Cluster, host: int, cores: Sequence[int]) -> None:
    """What sshd starts there inherits them."""
    for process in processes_of(cluster.init(host)):
        mask = ",".join(map(str, cores))
        subprocess.run(["taskset", "-acp", mask, str(process.pid)], check=True, capture_output=True)


@contextmanager
def links(cluster: Cluster, rates: dict[int, str]) -> Iterator[None]:
    """Each host's cable carries no more than its rate, to it and from it."""
    for host, rate in rates.items():
        change(cluster, host, "replace", "tbf", "rate", rate, "burst", "64kb", "latency", "200ms")
    try:
        yield
    finally:
        for host in rates:
            change(cluster, host, "del")


def change(cluster: Cluster, host: int, verb: str, *how: str) -> None:
    """Set what queues at both ends of a cable: in the host, and at the switch."""
    for pid, device in ((cluster.init(host), "eth0"), (cluster.switch(), f"p{host}")):
        where = ["nsenter", "-t", str(pid), "-n", "tc", "qdisc", verb, "dev", device, "root"]
        subprocess.run([*where, *how], check=True, capture_output=True)


@pytest.mark.alone
@pytest.mark.timeout(600)
@pytest.mark.skipif(len(CORES) < 2, reason="needs a core that is not busy")
def test_a_rank_on_a_busy_core_is_named(cluster: Cluster, mpich: Mpi, tmp_path: Path) -> None:
    points = "--ranks", "1,2", "--repeats", "2", "--steps", "100", "--", *LONG_STEPS
    with on_a_busy_core(cluster, 2, CORES[1]):
        report = study(cluster, mpich, tmp_path, "node1:1,node2:1", *points)
    (fault,) = report.faults("imbalance")
    assert fault.startswith("rank 1 on node2 is slow: at 2 ranks x 1 thread, batch 1024")
    assert report.shows("rank 1 on node2 is slow")
    alone, together = report.json["series"][0]["rows"]
    assert together["factors"]["balance"] < 0.95 < alone["factors"]["balance"]


@pytest.mark.timeout(600)
def test_a_link_of_half_the_speed_is_named(cluster: Cluster, mpich: Mpi, tmp_path: Path) -> None:
    points = "--ranks", "1,3", "--repeats", "1", "--steps", "20", "--", "--comm.reducer", "flat"
    with links(cluster, {1: "400mbit", 2: "400mbit", 3: "200mbit"}):
        report = study(cluster, mpich, tmp_path, "node1:1,node2:1,node3:1", *points)
    (fault,) = report.faults("slow link")
    assert "every pair of node3" in fault
    assert report.shows("every pair of node3")
    phases = report.json["series"][0]["rows"][1]["times"]["phases_ms"]
    assert phases["comm"] == max(phases.values())  # and what it costs is called communication


@pytest.mark.timeout(600)
def test_links_that_are_alike_are_not_named(cluster: Cluster, tmp_path: Path) -> None:
    with links(cluster, dict.fromkeys((1, 2, 3), "400mbit")):
        measure_collectives(cluster, tmp_path, 3, (4096,), limit_s=5)
    (one,) = read_collectives(tmp_path)
    assert len(one.links) == 3
    assert slow_links([one]) == []


@pytest.mark.timeout(600)
def test_a_thread_too_many_for_each_core_is_named(tmp_path: Path) -> None:
    threads = str(len(CORES))
    points = ["--ranks", "1,2", "--threads", threads, "--mode", "strong", "--repeats", "1", "--steps", "20"]
    job = Job([*LAUNCH, "scale", *points, "--output", "study", "--", "--model.hidden", "[16]"], tmp_path)
    finished = job.finish(timeout_s=TOGETHER_S)
    assert finished.code == 0, finished.text
    report = Report(tmp_path / "study")
    (fault,) = report.faults("oversubscribed")
    assert f"2 ranks x {threads} threads on " in fault
    assert f"have {count(len(CORES))} for {2 * len(CORES)} threads" in fault
    rows = {row["point"]["ranks"]: row for row in report.json["series"][0]["rows"]}
    flags = {ranks: [flag["name"] for flag in row["flags"]] for ranks, row in rows.items()}
    assert "oversubscribed" in flags[2]
    assert "oversubscribed" not in flags[1]
    assert rows[2]["is_doubtful"]
    assert report.shows("oversubscribed")


def count(cores: int) -> str:
    return f"{cores} core" if cores == 1 else f"{cores} cores"
