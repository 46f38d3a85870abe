"""A job killed at random moments ends with the bits of one that was not; the launcher does the restarts itself.

The long form of the first test: `python -m tests.system.kill --kills 20`.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from ddp.checkpoint import find_checkpoints
from tests.system.jobs import LAUNCH, Job, Start, records
from tests.system.kill import ARGUMENTS, kill_and_resume
from tests.system.test_interrupt import wait_for_training

KILLS = 4
SMALL = ("--model.hidden", "[48]", "--threads", "1", "--output.name")


def test_kills_at_random_moments_change_no_bit(start: Start, tmp_path: Path) -> None:
    seed = int(os.environ.get("DDP_KILL_SEED", time.time_ns()))
    said: list[str] = [f"DDP_KILL_SEED={seed}"]
    undisturbed, killed = kill_and_resume(start, tmp_path, KILLS, 2, ARGUMENTS, seed, said.append)
    assert killed == undisturbed, said
    log = records(tmp_path / "runs" / "disturbed")
    assert log[-1]["event"] == "end"
    assert list((tmp_path / "runs" / "disturbed" / "checkpoints").glob(".*")) == []


def test_the_launcher_restarts_a_job_of_which_a_rank_was_killed(start: Start, tmp_path: Path) -> None:
    arguments = (*SMALL[:-1], "--train.epochs", "60", "--checkpoint.every_steps", "5", "--output.name")
    assert start(2, *arguments, "straight", cwd=tmp_path).finish().code == 0
    job = Job([*LAUNCH, "run", "-n", "2", "--max-restarts", "2", "--", *arguments, "run"], tmp_path)
    try:
        wait_for_training(job)
        os.kill(job.ranks()[1], signal.SIGKILL)
        finished = job.finish()
    finally:
        job.kill()
    assert finished.code == 0, finished.text
    lines = [line for line in finished.err.splitlines() if line.startswith("restart ")]
    assert len(lines) == 1
    assert lines[0].startswith("restart 1 of 2: the job failed (exit code ")
    assert "runs/run goes on from checkpoint step-" in lines[0]
    straight, restarted = (records(tmp_path / "runs" / name)[-1] for name in ("straight", "run"))
    assert restarted["parameters_sha256"] == straight["parameters_sha256"]


def test_the_launcher_gives_up_after_so_many_restarts(tmp_path: Path) -> None:
    program = ("--train.epochs", "1000000", "--train.evaluate_every", "0", "--output.name", "run")
    job = Job([*LAUNCH, "run", "-n", "2", "--max-restarts", "1", "--", *program], tmp_path)
    try:
        for _ in range(2):
            metrics = tmp_path / "runs" / "run" / "metrics.jsonl"
            metrics.write_text("") if metrics.exists() else None  # so that the next start is waited for
            wait_for_training(job)
            os.kill(job.ranks()[0], signal.SIGKILL)
            time.sleep(1)
        finished = job.finish()
    finally:
        job.kill()
    assert job.remaining() == []
    assert finished.code not in (0, 2, 3, 75)
    assert finished.err.count("restart 1 of 1") == 1


def test_a_mistake_is_not_repeated(tmp_path: Path) -> None:
    job = Job([*LAUNCH, "run", "-n", "2", "--max-restarts", "3", "--", "--batch.size", "0"], tmp_path)
    finished = job.finish()
    assert finished.code == 2
    assert "restart" not in finished.text


def test_a_truncated_newest_checkpoint_is_told_of_and_the_one_before_is_taken(start: Start, tmp_path: Path) -> None:
    assert start(2, *SMALL, "straight", cwd=tmp_path).finish().code == 0
    assert start(2, *SMALL, "run", "--train.steps", "100", cwd=tmp_path).finish().code == 0
    older, newest = find_checkpoints(tmp_path / "runs" / "run" / "checkpoints")
    newest.write_bytes(newest.read_bytes()[:-1000])
    finished = start(2, *SMALL, "run", "--resume", "auto", cwd=tmp_path).finish()
    assert finished.code == 0
    (line,) = [line for line in finished.err.splitlines() if newest.name in line]
    assert line.startswith("warning: ")
    assert f"resumed at step {int(older.stem[5:])}" in finished.out
    straight, resumed = (records(tmp_path / "runs" / name)[-1] for name in ("straight", "run"))
    assert resumed["parameters_sha256"] == straight["parameters_sha256"]
