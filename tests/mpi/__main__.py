"""Run the tests of this folder inside mpirun: `python -m tests.mpi N [pytest arguments]`.

Every rank runs pytest. Rank 0 shows its output; that of the others is kept in files and shown only if the run
fails. The first rank with a failed test ends all of them, since the others may wait for it in a collective; a
test that takes longer than TEST_TIMEOUT_S ends its process, and with it the run.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from launch import supervise
from launch.argument_types import positive
from launch.discovery import find_launcher, query_library
from launch.job import Request, build_job
from launch.placement import available_here

HERE = Path(__file__).parent
TEST_TIMEOUT_S = 60
RUN_TIMEOUT_S = 280
PROGRAM = (sys.executable, "-m", "tests.mpi.rank")
"""What each rank runs, followed by the folder for its output and pytest's arguments."""

# The cache folder would be written by all ranks at once. Only a thread can end a rank that waits inside MPI:
# Python's signal handlers run between byte codes, which a blocked call never reaches.
OPTIONS = ("--with-mpi", "--only-mpi", "-q", "-x", "--no-header", "-p", "no:cacheprovider")
TIMEOUT = ("--timeout", str(TEST_TIMEOUT_S), "--timeout-method", "thread")


def main(arguments: Sequence[str], program: Sequence[str] = PROGRAM, timeout_s: float = RUN_TIMEOUT_S) -> int:
    """Run `program` on as many ranks as the first argument says; the exit code of mpirun.

    Args:
        arguments: the number of ranks, then what pytest is to get beside the options of this file.
        program: for tests of this function.
        timeout_s: after so many seconds everything is ended, with exit code 143.
    """
    request = Request(positive(arguments[0]), variables={"PYTHONUNBUFFERED": "1"})
    launcher = find_launcher(query_library(), "auto")
    chosen = [] if any(Path(word.partition("::")[0]).exists() for word in arguments[1:]) else [str(HERE)]
    with tempfile.TemporaryDirectory(prefix="ddp-tests-") as folder:
        whole = [*program, folder, *OPTIONS, *TIMEOUT, *arguments[1:], *chosen]
        job = build_job(request, launcher, whole, available_here())
        clock = threading.Timer(timeout_s, os.kill, (os.getpid(), signal.SIGTERM))
        clock.start()
        try:
            code = supervise.run(job.command, {**os.environ, **job.environment})
        finally:
            clock.cancel()
        if code:
            show_other_ranks(Path(folder), code)
    return code


def show_other_ranks(folder: Path, code: int) -> None:
    """Print what the ranks without a terminal have written."""
    for path in sorted(folder.glob("rank-*.txt")):
        print(f"\n--- {path.stem} ---\n{path.read_text(errors='replace').rstrip()}", flush=True)
    print(f"\nthe tests failed, or did not end: exit code {code}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2 or not sys.argv[1].isdecimal():
        sys.exit("error: python -m tests.mpi N [pytest arguments]: N is the number of ranks")
    sys.exit(main(sys.argv[1:]))
