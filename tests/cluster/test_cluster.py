"""The cluster itself: hosts that reach each other, faults that set in, and nothing left behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import PREFIX, RUN, Cluster, remove_stale
from tests.cluster.processes import ClusterError, is_running, namespace, wait_until

ROOT = Path(__file__).parents[2]
SECONDS = "300"
OWNER = """
import time
from tests.cluster.cluster import Cluster
with Cluster(2) as cluster:
    print(cluster.folder, *map(cluster.init, cluster.numbers()), flush=True)
    time.sleep(300)
"""


def ping(cluster: Cluster, source: int, target: int, count: int = 1) -> str | None:
    """What ping says; None if there is no answer."""
    program = ["ping", "-q", "-n", "-c", str(count), "-i", "0.05", "-W", "1", f"node{target}"]
    done = cluster.exec(source, program, check=False)
    return done.stdout if done.returncode == 0 else None


def test_hosts_differ_in_what_a_host_has_for_itself(cluster: Cluster) -> None:
    for host in cluster.numbers():
        assert cluster.exec(host, ["hostname"]).stdout == f"node{host}\n"
        assert f"10.77.0.{host}/24" in cluster.exec(host, ["ip", "-4", "addr", "show", "eth0"]).stdout
        assert cluster.exec(host, ["ls", "/sys/class/net"]).stdout.split() == ["eth0", "lo"]
        cluster.exec(host, ["sh", "-c", "echo $0 > $TMPDIR/mine; echo $0 > /dev/shm/mine", str(host)])
    for host in cluster.numbers():
        assert cluster.exec(host, ["sh", "-c", "cat $TMPDIR/mine /dev/shm/mine"]).stdout == f"{host}\n{host}\n"


def test_files_and_working_directory_are_shared(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("shared")
    for host in cluster.numbers():
        assert cluster.exec(host, ["cat", "file"], cwd=tmp_path).stdout == "shared"


def test_hosts_log_in_to_each_other(cluster: Cluster) -> None:
    for host in cluster.numbers():
        other = host % cluster.hosts + 1
        assert cluster.exec(host, ["ssh", f"node{other}", "hostname"]).stdout == f"node{other}\n"
    assert cluster.exec(1, ["ssh", "node2", "echo $TMPDIR"]).stdout.strip() == str(cluster.tmp())


def test_no_packet_leaves(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match="unreachable"):
        cluster.exec(1, ["ping", "-c", "1", "192.0.2.1"])


def test_a_pulled_cable(cluster: Cluster) -> None:
    assert ping(cluster, 1, 3)
    cluster.link(3, "down")
    assert ping(cluster, 1, 3) is None
    assert ping(cluster, 1, 2)
    cluster.link(3, "up")
    assert ping(cluster, 1, 3)


def test_a_crashed_host_and_its_return(cluster: Cluster) -> None:
    before = cluster.init(2)
    cluster.crash(2)
    assert not cluster.is_up(2)
    assert ping(cluster, 1, 2) is None
    with pytest.raises(ClusterError, match="node2 is not up"):
        cluster.exec(2, ["true"])
    cluster.boot(2, environment={"GREETING": "hello there"})
    assert cluster.init(2) != before
    assert cluster.exec(1, ["ssh", "node2", "echo $GREETING, $TMPDIR"]).stdout == f"hello there, {cluster.tmp()}\n"
    cluster.boot(2)
    assert cluster.exec(1, ["ssh", "node2", "echo $GREETING"]).stdout == "\n"


def test_delay(cluster: Cluster) -> None:
    """A lower bound cannot be missed on a busy machine."""
    cluster.delay(20)
    try:
        ping(cluster, 1, 2)  # the first has to find out the address
        said = ping(cluster, 1, 2, 5)
        assert said is not None
        match = re.search(r"min/avg/max/mdev = ([\d.]+)/", said)
        assert match is not None
        assert float(match[1]) >= 40
        cluster.exec(1, ["sh", "-c", "head -c 3000000 /dev/zero | ssh node2 'cat > $TMPDIR/zeros'"])
        assert cluster.exec(2, ["sh", "-c", "wc -c < $TMPDIR/zeros"]).stdout == "3000000\n"
    finally:
        cluster.delay(None)
    assert ping(cluster, 1, 2)


def test_shape(cluster: Cluster) -> None:
    cluster.shape("100mbit")
    assert "rate 100Mbit" in cluster.exec(2, ["tc", "qdisc", "show", "dev", "eth0"]).stdout
    cluster.shape(None)
    assert "tbf" not in cluster.exec(2, ["tc", "qdisc", "show", "dev", "eth0"]).stdout


def sleepers(cluster: Cluster, host: int) -> list[str]:
    """MARK of each process of a host, if it sleeps."""
    processes = cluster.processes(host)
    return [one.environment["MARK"] if one.arguments == ("sleep", SECONDS) else str(one) for one in processes]


def test_what_runs_on_a_host_is_seen_and_ended(cluster: Cluster) -> None:
    assert [cluster.processes(host) for host in cluster.numbers()] == [[]] * cluster.hosts
    cluster.exec(1, ["sh", "-c", "MARK=1 sleep 300 & ssh node2 'MARK=2 setsid sleep 300 >/dev/null 2>&1 &'"])
    for host in (1, 2):
        wait_until(lambda host=host: sleepers(cluster, host) == [str(host)], "it alone")  # type: ignore[misc]
    cluster.kill_jobs()
    assert [cluster.processes(host) for host in cluster.numbers()] == [[]] * cluster.hosts


def test_healing(cluster: Cluster) -> None:
    cluster.link(1, "down")
    cluster.crash(2)
    cluster.stop_sshd(3)
    with pytest.raises(ClusterError, match="refused"):
        cluster.exec(4, ["ssh", "node3", "hostname"])
    cluster.heal()
    for host in (2, 3):
        assert cluster.exec(1, ["ssh", f"node{host}", "hostname"]).stdout == f"node{host}\n"


def test_a_command_that_takes_too_long_is_ended(cluster: Cluster) -> None:
    done = cluster.exec(1, ["sleep", SECONDS], timeout_s=0.2, check=False)
    assert done.returncode == 124
    assert cluster.processes(1) == []


@pytest.fixture
def owner(shared_cluster: Cluster) -> Iterator[subprocess.Popen[str]]:
    """Another process, with a cluster of its own."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER], env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True
    )
    with process:
        yield process
        process.kill()


