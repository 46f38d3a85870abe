"""What a host of the cluster runs as its process 1: `python boot.py FOLDER NAME`, inside its new namespaces.

Gives the host its name, its own /proc, /dev/shm, network entries of /sys, ~/.ssh, /etc/hosts and local disk, starts
sshd, and then only reaps orphans. All other files are the machine's, as on a cluster with a shared file system. It
needs nothing but the standard library, and ends when it is killed, and with it every process of the host.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

SSHD = "/usr/sbin/sshd"
SSHD_START_S = 10.0


def main(folder: Path, name: str) -> None:
    """Set the host up, tell that it is there by the files `host.pid` and `ready` in its folder, and stay."""
    outer_pid = os.readlink("/proc/self")  # /proc is still the machine's
    own = folder / name
    socket.sethostname(name)
    mount_all(folder, own)
    with contextlib.suppress(ValueError, OSError):  # RDMA libraries want to lock memory
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    subprocess.Popen([SSHD, "-D", "-e", "-f", str(own / "sshd_config")], stdin=subprocess.DEVNULL)
    wait_for_sshd()
    (own / "host.pid").write_text(outer_pid)
    (own / "ready").touch()
    while True:
        try:
            os.wait()
        except ChildProcessError:  # sshd itself has ended
            time.sleep(0.1)


def mount_all(folder: Path, own: Path) -> None:
    """Cover what a host has for itself."""
    home = Path(pwd.getpwuid(0).pw_dir)  # where ssh and sshd look, whatever $HOME says
    (home / ".ssh").mkdir(mode=0o700, exist_ok=True)
    mount("-t", "proc", "proc", "/proc")
    mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", "/dev/shm")
    # MPI libraries list the network interfaces of /sys/class/net. What was mounted below /sys is covered, too.
    mount("-t", "sysfs", "sysfs", "/sys")
    mount("--bind", str(folder / "hosts"), "/etc/hosts")
    mount("--bind", str(folder / "ssh"), str(home / ".ssh"))
    mount("--bind", str(own / "local"), str(folder / "local"))


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def wait_for_sshd() -> None:
    """Until it takes connections."""
    deadline = time.monotonic() + SSHD_START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", 22), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
