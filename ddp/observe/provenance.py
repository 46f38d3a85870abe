"""What a result was made with: versions, host, processor, source revision."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("ddp-sgd", "numpy", "numba", "llvmlite", "mpi4py", "safetensors")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a run depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def cpu_model() -> str:
    """The processor's name, as the system tells it."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def source_sha256() -> str:
    """SHA-256 of this package's Python files, by name: two nodes that differ run different programs."""
    digest = hashlib.sha256()
    package = Path(__file__).resolve().parents[1]
    for file in sorted(package.rglob("*.py")):
        digest.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def affinity() -> list[int]:
    """The cores that this process may run on."""
    return sorted(os.sched_getaffinity(0))


def git_revision() -> str | None:
    """The commit that the source tree has checked out; None outside of a checkout.

    Read from git's files: starting a process after MPI has started is unsafe on some networks.
    """
    git = Path(__file__).resolve().parents[2] / ".git"
    try:
        if git.is_file():  # a worktree: its own HEAD, and references shared with the others
            git = Path(git.read_text().removeprefix("gitdir: ").strip())
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        reference = head.removeprefix("ref: ")
        shared = git / (git / "commondir").read_text().strip() if (git / "commondir").exists() else git
        if (shared / reference).exists():
            return (shared / reference).read_text().strip()
        packed = (shared / "packed-refs").read_text().splitlines()
    except OSError:
        return None
    return next((line.split()[0] for line in packed if line.endswith(f" {reference}")), None)
