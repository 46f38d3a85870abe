"""Which MPI library the ranks will load, and the mpirun that belongs to it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from launch.errors import UsageError
from launch.flavours import FLAVOURS, PMI, Flavour, recognise, srun_for

_INSTALL = "install an MPI, or run `pip install .[mpi]`"
_TIMEOUT_S = 60.0  # a cold network file system takes long to load its first Python


@dataclass(frozen=True)
class Library:
    """The MPI library that mpi4py loads: its vendor as mpi4py names it, version and file if known."""

    vendor: str
    version: tuple[int, ...]
    path: str | None = None

    def __str__(self) -> str:
        """For messages: `MPICH 5.0.2 (/opt/mpich/lib/libmpi.so.12)`."""
        return f"{self.vendor} {'.'.join(map(str, self.version))}" + (f" ({self.path})" if self.path else "")


@dataclass(frozen=True)
class Launcher:
    """The mpirun that starts the ranks."""

    flavour: Flavour
    mpirun: str
    """Its path."""


def find_launcher(library: Library, wanted: str) -> Launcher:
    """The mpirun that can start `library`; `wanted` is the value of `--mpi`.

    Raises:
        UsageError: if there is none, or if it is not the wanted one.
    """
    if wanted == "srun":
        return find_srun(library, os.environ)
    flavour = flavour_of(library, wanted)
    try:
        return Launcher(flavour, find_mpirun(flavour, Path(sys.executable).parent, os.environ.get("PATH", os.defpath)))
    except UsageError:
        if wanted == "auto" and "SLURM_JOB_ID" in os.environ and shutil.which("srun"):
            return find_srun(library, os.environ)
        raise


def find_srun(library: Library, environment: Mapping[str, str]) -> Launcher:
    """Slurm's srun, told what the library speaks.

    Raises:
        UsageError: outside of a Slurm job, without srun, or if this Slurm does not speak it.
    """
    srun = shutil.which("srun", path=environment.get("PATH"))
    if srun is None or "SLURM_JOB_ID" not in environment:
        raise UsageError("--mpi srun needs srun and a Slurm job to run in: get one by salloc or sbatch")
    pmi = PMI.get(library.vendor)
    if pmi is None:
        raise UsageError(f"--mpi srun: not known how srun starts {library}; one of {', '.join(PMI)} is needed")
    listed = _output([srun, "--mpi=list"])
    if not re.search(rf"\b{pmi}\b", listed):
        raise UsageError(
            f"--mpi srun: {library} needs srun --mpi={pmi}, which is not in {listed.split()}; use --mpi auto"
        )
    return Launcher(srun_for(library.vendor), srun)


def query_library(python: str = sys.executable) -> Library:
    """Ask another process, so that the launcher itself never loads MPI.

    Raises:
        UsageError: if mpi4py finds no MPI library, or cannot be imported.
    """
    command = [python, "-m", "ddp.comm.library"]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise UsageError(f"no MPI: mpi4py did not load it within {_TIMEOUT_S:g} s; try {' '.join(command)}") from None
    if answer.returncode != 0:
        reason = (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
        raise UsageError(reason.removeprefix("error: ") if answer.returncode == 2 else f"no MPI: {reason}")
    try:
        facts = json.loads(answer.stdout.splitlines()[-1])  # an MPI may say something of its own before
        return Library(facts["vendor"], tuple(facts["version"]), facts["path"])
    except (IndexError, KeyError, ValueError):
        raise UsageError(f"no MPI: {' '.join(command)} did not name the library but said {answer.stdout!r}") from None


def flavour_of(library: Library, wanted: str) -> Flavour:
    """The flavour of mpirun that can start `library`; `wanted` is the value of `--mpi`.

    Raises:
        UsageError: if there is none, or if it is not the wanted one.
    """
    for flavour in FLAVOURS:
        if flavour.vendor == library.vendor and library.version[0] in flavour.majors:
            break
    else:
        known = ", ".join(flavour.name for flavour in FLAVOURS)
        raise UsageError(f"mpi4py loads {library}, not one of {known}: start it by its own mpirun")
    if wanted not in ("auto", flavour.option):
        raise UsageError(
            f"--mpi {wanted}, but mpi4py loads {library}: give --mpi {flavour.option}, "
            f"or use an environment with {wanted}"
        )
    return flavour


def find_mpirun(flavour: Flavour, bin_dir: Path, search_path: str) -> str:
    """The mpirun of that flavour: the one in `bin_dir`, beside the Python of the ranks, or the first on PATH.

    Raises:
        UsageError: if there is no mpirun, or only others, which would start every rank as rank 0 of 1.
    """
    others = []
    for candidate in _candidates([bin_dir, *map(Path, filter(None, search_path.split(os.pathsep)))], flavour.programs):
        found = recognise(_output([str(candidate), "--version"]))
        if found is flavour:
            return str(candidate)
        others.append(f"{candidate} of {found.name if found else 'an unknown MPI'}")
    if not others:
        raise UsageError(f"no mpirun beside Python or on PATH: {_INSTALL}")
    raise UsageError(
        f"mpi4py loads {flavour.name}, but there is only {others[0]}: put the mpirun of {flavour.name} "
        f"on PATH, or in a new environment {_INSTALL}"
    )


def _candidates(folders: list[Path], names: tuple[str, ...]) -> Iterator[Path]:
    for folder in dict.fromkeys(folders):
        for name in names:
            if os.access(folder / name, os.X_OK) and (folder / name).is_file():
                yield folder / name


def _output(command: list[str]) -> str:
    """What a command says of itself; nothing if it does not."""
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout + answer.stderr
