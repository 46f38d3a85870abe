"""Slurm on the hosts of the cluster, without systemd: munged and slurmctld on node1, a slurmd on every host.

with Cluster(3) as cluster, Slurm(cluster) as slurm:
    job = slurm.submit(script)
    slurm.wait_for(job, "COMPLETED")
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.cluster.cluster import Cluster, address, name
from tests.cluster.processes import ClusterError, wait_until
from tests.cluster.requirements import SEARCH

PROGRAMS = {"slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "sbatch": "slurm-wlm", "munged": "munge"}
"""By program, Debian's package."""
LIBPMIX = ("libpmix-dev", "/usr/lib/*/pmix2/lib/libpmix.so")
"""What srun --mpi=pmix loads, by Debian's package."""
DAEMONS = {"munged", "slurmctld", "slurmscriptd", "slurmd"}
TIMEOUT_S = 60.0
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY"}

CONFIGURATION = """\
ClusterName=box
SlurmctldHost={controller}({address})
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdSpoolDir={local}/slurmd
StateSaveLocation={folder}/state
KillWait=5
SchedulerParameters=sched_interval=2
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=60 State=UP
"""
# slurmd always loads a cgroup plugin. To name the first version's spares it the look at /sys/fs/cgroup, which is not
# there: a host's /sys is its own.
CGROUPS = "CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n"


def missing() -> str | None:
    """Why there can be no Slurm here, in one line; None if there can."""
    packages = {package for program, package in PROGRAMS.items() if shutil.which(program, path=SEARCH) is None}
    package, pattern = LIBPMIX
    if not list(Path("/").glob(pattern.removeprefix("/"))):
        packages.add(package)
    if not packages:
        return None
    names = " ".join(sorted(packages))
    return f"Slurm needs {names}: apt-get install --no-install-recommends {names}"


class Slurm:
    """A batch system on some hosts, as a context manager; its user is root, on node1."""

    def __init__(self, cluster: Cluster) -> None:
        """Take the hosts."""
        self.cluster = cluster
        self.folder = cluster.folder / "slurm"

    def __enter__(self) -> Slurm:
        """Bring it up."""
        self._configure()
        try:
            munge = [f"--{file}={self.folder}/munge.{file}" for file in ("socket", "pid-file", "log-file", "seed-file")]
            # By force: the socket may lie in a folder of any mode. All three go into the background by themselves.
            self._run(1, ["munged", "--force", f"--key-file={self.folder}/munge.key", *munge])
            self._run(1, ["slurmctld", "-i", "-c"])
            for host in self.cluster.numbers():
                self._run(host, ["slurmd", "-N", name(host)])
            wait_until(self._is_idle, "all hosts of Slurm to be idle")
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it, and its jobs."""
        self._stop()

    def submit(self, script: Path, *options: str, environment: Mapping[str, str] | None = None) -> int:
        """Queue a script from the folder that it lies in, and return the job's number."""
        command = ["sbatch", "--parsable", *options, str(script)]
        return int(self._run(1, command, script.parent, environment).stdout)

    def command(self, *command: str) -> str:
        """Run one of Slurm's commands on node1; what it printed."""
        return self._run(1, command).stdout

    def job(self, number: int) -> dict[str, str]:
        """What Slurm knows of a job, such as JobState, Reason, Restarts and ExitCode."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.command("scontrol", "--oneliner", "show", "job", str(number))))

    def wait_for(self, number: int, state: str, restarts: int = 0, timeout_s: float = TIMEOUT_S) -> dict[str, str]:
        """Wait until a job that was queued again so often is in that state; what Slurm then knows of it.

        Raises:
            ClusterError: if it ends otherwise, or does not come to it in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            job = self.job(number)
            if (job["JobState"], job["Restarts"]) == (state, str(restarts)):
                return job
            if job["JobState"] in ENDED or time.monotonic() > deadline:
                logs = "\n".join(log.read_text() for log in sorted(self.folder.glob("slurm*.log")))
                raise ClusterError(f"job {number} is to be {state} after {restarts} restarts, but is {job}\n{logs}")
            time.sleep(0.1)

    def release(self, number: int) -> None:
        """Start a job that was queued again as soon as its first run is gone from the hosts, not after two minutes."""
        wait_until(lambda: self._is_idle() and not self.left(), "the end of the job's first run")
        time.sleep(1)  # slurmd refuses a job whose credential is of the second in which it ended that job
        self.command("scontrol", "update", f"JobId={number}", "StartTime=now")

    def left(self) -> list[str]:
        """What runs on the hosts but Slurm's own daemons."""
        return [
            f"{name(host)}: {process}"
            for host in self.cluster.numbers()
            for process in self.cluster.processes(host)
            if Path(process.arguments[0].split()[-1]).name not in DAEMONS
        ]

    def _configure(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "state").mkdir(parents=True, mode=0o755)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        nodes = "\n".join(
            f"NodeName={name(host)} NodeAddr={address(host)} Boards=1 Sockets=1 CoresPerSocket={os.cpu_count()}"
            " ThreadsPerCore=1 RealMemory=2000 State=UNKNOWN"
            for host in self.cluster.numbers()
        )
        local = self.cluster.tmp()  # pmix takes the spool directory's name as it stands: one path, other content
        (self.folder / "slurm.conf").write_text(
            CONFIGURATION.format(controller=name(1), address=address(1), folder=self.folder, local=local, nodes=nodes)
        )
        (self.folder / "cgroup.conf").write_text(CGROUPS)
        (self.folder / "mpi.conf").write_text(f"PMIxCliTmpDirBase={local}\n")

    def _run(
        self,
        host: int,
        command: Sequence[str],
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        variables = {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": SEARCH, **(environment or {})}
        return self.cluster.exec(host, command, cwd, environment=variables)

    def _is_idle(self) -> bool:
        # One line for each host. A host that still cleans up after a job is "completing", and idle for --states.
        states = self.cluster.exec(
            1,
            ["sinfo", "--noheader", "--Node", "--format=%T"],
            environment={"SLURM_CONF": str(self.folder / "slurm.conf")},
            check=False,
        )
        return states.stdout.split() == ["idle"] * self.cluster.hosts

    def _stop(self) -> None:
        self.cluster.kill_jobs()
        shutil.rmtree(self.folder, ignore_errors=True)
