"""Which MPI library mpi4py loads: `python -m ddp.comm.library` prints it as one JSON line.

MPI is loaded but not started, so this works outside of `mpirun` and inside any allocation.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Library:
    """An MPI library."""

    vendor: str
    """`MPICH`, `Open MPI`, `Intel MPI`, or another name that mpi4py knows."""
    version: tuple[int, ...]
    """Major, minor, patch."""
    path: str | None
    """The shared library's file, where the system tells."""


def loaded_library() -> Library:
    """The MPI library that mpi4py loads in this process.

    Raises:
        ImportError or RuntimeError: if it finds none.
    """
    import mpi4py

    mpi4py.rc.initialize = False
    from mpi4py import MPI

    vendor, version = MPI.get_vendor()
    return Library(vendor, version, _mapped_file("libmpi"))


def _mapped_file(prefix: str) -> str | None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    paths = (line.split(maxsplit=5)[-1].strip() for line in maps.read_text().splitlines())
    return next((path for path in paths if Path(path).name.startswith(prefix)), None)


def main() -> int:
    """Print the library, or one error line and the fix."""
    try:
        library = loaded_library()
    except (ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        fix = "load your cluster's MPI module, install Debian's openmpi-bin, or: pip install 'ddp-sgd[mpi]'"
        sys.stderr.write(f"error: mpi4py finds no MPI library ({reason}); {fix}\n")
        return 2
    sys.stdout.write(json.dumps(asdict(library)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
