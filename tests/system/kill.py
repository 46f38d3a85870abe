"""Kills a job at random moments, each time with kill -9, and resumes it: the final bits are the undisturbed run's.

    python -m tests.system.kill --kills 20                            # the long form of test_kill.py
    python -m tests.system.kill --kills 20 --ranks 3 -- --model.name mnist_cnn --data.name synthetic

Half of the times one rank is killed, and the MPI library must end the rest; else mpirun and all ranks at once.
One moment in four is anywhere after the start of mpirun, the others are anywhere in training. Checkpoints are
written every few steps, so that many are killed while one is written. Exit code 0 if the bits are equal.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from launch.discovery import find_mpirun, flavour_of, query_library
from tests.system.jobs import TRAIN, Job, Start, mpirun_command, records

HORIZON_S = 1.0
"""No kill comes later after the start of mpirun, or of training."""
STEPS_PER_KILL = 500
"""More than can be done in that time, as a step takes 4 ms at least: no run is done before its kill."""
THROTTLED = (sys.executable, "-m", "tests.system.planted", "throttled")
ARGUMENTS = ("--model.hidden", "[48]", "--train.epochs", "1000000", "--train.evaluate_every", "10")
CHECKPOINTS = ("--checkpoint.every_steps", "3", "--checkpoint.every_epochs", "0")
END_S = 60.0
END_PER_KILL_S = 10.0


def kill_and_resume(
    start: Start,
    folder: Path,
    kills: int,
    ranks: int,
    arguments: Sequence[str],
    seed: int,
    say: Callable[[str], object],
) -> tuple[str, str]:
    """Run a job undisturbed, and again with so many kills; `parameters_sha256` of both."""
    generator = random.Random(seed)
    job_of = (*arguments, "--train.steps", str(kills * STEPS_PER_KILL), "--threads", "1", "--output.name")
    require_done(start(ranks, *job_of, "straight", cwd=folder), END_S + kills * END_PER_KILL_S)
    disturbed = (*job_of, "disturbed", *CHECKPOINTS, "--resume", "auto")
    for number in range(1, kills + 1):
        before = steps_logged(folder)
        job = start(ranks, *disturbed, cwd=folder, program=THROTTLED)
        in_training = generator.random() < 0.75
        deadline = time.monotonic() + END_S
        while in_training and steps_logged(folder) <= before:
            assert job.process.poll() is None, job.output().text
            assert time.monotonic() < deadline, job.output().text
            time.sleep(0.02)
        moment = generator.uniform(0, HORIZON_S)
        time.sleep(moment)
        victim = kill(job, generator)
        since = "training began" if in_training else "mpirun started"
        say(f"kill {number:2d}, {moment:.2f} s after {since}: {victim}; it had {progress(job)}")
    require_done(start(ranks, *disturbed, cwd=folder), END_S + kills * END_PER_KILL_S)
    first, second = (records(folder / "runs" / name)[-1]["parameters_sha256"] for name in ("straight", "disturbed"))
    return first, second


def kill(job: Job, generator: random.Random) -> str:
    """Kill a rank or all of a job, and wait for the end of all; says what was killed."""
    alive, shared = job.ranks(), job.shared_memory()
    rank = generator.randrange(len(alive)) if alive and generator.random() < 0.5 else None
    for pid in job.pids() if rank is None else [alive[rank]]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    finished = job.finish(END_S)
    assert finished.code != 0, finished.text
    deadline = time.monotonic() + END_S
    while job.pids():
        assert time.monotonic() < deadline, "some ranks go on after one was killed"
        time.sleep(0.02)
    for path in shared:
        path.unlink(missing_ok=True)
    return "the whole job" if rank is None else f"rank {rank}"


def steps_logged(folder: Path) -> int:
    """How many records of steps there are so far."""
    metrics = folder / "runs" / "disturbed" / "metrics.jsonl"
    return metrics.read_text().count('"event": "step"') if metrics.exists() else 0


def progress(job: Job) -> str:
    """Where the job had begun."""
    begun = [line for line in job.output().out.splitlines() if line.startswith(("resumed", "no checkpoint"))]
    return begun[0] if begun else "not begun"


def require_done(job: Job, timeout_s: float) -> None:
    """Wait for a run that must come to its end."""
    finished = job.finish(timeout_s)
    assert finished.code == 0, finished.text


def main() -> int:
    """Read the command line, and do it in a temporary folder."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.kill", description="Kill and resume a job.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the moments")
    parser.add_argument("arguments", nargs="*", default=ARGUMENTS, help="of ddp.train")
    options = parser.parse_args()
    flavour = flavour_of(query_library(), "auto")
    mpirun = find_mpirun(flavour, Path(sys.executable).parent, os.environ.get("PATH", os.defpath))
    jobs: list[Job] = []

    def start(ranks: int, *arguments: str, cwd: Path, program: Sequence[str] = TRAIN) -> Job:
        jobs.append(Job(mpirun_command(flavour, mpirun, ranks, [*program, *arguments]), cwd))
        return jobs[-1]

    print(f"{flavour.name}, {options.ranks} ranks, seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="ddp-kill-") as folder:
        try:
            first, second = kill_and_resume(
                start,
                Path(folder),
                options.kills,
                options.ranks,
                options.arguments,
                options.seed,
                lambda line: print(line, flush=True),
            )
        finally:
            for job in jobs:
                job.kill()
    print(f"undisturbed {first}\nkilled      {second}")
    return int(first != second)


if __name__ == "__main__":
    sys.exit(main())
