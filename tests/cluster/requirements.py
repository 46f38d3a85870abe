"""What the cluster needs of this machine."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess

PROGRAMS = {
    "ip": "iproute2",
    "tc": "iproute2",
    "ethtool": "ethtool",
    "ping": "iputils-ping",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
    "unshare": "util-linux",
}
"""By program, Debian's package."""
SEARCH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
KERNEL = "ip link add br0 type bridge && ip link add eth0 type veth peer name eth1 && mount -t sysfs sysfs /sys"


@functools.cache
def missing() -> str | None:
    """Why there can be no cluster here, in one line; None if there can."""
    if os.geteuid() != 0:
        return "a cluster in a box needs root"
    packages = {package for program, package in PROGRAMS.items() if shutil.which(program, path=SEARCH) is None}
    if packages:
        return f"a cluster in a box needs {', '.join(sorted(packages))}: apt-get install {' '.join(sorted(packages))}"
    command = ["unshare", "--net", "--uts", "--ipc", "--pid", "--mount", "--fork", "sh", "-c", KERNEL]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if answer.returncode != 0:
        said = " ".join(answer.stderr.split())
        return f"a cluster in a box needs namespaces, bridge and veth of the kernel, which says: {said}"
    return None
