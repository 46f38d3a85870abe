"""Starts programs of several ranks as `python -m launch run` does, but lets them talk to the benchmark."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.discovery import find_launcher, query_library
from launch.hosts import read_hostfile
from launch.job import Request, build_job, find_available
from launch.placement import Available


def request(ranks: int, threads: int, hostfile: Path | None = None) -> Request:
    """Ranks of so many threads each, on the hosts of a file or on this one."""
    return Request(ranks, threads, hosts=read_hostfile(hostfile) if hostfile else ())


def start_ranks(
    wanted: Request, program: Sequence[str], folder: Path, available: Sequence[Available] = (), **options: Any
) -> subprocess.Popen[str]:
    """Start mpirun with a program for every rank.

    Args:
        wanted: the ranks.
        program: what each of them runs.
        folder: where the hosts are written for mpirun; to be kept until it has ended.
        available: the hosts and their cores; default: those that are wanted, with all their cores.
        options: of `subprocess.Popen`.
    """
    launcher = find_launcher(query_library(), "auto")
    job = build_job(wanted, launcher, program, available or find_available(wanted), folder / "hosts")
    if job.hostfile is not None:
        job.hostfile.write_text(job.hostfile_text)
    environment = {**os.environ, **job.environment}
    return subprocess.Popen(job.command, stdin=subprocess.DEVNULL, env=environment, text=True, **options)