def test_two_clusters_know_nothing_of_each_other(cluster: Cluster, owner: subprocess.Popen[str]) -> None:
    assert owner.stdout is not None
    inits = [int(text) for text in owner.stdout.readline().split()[1:]]
    cluster.crash(1)
    assert all(map(is_running, inits))


def test_a_cluster_ends_with_its_owner_even_by_kill_9(owner: subprocess.Popen[str]) -> None:
    assert owner.stdout is not None
    line = owner.stdout.readline().split()
    folder, inits = Path(line[0]), [int(text) for text in line[1:]]
    networks = {namespace(pid, "net") for pid in inits}
    assert all(map(is_running, inits))
    remove_stale()
    assert folder.exists()  # its owner lives
    owner.kill()
    owner.wait()
    wait_until(lambda: not any(map(is_running, inits)), "the end of all hosts")
    wait_until(lambda: networks.isdisjoint(all_networks()), "the end of all namespaces")
    remove_stale()
    assert not folder.exists()


def all_networks() -> set[str]:
    """The network namespaces that processes of this machine are in."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            found.add(namespace(entry.name, "net"))
        except OSError:
            continue
    return found


def test_a_cluster_for_people_stays_until_it_is_taken_down(shared_cluster: Cluster) -> None:
    name = f"test{os.getpid()}"

    def command(*arguments: str) -> str:
        program = [sys.executable, "-m", "tests.cluster", "--name", name, *arguments]
        return subprocess.run(program, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout

    try:
        command("up", "2")
        assert command("exec", "1", "ssh", "node2", "hostname") == "node2\n"
        command("crash", "2")
        assert command("status").splitlines() == ["node1 10.77.0.1 0 processes", "node2 10.77.0.2 down"]
        command("boot", "2")
        assert command("exec", "2", "hostname") == "node2\n"
        assert Cluster(2, RUN / f"{PREFIX}{name}").is_up(1)
    finally:
        command("down")
    assert not (RUN / f"{PREFIX}{name}").exists()


def test_nothing_is_left(shared_cluster: Cluster) -> None:
    with Cluster(1) as cluster:
        (pid,) = map(cluster.init, cluster.numbers())
        network, folder = namespace(pid, "net"), cluster.folder
        assert folder.parent == RUN
        assert folder.name.startswith(f"{PREFIX}{os.getpid()}-")
    assert not is_running(pid)
    assert network not in all_networks()
    assert not folder.exists()
