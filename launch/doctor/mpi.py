"""The MPI library, and the mpirun that fits it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from launch.discovery import Library, find_mpirun, flavour_of
from launch.doctor.capture import capture
from launch.doctor.finding import Finding
from launch.errors import UsageError
from launch.flavours import Flavour, recognise

LIMIT_S = 60.0
"""For an mpirun to tell its version."""


def check_library(library: Callable[[], Library], wanted: str) -> tuple[Finding, Library | None, Flavour | None]:
    """The library that mpi4py loads, and the flavour of mpirun that can start it."""
    try:
        found = library()
    except UsageError as mistake:
        fix = "load your cluster's MPI module, or in a new environment: pip install 'ddp-sgd[mpi]'"
        return Finding("MPI library", "error", str(mistake), fix), None, None
    details = {"vendor": found.vendor, "version": list(found.version), "path": found.path}
    try:
        flavour = flavour_of(found, wanted)
    except UsageError as mistake:
        what, _, fix = str(mistake).rpartition(": ")
        return Finding("MPI library", "error", what, fix, details), found, None
    return Finding("MPI library", "ok", str(found), "", details), found, flavour


def check_mpirun(library: Library, flavour: Flavour, bin_dir: Path, search_path: str) -> tuple[Finding, str | None]:
    """The mpirun that the launcher takes, and the one that a plain `mpirun` would be.

    They must be of the same MPI: the other's starts every process as rank 0 of 1.
    """
    try:
        own = find_mpirun(flavour, bin_dir, search_path)
    except UsageError as mistake:
        what, _, fix = str(mistake).rpartition(": ")
        return Finding("mpirun", "error", what, fix, {"path": None}), None
    first = shutil.which("mpirun", path=search_path)
    details = {"path": own, "first_on_path": first}
    if first is None:
        text = f"{own} of {flavour.name}; there is none on PATH, only beside Python"
        return Finding("mpirun", "ok", text, "", details), own
    version = capture([first, "--version"], os.environ, LIMIT_S)
    other = recognise(version.output + version.errors)
    if other is not flavour:
        measured = (
            f"the first on PATH is {first} of {other.name if other else 'an unknown MPI'}, but mpi4py loads {library};"
            f" the launcher takes {own}, a plain mpirun would start each process as rank 0 of 1"
        )
        fix = f'put that of {flavour.name} first: export PATH="{Path(own).parent}:$PATH"'
        return Finding("mpirun", "error", measured, fix, details), own
    return Finding("mpirun", "ok", f"{own} of {flavour.name}, as the library", "", details), own
