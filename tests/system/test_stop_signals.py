"""SIGTERM and SIGUSR1, to mpirun, the launcher, one rank or all: a checkpoint, and exit code 75 from all ranks."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from ddp.checkpoint import find_checkpoints, load_checkpoint
from launch.flavours import MPICH, Flavour
from tests.system.jobs import LAUNCH, TIMEOUT_S, Finished, Job, Start, records
from tests.system.test_interrupt import ARGUMENTS, wait_for_training

GRACE_S = 30.0  # of checkpoint.grace_s
SIGNALS = [signal.SIGTERM, signal.SIGUSR1]
SHORT = ("--train.epochs", "3", "--output.name", "run")
PLANTED = (sys.executable, "-m", "tests.system.planted")


def wait_for_fault(job: Job) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not (job.cwd / "planted").exists():
        assert job.process.poll() is None, job.output().text
        assert time.monotonic() < deadline, job.output().text
        time.sleep(0.05)


def send(job: Job, number: int, target: str) -> None:
    targets = {
        "mpirun": [job.process.pid],
        "first rank": job.ranks()[:1],
        "last rank": job.ranks()[-1:],
        "all ranks": job.ranks(),
        "every process": job.pids(),  # as batch systems do: mpirun, its daemons and the ranks
    }[target]
    assert targets
    for pid in targets:
        os.kill(pid, number)


def saved_step(job: Job) -> int:
    """Of the one checkpoint of the run that was interrupted."""
    run = job.cwd / "runs" / "run"
    (path,) = find_checkpoints(run / "checkpoints")
    step = load_checkpoint(path).step
    assert records(run)[-1]["event"] == "checkpoint"
    assert records(run)[-1]["step"] == step
    return step


def check_interrupted(job: Job) -> Finished:
    finished = job.finish(GRACE_S)
    assert job.remaining() == []
    assert finished.code == 75, finished.text
    assert "Traceback" not in finished.text
    assert finished.err.count("interrupted by") == 1
    return finished


@pytest.mark.parametrize("target", ["mpirun", "first rank", "last rank", "every process"])
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_run_with_a_checkpoint(
    number: signal.Signals, target: str, start: Start, flavour: Flavour, tmp_path: Path
) -> None:
    job = start(3, *ARGUMENTS, cwd=tmp_path)
    wait_for_training(job)
    send(job, number, target)
    if number == signal.SIGTERM and target in ("mpirun", "every process") and flavour is not MPICH:
        # Open MPI's mpirun kills its ranks a quarter of a second later: too early to be sure of anything.
        assert job.finish(GRACE_S).code != 0
        assert job.remaining() == []
        return
    finished = check_interrupted(job)
    assert f"interrupted by {number.name}: checkpoint of step {saved_step(job)} saved" in finished.err
    assert "--output.name run --resume auto" in finished.err


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("target", ["the launcher", "every process"])
def test_the_launcher_passes_the_signal_and_the_exit_code_on(
    number: signal.Signals, target: str, flavour: Flavour, tmp_path: Path
) -> None:
    if target == "every process" and number == signal.SIGTERM and flavour is not MPICH:
        return  # as above
    job = Job([*LAUNCH, "run", "-n", "2", "--max-restarts", "3", "--", *ARGUMENTS], tmp_path)
    try:
        wait_for_training(job)
        for pid in [job.process.pid] if target == "the launcher" else job.pids():
            os.kill(pid, number)
        assert "restart" not in check_interrupted(job).text
        assert saved_step(job) > 0
    finally:
        job.kill()


def test_the_resumed_run_ends_with_the_bits_of_the_uninterrupted_one(start: Start, tmp_path: Path) -> None:
    """Stopped in the middle of an epoch, resumed with another number of threads."""
    arguments = ("--model.hidden", "[48]", "--output.name")
    assert start(2, *arguments, "straight", "--threads", "1", cwd=tmp_path).finish().code == 0
    throttled = (*PLANTED, "throttled")
    job = start(2, *arguments, "run", "--threads", "1", cwd=tmp_path, program=throttled)
    wait_for_training(job)
    send(job, signal.SIGTERM, "last rank")
    check_interrupted(job)
    assert start(2, *arguments, "run", "--threads", "2", "--resume", "auto", cwd=tmp_path).finish().code == 0
    straight, resumed = (records(tmp_path / "runs" / name)[-1] for name in ("straight", "run"))
    assert resumed["steps"] == straight["steps"] == 460
    assert resumed["parameters_sha256"] == straight["parameters_sha256"]


@pytest.mark.parametrize("target", ["first rank", "last rank"])
def test_in_a_slow_step_the_ranks_stop_after_the_same_step(target: str, start: Start, tmp_path: Path) -> None:
    """One rank sleeps in the step, the other waits for it inside MPI."""
    job = start(2, *ARGUMENTS, cwd=tmp_path, program=(*PLANTED, "slow_step"))
    wait_for_fault(job)
    send(job, signal.SIGTERM, target)
    check_interrupted(job)
    assert 4 <= saved_step(job) <= 8  # the signal takes its time to a busy machine


@pytest.mark.parametrize("target", ["last rank", "all ranks"])
def test_a_signal_ends_an_evaluation(target: str, start: Start, tmp_path: Path) -> None:
    job = start(2, *SHORT, "--checkpoint.every_epochs", "0", cwd=tmp_path, program=(*PLANTED, "slow_evaluation"))
    wait_for_fault(job)
    send(job, signal.SIGUSR1, target)
    check_interrupted(job)
    assert saved_step(job) == 23
    assert [record for record in records(tmp_path / "runs" / "run") if record["event"] == "eval"] == []
    assert start(2, *SHORT, "--resume", "auto", cwd=tmp_path).finish().code == 0
    evaluated = [record["step"] for record in records(tmp_path / "runs" / "run") if record["event"] == "eval"]
    assert evaluated == [23, 46, 69]


def test_a_signal_ends_the_start(start: Start, tmp_path: Path) -> None:
    """While the kernels are compiled; nothing is lost, and `--resume auto` starts anew."""
    job = start(2, *SHORT, cwd=tmp_path, program=(*PLANTED, "slow_start"))
    wait_for_fault(job)
    send(job, signal.SIGUSR1, "mpirun")
    assert "before the first step" in check_interrupted(job).err
    finished = start(2, *SHORT, "--resume", "auto", cwd=tmp_path).finish()
    assert finished.code == 0
    assert "starting anew" in finished.out


def test_a_second_signal_ends_a_run_that_hangs(start: Start, tmp_path: Path) -> None:
    job = start(2, *ARGUMENTS, cwd=tmp_path, program=(*PLANTED, "hung_step"))
    wait_for_fault(job)
    send(job, signal.SIGUSR1, "all ranks")
    time.sleep(1.5)  # sooner, it would count as the first
    assert job.process.poll() is None
    send(job, signal.SIGUSR1, "first rank")
    finished = job.finish(GRACE_S)
    assert job.remaining() == []
    assert finished.code not in (0, 75)
    assert "error: a second signal, SIGUSR1: stopped at once" in finished.err


def test_a_run_that_hangs_is_ended_after_its_grace(start: Start, flavour: Flavour, tmp_path: Path) -> None:
    arguments = (*ARGUMENTS, "--checkpoint.grace_s", "1.5")
    job = start(2, *arguments, cwd=tmp_path, program=(*PLANTED, "hung_step"))
    wait_for_fault(job)
    send(job, signal.SIGUSR1, "all ranks")
    finished = job.finish(GRACE_S)
    assert job.remaining() == []
    # MPICH's mpirun gives the code of the abort or that of a rank which it killed.
    assert finished.code in ((4, signal.SIGKILL) if flavour is MPICH else (4,))
    assert finished.err.count("error: checkpoint.grace_s = 1.5 s after SIGUSR1") == 1


def test_a_checkpoint_that_cannot_be_written_is_told_once_and_ends_all_ranks(start: Start, tmp_path: Path) -> None:
    arguments = (*ARGUMENTS, "--checkpoint.every_steps", "5")
    finished = start(3, *arguments, cwd=tmp_path, program=(*PLANTED, "small_disk")).finish()
    assert finished.code == 2, finished.text
    assert "Traceback" not in finished.text
    assert finished.err.count("error: ") == 1
    assert "step-00000005.safetensors: cannot be written (File too large)" in finished.err
    assert list((tmp_path / "runs" / "run" / "checkpoints").iterdir()) == []
