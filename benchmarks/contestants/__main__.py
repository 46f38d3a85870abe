"""One process of a contestant: `python -m benchmarks.contestants TASK`, started by `benchmarks.peers`.

It waits for orders on the parent's socket, a line of JSON each way: a number of steps, for which it answers
with the seconds that they took. While another contestant is measured it sleeps.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.contestants.task import Contestant, Task

WARM_UP_STEPS = 3


def prepare(task: Task) -> Contestant:
    """Fix cores and threads, which libraries read when they are loaded, then build and warm up."""
    os.sched_setaffinity(0, task.cores)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = str(task.threads)
    module = importlib.import_module(f"benchmarks.contestants.{task.contestant}")
    contestant: Contestant = module.Contestant(task)
    contestant.run(WARM_UP_STEPS)
    return contestant


def serve(task: Task) -> None:
    """Prepare, report, then time steps until the parent hangs up."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(Path(task.folder) / "parent"))
        stream = connection.makefile("rw")

        def answer(**fields: Any) -> None:
            stream.write(json.dumps(fields) + "\n")
            stream.flush()

        try:
            contestant = prepare(task)
        except ModuleNotFoundError as error:
            answer(problem=f"missing: {error}")
            return
        except Exception as error:
            answer(problem=f"failed: {type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}")
            raise
        answer(**contestant.facts())
        for line in stream:
            start = time.perf_counter()
            contestant.run(json.loads(line))
            seconds = time.perf_counter() - start
            answer(seconds=seconds, **contestant.facts())


if __name__ == "__main__":
    serve(Task.from_json(sys.argv[1]))
