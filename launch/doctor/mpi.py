"""The MPI library, and the mpirun that fits it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from launch.discovery import Launcher, Library, find_launcher
from launch.doctor.capture import capture
from launch.doctor.finding import Finding
from launch.errors import UsageError
from launch.flavours import recognise

LIMIT_S = 60.0
"""For an mpirun to tell its version."""


def check_library(library: Callable[[], Library]) -> tuple[Finding, Library | None]:
    """The library that mpi4py loads."""
    try:
        found = library()
    except UsageError as mistake:
        fix = "load your cluster's MPI module, or in a new environment: pip install 'ddp-sgd[mpi]'"
        return Finding("MPI library", "error", str(mistake), fix), None
    details = {"vendor": found.vendor, "version": list(found.version), "path": found.path}
    return Finding("MPI library", "ok", str(found), "", details), found


def check_mpirun(library: Library, wanted: str) -> tuple[Finding, Launcher | None]:
    """The mpirun that the launcher takes, and the one that a plain `mpirun` would be.

    They must be of the same MPI: the other's starts every process as rank 0 of 1.

    Args:
        library: what mpi4py loads.
        wanted: the value of `--mpi`.
    """
    try:
        launcher = find_launcher(library, wanted)
    except UsageError as mistake:
        what, _, fix = str(mistake).rpartition(": ")
        return Finding("mpirun", "error", what or fix, fix, {"path": None}), None
    own, flavour = launcher.mpirun, launcher.flavour
    first = shutil.which("mpirun")
    details = {"path": own, "first_on_path": first}
    if flavour.option == "srun":
        return Finding("mpirun", "ok", f"{own} of Slurm, which starts the ranks itself", "", details), launcher
    if first is None:
        text = f"{own} of {flavour.name}, as the library; there is no mpirun on PATH"
        return Finding("mpirun", "ok", text, "", details), launcher
    version = capture([first, "--version"], os.environ, LIMIT_S)
    other = recognise(version.output + version.errors)
    if other is not flavour:
        measured = (
            f"the first on PATH is {first} of {other.name if other else 'an unknown MPI'}, but mpi4py loads {library};"
            f" the launcher takes {own}, a plain mpirun would start each process as rank 0 of 1"
        )
        fix = f'put that of {flavour.name} first: export PATH="{Path(own).parent}:$PATH"'
        return Finding("mpirun", "error", measured, fix, details), launcher
    return Finding("mpirun", "ok", f"{own} of {flavour.name}, as the library", "", details), launcher
