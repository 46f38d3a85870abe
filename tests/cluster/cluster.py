"""A cluster in a box: hosts as Linux namespaces, each with its own address, host name, processes and sshd.

    with Cluster(3) as cluster:
        cluster.exec(1, ["ssh", "node2", "hostname"])
        cluster.link(3, "down")

Host I is node<I> with the address 10.77.0.<I>. It has namespaces of its own for network, host name, processes, mounts
and shared memory; the file system is shared, but for the local disk, which holds TMPDIR: Open MPI 5 keeps its session
in $TMPDIR/ompi.PID, hosts have equal process ids, and with one folder for all launches failed now and then. The switch
is a bridge in a network namespace of its own, so that no packet leaves the cluster, and several clusters can be up at
once. Nothing has a name outside: when the process that made a cluster ends, even by kill -9, the kernel kills process
1 of each host, and with it all that the host is. What is left then, a folder in /run, is removed by the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from tests.cluster import ssh_files
from tests.cluster.delay_switch import READY
from tests.cluster.processes import LISTENER, ClusterError, Process, is_running, namespace, processes_of, wait_until

NETWORK = "10.77.0"
RUN = Path("/run")
PREFIX, NEW = "ddp-cluster-", "ddp-new-"
HERE = Path(__file__).parent
TIMEOUT_S = 60.0
NAMESPACES = ("--net", "--uts", "--ipc", "--pid", "--mount", "--propagation", "private", "--fork", "--kill-child")


class Cluster:
    """Some hosts; as a context manager, or with `up` and `down`."""

    def __init__(self, hosts: int, folder: Path | None = None) -> None:
        """Take the number of hosts, and the folder of a cluster that is to outlive this process."""
        self.hosts = hosts
        self.outlives = folder is not None
        self.folder = folder or Path("/nonexistent")
        self._lock: IO[str] | None = None
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Cluster:
        """Bring it up."""
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take it down."""
        self.down()

    # Up and down

    def up(self) -> None:
        """Make the switch and all hosts, or nothing."""
        remove_stale()
        try:
            self._make_folder()
            ssh_files.write_client(self.folder, {name(host): address(host) for host in self.numbers()})
            switch = self._start(["unshare", "--net", "sleep", "infinity"], "switch")
            wait_until(lambda: namespace(switch, "net") != namespace("self", "net"), "the switch")
            _ip(switch, "link add br0 type bridge", "link set br0 up")
            for host in self.numbers():
                self._start_boot(host, {})
            for host in self.numbers():
                self._connect(host)
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """End every process of every host, and remove what is left."""
        for host in self.numbers():
            if self.is_up(host):
                self.crash(host)
        for daemon in ("delay", "switch"):
            self._stop(daemon)
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
        for child in self._started:
            child.wait()

    def boot(self, host: int, environment: Mapping[str, str] | None = None) -> None:
        """Start a host, again if it is up; `environment` is what ssh logins there get beside TMPDIR."""
        if self.is_up(host):
            self.crash(host)
        self._start_boot(host, environment or {})
        self._connect(host)

    def crash(self, host: int) -> None:
        """Power off: process 1 is killed, and with it all others of the host. The kernel still closes connections."""
        pid = self.init(host)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_running(pid), f"the end of {name(host)}")
        # The kernel would answer a ping until it has cleared the network namespace away.
        _run(["nsenter", "-t", str(self._pid("switch")), "-n", "ip", "link", "del", f"p{host}"])

    def stop_sshd(self, host: int) -> None:
        """Refuse new connections; those that are there stay. `boot` makes it good."""
        for process in self._all_processes(host):
            if process.arguments[0].startswith(LISTENER):
                os.kill(process.pid, signal.SIGKILL)
                wait_until(lambda pid=process.pid: not is_running(pid), "the end of sshd")  # type: ignore[misc]

    def heal(self) -> None:
        """Have all hosts up, their cables plugged, and nothing running."""
        for host in self.numbers():
            if self.is_up(host) and self._listens(host):
                self.link(host, "up")
            else:
                self.boot(host)
        self.kill_jobs()

    # The network

    def link(self, host: int, state: str) -> None:
        """Plug or pull a host's cable, at the switch: `up` or `down`."""
        _ip(self._pid("switch"), f"link set p{host} {state}")

    def shape(self, rate: str | None, burst: str = "64kb") -> None:
        """Limit what each host sends to a rate such as 100mbit (tc's words); None: no limit."""
        how = f"replace dev eth0 root tbf rate {rate} burst {burst} latency 200ms" if rate else "del dev eth0 root"
        for host in self.numbers():
            done = _run(["nsenter", "-t", str(self.init(host)), "-n", "tc", "qdisc", *how.split()])
            if rate:
                _check(done)

    def delay(self, milliseconds: float | None, rate: str = "0") -> None:
        """Hold each frame for a time, one way, and limit what each host receives to a rate; None: as it was.

        The kernel may lack netem: a switch in user space takes the bridge's place, at 0.25 ms and 1.7 Gbit/s at best.
        """
        self._stop("delay")
        is_on = milliseconds is not None
        for host in self.numbers():
            _ip(self._pid("switch"), f"link set p{host} {'nomaster' if is_on else 'master br0'}")
            state = "off" if is_on else "on"  # frames as on a wire: cut to size, with their checksums
            offloads = [word for offload in ("tx", "tso", "gso", "gro") for word in (offload, state)]
            _check(_run(["nsenter", "-t", str(self.init(host)), "-n", "ethtool", "-K", "eth0", *offloads]))
        if is_on:
            program = [sys.executable, str(HERE / "delay_switch.py"), str(milliseconds), rate]
            ports = [f"p{host}" for host in self.numbers()]
            self._start(["nsenter", "-t", str(self._pid("switch")), "-n", *program, *ports], "delay")
            log = self.folder / "delay.log"
            wait_until(lambda: READY in log.read_text(), f"the delaying switch: {log.read_text()}")

    def frames(self, num_bytes: int = 1500) -> None:
        """Let frames be so long; with long ones the switch of `delay`, which works frame by frame, keeps up."""
        for host in self.numbers():
            _ip(self._pid("switch"), f"link set p{host} mtu {num_bytes}")
            _ip(self.init(host), f"link set eth0 mtu {num_bytes}")

    # Processes

    def command(self, host: int, command: Sequence[str], cwd: Path | None = None) -> list[str]:
        """What runs a command on a host from outside, without ssh and without a shell.

        nsenter does not pass on signals: its only child is the command.
        """
        enter = ["nsenter", "-t", str(self.init(host)), "-n", "-u", "-i", "-p", "-m", "--"]
        # The working directory is lost with the mounts.
        return [*enter, "env", "-C", str(cwd or Path.cwd()), f"TMPDIR={self.tmp()}", *command]

    def exec(
        self,
        host: int,
        command: Sequence[str],
        cwd: Path | None = None,
        timeout_s: float = TIMEOUT_S,
        environment: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host to its end, not that of what it leaves in the background.

        After `timeout_s` it ends with the exit code 124 or 137.

        Raises:
            ClusterError: if it fails, unless `check` is false.
        """
        # The limit is inside: to kill nsenter would leave the command running.
        done = _run(self.command(host, ["timeout", "-k", "5", str(timeout_s), *command], cwd), environment)
        return _check(done) if check else done

    def processes(self, host: int) -> list[Process]:
        """Those of jobs: all but process 1 and the sshd that listens. None if the host is down."""
        return [one for one in self._all_processes(host) if not one.arguments[0].startswith(LISTENER)]

    def kill_jobs(self) -> None:
        """End what runs on the hosts, and empty their local disks."""
        for host in self.numbers():
            for process in (processes := self.processes(host)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            pids = [process.pid for process in processes]
            wait_until(lambda pids=pids: not any(map(is_running, pids)), "the end of a job")  # type: ignore[misc]
            for entry in (self.folder / name(host) / "local" / "tmp").iterdir():
                shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)

    # What there is

    def numbers(self) -> range:
        """The hosts' numbers, from 1."""
        return range(1, self.hosts + 1)

    def tmp(self) -> Path:
        """TMPDIR on each host: one path, other content."""
        return self.folder / "local" / "tmp"

    def init(self, host: int) -> int:
        """Process 1 of a host, by its id outside.

        Raises:
            ClusterError: if the host is not up.
        """
        with contextlib.suppress(OSError, ValueError):
            pid = self._pid(f"{name(host)}/host")
            if is_running(pid):
                return pid
        raise ClusterError(f"{name(host)} is not up")

    def switch(self) -> int:
        """The process whose network the switch is: host I is at its port pI."""
        return self._pid("switch")

    def is_up(self, host: int) -> bool:
        """Whether it runs."""
        with contextlib.suppress(ClusterError):
            return self.init(host) > 0
        return False

    def _all_processes(self, host: int) -> list[Process]:
        return processes_of(self.init(host)) if self.is_up(host) else []

    def _listens(self, host: int) -> bool:
        return any(one.arguments[0].startswith(LISTENER) for one in self._all_processes(host))

    # How it is made

    def _make_folder(self) -> None:
        if self.outlives:
            self.folder.mkdir()
        else:
            new = Path(tempfile.mkdtemp(prefix=NEW, dir=RUN))
            self._lock = (new / "owner").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)  # until this process ends, however that comes
            # Only now may others find it: one without a lock is stale.
            self.folder = new.rename(RUN / f"{PREFIX}{os.getpid()}-{new.name.removeprefix(NEW)}")
        self.folder.chmod(0o711)
        (self.folder / "local").mkdir()
        (self.folder / "size").write_text(str(self.hosts))
        names = "".join(f"{address(host)} {name(host)}\n" for host in self.numbers())
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n::1 localhost ip6-localhost\n{names}")

    def _start_boot(self, host: int, environment: Mapping[str, str]) -> None:
        own = self.folder / name(host)
        for file in ("host.pid", "ready"):
            (own / file).unlink(missing_ok=True)
        (own / "local" / "tmp").mkdir(parents=True, exist_ok=True)
        ssh_files.write_server(own, {"TMPDIR": str(self.tmp()), **environment})
        program = [sys.executable, str(HERE / "boot.py"), str(self.folder), name(host)]
        self._start(["unshare", *NAMESPACES, *program], f"{name(host)}/boot")

    def _connect(self, host: int) -> None:
        """Wait for a host, and plug its cable in."""
        own = self.folder / name(host)
        try:
            wait_until((own / "ready").exists, f"{name(host)} to come up")
        except ClusterError as error:
            raise ClusterError(f"{error}:\n{(own / 'boot.log').read_text()}") from None
        switch, init = self._pid("switch"), self.init(host)
        # The same hardware address after each start: the other hosts remember it.
        eth0 = f"eth0 address 02:00:00:00:00:{host:02x} netns {init}"
        _ip(switch, f"link add p{host} type veth peer name {eth0}", f"link set p{host} master br0 up")
        _ip(init, f"addr add {address(host)}/24 dev eth0", "link set eth0 up")

    def _start(self, command: Sequence[str], daemon: str) -> int:
        """Start a process of the cluster; it ends with this one unless the cluster is to outlive it."""
        tied = [] if self.outlives else ["setpriv", "--pdeathsig", "KILL"]
        with (self.folder / f"{daemon}.log").open("wb") as log:
            child = subprocess.Popen(
                [*tied, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._started.append(child)
        (self.folder / f"{daemon}.pid").write_text(str(child.pid))
        return child.pid

    def _stop(self, daemon: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            os.kill(self._pid(daemon), signal.SIGKILL)
        (self.folder / f"{daemon}.pid").unlink(missing_ok=True)

    def _pid(self, daemon: str) -> int:
        return int((self.folder / f"{daemon}.pid").read_text())


def name(host: int) -> str:
    """A host's name."""
    return f"node{host}"


def address(host: int) -> str:
    """A host's address."""
    return f"{NETWORK}.{host}"


def remove_stale() -> None:
    """Remove the folders of clusters whose owner has ended; their processes have ended with it."""
    for folder in RUN.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), (folder / "owner").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while the owner lives
            shutil.rmtree(folder, ignore_errors=True)


def _ip(pid: int, *commands: str) -> None:
    """Run commands of ip in the network namespace of a process."""
    for command in commands:
        _check(_run(["nsenter", "-t", str(pid), "-n", "ip", *command.split()]))


def _run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    # Into files, not pipes: a process in the background may keep a pipe open for ever.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        variables = {**os.environ, **(environment or {})}
        code = subprocess.call(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=variables)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(list(command), code, out.read(), err.read())


def _check(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    if done.returncode != 0:
        raise ClusterError(f"exit code {done.returncode}: {' '.join(done.args)}\n{done.stdout}{done.stderr}")
    return done
