"""`python -m launch doctor` finds each fault that is planted on one of several hosts, names the host, and goes on."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from tests.cluster.cluster import Cluster
from tests.cluster.conftest import skip
from tests.cluster.jobs import ClusterJob, Mpi
from tests.cluster.processes import LISTENER, processes_of

WITHIN_S = 90.0
FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


class Report:
    """What the doctor says of some hosts."""

    def __init__(self, cluster: Cluster, mpi: Mpi, cwd: Path, hosts: str = "node1,node2,node3", *more: str) -> None:
        command = [mpi.python, "-m", "launch", "doctor", "-H", hosts, "--threads", "1", "--json", *more]
        path = os.pathsep.join([str(Path(mpi.python).parent), os.environ.get("PATH", os.defpath)])
        finished = ClusterJob(cluster, command, cwd, PATH=path).end(WITHIN_S)
        assert finished.code in (0, 1), finished.text
        document = json.loads(finished.out)
        assert document["state"] in ("ok", "warning", "error")
        assert finished.code == (document["state"] == "error")
        self.checks: list[dict[str, Any]] = document["checks"]

    def bad(self) -> list[tuple[str, str]]:
        """Every error: the check and what was measured."""
        return [(one["check"], one["measured"]) for one in self.checks if one["state"] == "error"]

    def of(self, check: str) -> dict[str, Any]:
        """A check's only finding."""
        (found,) = (one for one in self.checks if one["check"] == check)
        return found


@contextmanager
def mounted(cluster: Cluster, host: int, *mounts: list[str]) -> Iterator[None]:
    """Something else at a place of one host's file system; the last word of each is the place."""
    done: list[str] = []
    try:
        for words in mounts:
            cluster.exec(host, ["mount", *words])
            done.append(words[-1])
        yield
    finally:
        for place in dict.fromkeys(reversed(done)):
            cluster.exec(host, ["umount", place])


def test_healthy_hosts(cluster: Cluster, mpi: Mpi, tmp_path: Path) -> None:
    report = Report(cluster, mpi, tmp_path, "node1:2,node2:1,node3:1")
    assert report.bad() == []
    assert report.of("world")["measured"] == "4 ranks in one world, on 3 hosts"
    assert report.of("ssh")["measured"].startswith("node1, node2, node3: reached")
    assert report.of("packages")["measured"].endswith("the same on 3 hosts")
    assert report.of("clock")["measured"].startswith("2 other hosts within 1 s")
    assert report.of("directory")["measured"].endswith("is the same one, on node1, node2, node3")
    pairs = [link["hosts"] for link in report.of("network")["details"]["links"]]
    assert pairs == [["node1", "node2"], ["node1", "node3"], ["node2", "node3"]]
    assert set(report.of("peak")["details"]) == {"node1", "node2", "node3"}
    assert {path.suffix for path in tmp_path.iterdir()} == {".out", ".err"}  # of this test: the doctor leaves nothing


def test_hosts_that_ssh_does_not_reach(cluster: Cluster, mpich: Mpi, tmp_path: Path) -> None:
    (sshd,) = (one for one in processes_of(cluster.init(2)) if one.arguments[0].startswith(LISTENER))
    os.kill(sshd.pid, signal.SIGKILL)
    known = cluster.folder / "ssh" / "known_hosts"
    before = known.read_text()
    known.write_text("".join(line for line in before.splitlines(keepends=True) if not line.startswith("node3,")))
    try:
        report = Report(cluster, mpich, tmp_path, "node1,node2,node3,nowhere,node4")
    finally:
        known.write_text(before)
    assert [(check, measured.partition(" (")[0]) for check, measured in report.bad()] == [
        ("ssh", "node2: connection refused"),
        ("ssh", "node3: unknown host key"),
        ("ssh", "nowhere: unknown host name"),
    ]
    assert report.of("world")["measured"] == "2 ranks in one world, on 2 hosts"  # the rest is examined all the same


def test_a_host_that_is_not_on_the_network(cluster: Cluster, mpich: Mpi, tmp_path: Path) -> None:
    cluster.link(3, "down")
    report = Report(cluster, mpich, tmp_path)
    ((check, measured),) = report.bad()
    assert check == "ssh"
    assert measured.startswith(("node3: no route", "node3: time-out"))
    assert "ping node3" in report.of("ssh")["fix"]


def test_another_numpy_a_clock_an_hour_off_and_a_read_only_run_directory(
    cluster: Cluster, mpich: Mpi, tmp_path: Path
) -> None:
    """On a host each, at once: each is found, and where."""
    if not FAKETIME:
        skip("a shifted clock needs Debian's libfaketime: apt-get install libfaketime")
    (tmp_path / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.26.4\n")
    numpy = distribution("numpy")
    metadata = numpy.locate_file(f"numpy-{numpy.version}.dist-info/METADATA")
    (tmp_path / "runs").mkdir()
    runs = str(tmp_path / "runs")
    cluster.boot(3, {"LD_PRELOAD": str(FAKETIME[0]), "FAKETIME": "-3600"})
    with (
        mounted(cluster, 2, ["--bind", str(tmp_path / "METADATA"), str(metadata)]),
        mounted(cluster, 4, ["--bind", runs, runs], ["-o", "remount,ro,bind", runs]),
    ):
        report = Report(cluster, mpich, tmp_path, "node1,node2,node3,node4")
    cluster.boot(3)
    packages, clock, directory = report.bad()
    assert packages == ("packages", f"numpy: 1.26.4 on node2, but {numpy.version} on node1, node3, node4")
    assert clock[0] == "clock"
    assert clock[1].startswith(("node3: 3,600.", "node3: 3,599."))
    assert "behind this host" in clock[1]
    assert directory == ("directory", f"{runs} cannot be written to: Read-only file system, on node4")
    assert report.of("world")["state"] == "ok"
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_run_directory_that_is_not_shared(cluster: Cluster, mpich: Mpi, tmp_path: Path) -> None:
    """One host has another of that name, one has none."""
    runs = tmp_path / "results" / "runs"
    runs.mkdir(parents=True)
    with (
        mounted(cluster, 2, ["-t", "tmpfs", "tmpfs", str(runs)]),
        mounted(cluster, 3, ["-t", "tmpfs", "tmpfs", str(runs.parent)]),
    ):
        report = Report(cluster, mpich, tmp_path, "node1,node2,node3", "--output.dir", "results/runs")
        left = cluster.exec(2, ["find", str(runs), "-type", "f"]).stdout
    assert report.bad() == [
        ("directory", f"{runs} is not the one of this host: neither sees what the other has written, on node2"),
        ("directory", f"{runs} does not exist, on node3"),
    ]
    assert left == ""


def test_a_slow_link(cluster: Cluster, mpich: Mpi, tmp_path: Path) -> None:
    limit = "replace dev eth0 root tbf rate 100mbit burst 64kb latency 200ms"
    cluster.exec(3, ["/sbin/tc", "qdisc", *limit.split()])
    try:
        report = Report(cluster, mpich, tmp_path)
    finally:
        cluster.exec(3, ["/sbin/tc", "qdisc", "del", "dev", "eth0", "root"])
    found = report.of("network")
    assert found["state"] == "warning"
    assert "every pair of node3" in found["measured"]
