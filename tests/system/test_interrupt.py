"""Ctrl-C ends all ranks within seconds, without a traceback from each."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.system.jobs import LAUNCH, TIMEOUT_S, Job, Start

END_S = 10.0
ENDLESS = ("--train.epochs", "1000000", "--train.evaluate_every", "0", "--checkpoint.every_epochs", "0")
ARGUMENTS = (*ENDLESS, "--output.name", "run")


def wait_for_training(job: Job) -> None:
    """Until the first steps are done."""
    metrics = job.cwd / "runs" / "run" / "metrics.jsonl"
    deadline = time.monotonic() + TIMEOUT_S
    while not (metrics.exists() and '"step"' in metrics.read_text()):
        assert job.process.poll() is None, job.output().text
        assert time.monotonic() < deadline, job.output().text
        time.sleep(0.05)
    assert job.pids()  # else their absence later would say nothing


def check_end(job: Job) -> int:
    finished = job.finish(END_S)
    assert job.remaining() == []
    assert "Traceback" not in finished.text
    assert "KeyboardInterrupt" not in finished.text
    return finished.code


@pytest.mark.parametrize("to_group", [True, False], ids=["terminal", "mpirun only"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_interrupt_of_mpirun(ranks: int, to_group: bool, start: Start, tmp_path: Path) -> None:
    job = start(ranks, *ARGUMENTS, cwd=tmp_path)
    wait_for_training(job)
    if to_group:
        os.killpg(job.process.pid, signal.SIGINT)
    else:
        job.process.send_signal(signal.SIGINT)
    assert check_end(job) != 0


def test_interrupt_of_the_launcher(tmp_path: Path) -> None:
    job = Job([*LAUNCH, "run", "-n", "2", "--", *ARGUMENTS], tmp_path)
    try:
        wait_for_training(job)
        os.killpg(job.process.pid, signal.SIGINT)
        assert check_end(job) == 128 + signal.SIGINT
    finally:
        job.kill()


def test_interrupt_of_a_single_process(start: Start, tmp_path: Path) -> None:
    job = start(1, *ARGUMENTS, cwd=tmp_path)
    wait_for_training(job)
    os.killpg(job.process.pid, signal.SIGINT)
    assert check_end(job) != 0
