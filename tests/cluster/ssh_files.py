"""Keys and configuration of ssh on the cluster: every host may log in to every host, and knows its key."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

CLIENT = """\
Host *
  IdentityFile ~/.ssh/id_ed25519
  UserKnownHostsFile ~/.ssh/known_hosts
  StrictHostKeyChecking yes
  BatchMode yes
  ConnectTimeout 5
  LogLevel ERROR
"""
SERVER = """\
HostKey {folder}/ssh_host_ed25519_key
PidFile none
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile .ssh/authorized_keys
MaxStartups 200
MaxSessions 200
UseDNS no
PrintMotd no
SetEnv {environment}
"""


def write_client(folder: Path, addresses: Mapping[str, str]) -> None:
    """Write `ssh`, the ~/.ssh of every host, and a folder with its key for each host."""
    (folder / "ssh").mkdir(mode=0o700)
    _make_key(folder / "ssh" / "id_ed25519")
    shutil.copy(folder / "ssh" / "id_ed25519.pub", folder / "ssh" / "authorized_keys")
    (folder / "ssh" / "config").write_text(CLIENT)
    known = []
    for name, address in addresses.items():
        (folder / name).mkdir()
        key = folder / name / "ssh_host_ed25519_key"
        _make_key(key)
        known.append(f"{name},{address} {key.with_name(f'{key.name}.pub').read_text()}")
    (folder / "ssh" / "known_hosts").write_text("".join(known))


def write_server(folder: Path, environment: Mapping[str, str]) -> None:
    """Write the configuration of a host's sshd into its folder; `environment` is that of logins."""
    variables = " ".join(f'"{name}={value}"' for name, value in environment.items())
    (folder / "sshd_config").write_text(SERVER.format(folder=folder, environment=variables))


def _make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)], check=True)
