"""What the doctor asks of every host: `python -m launch.doctor.facts DIRECTORY TOKEN NUMBER` prints it as JSON.

Standard library only, and one process a host: a login and a Python's start cost more than all that is asked.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path

from launch import probe

PACKAGES = ("ddp-sgd", "numpy", "numba", "llvmlite", "mpi4py", "safetensors")
MARK = "launch.doctor.facts: "


@dataclass(frozen=True)
class HostFacts:
    """One host, as a process that was started there sees it."""

    host_name: str
    cores: tuple[int, ...]
    machine: str
    """Names the running kernel."""
    began: float
    """The host's clock when the process began to look, seconds since 1970."""
    ended: float
    """The same when it had seen all."""
    versions: dict[str, str]
    """Of Python, of the packages, and of this program's sources (SHA-256)."""
    directory: str
    """What is wrong with the run directory there; empty if nothing."""
    sees_token: bool
    """Whether the launcher's file is there."""


def token_file(directory: Path, token: str) -> Path:
    """The file that the launcher leaves for all hosts to see."""
    return directory / f".ddp-doctor-{token}"


def own_file(directory: Path, token: str, number: int) -> Path:
    """The file that a host leaves for the launcher to see."""
    return directory / f".ddp-doctor-{token}-{number}"


def write_synced(path: Path, text: str) -> None:
    """Write a small file that is really there afterwards.

    Raises:
        OSError: if that does not succeed, which a full file system may tell only at the end.
    """
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def versions() -> dict[str, str]:
    """Of Python, the packages and the sources, without importing any of them."""
    found = {"python": probe.facts().python}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return {**found, "sources": sources_sha256()}


def sources_sha256() -> str:
    """Of the Python files of `ddp` and `launch`, by name."""
    digest = hashlib.sha256()
    for package in ("ddp", "launch"):
        spec = util.find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            for file in sorted(Path(folder).rglob("*.py")):
                digest.update(f"{package}/{file.relative_to(folder)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def probe_directory(directory: Path, token: str, number: int) -> tuple[str, bool]:
    """What is wrong with the run directory on this host, and whether the launcher's file is seen there."""
    if not directory.is_dir():
        return "is no directory" if directory.exists() else "does not exist", False
    try:
        write_synced(own_file(directory, token, number), token)
    except OSError as error:
        return f"cannot be written to: {error.strerror}", token_file(directory, token).exists()
    return "", token_file(directory, token).exists()


def main(arguments: Sequence[str] | None = None) -> int:
    """Look, and print one line."""
    began = time.time()
    directory, token, number = sys.argv[1:] if arguments is None else arguments
    basic = probe.facts()
    problem, sees_token = probe_directory(Path(directory), token, int(number))
    found = versions()
    facts = HostFacts(basic.host_name, basic.cores, basic.machine, began, time.time(), found, problem, sees_token)
    sys.stdout.write(f"{MARK}{json.dumps(asdict(facts))}\n")
    return 0


def read(output: str) -> HostFacts | None:
    """What a host has printed, whatever its login says besides; None if it is not there."""
    for line in output.splitlines():
        if line.startswith(MARK):
            said = json.loads(line.removeprefix(MARK))
            return HostFacts(**{**said, "cores": tuple(said["cores"])})
    return None


if __name__ == "__main__":
    sys.exit(main())
