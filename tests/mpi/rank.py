"""One rank of `python -m tests.mpi`: pytest, with the output of all ranks but 0 sent to a file."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from ddp.comm import environment

GRACE_S = 1.0
"""How long a rank with a failed test lets the others show their own failures."""


def run(folder: Path, arguments: list[str]) -> int:
    """Run pytest; after a failure, end every rank."""
    rank = environment.launched_rank()
    environment.prepare()
    if rank > 0:
        # The file descriptors, so that the stacks of a time-out and the words of a crash are kept too.
        output = os.open(folder / f"rank-{rank:02d}.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
    # In one folder, ranks would tidy up the runs before theirs at the same time and fail over each other.
    code = int(pytest.main([*arguments, "--basetemp", str(folder / f"tmp-{rank:02d}")]))
    if code:
        from mpi4py import MPI

        sys.stdout.flush()
        time.sleep(GRACE_S)
        MPI.COMM_WORLD.Abort(code)
    return code


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2:]))
