"""Ranks that never come to a collective, and failures that Python itself would wait on: all end, with a reason."""

from __future__ import annotations

import re
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from launch.flavours import MPICH, Flavour
from tests.system.jobs import Finished, Start

END_S = 60.0
"""Only a hang takes longer."""
PLANTED = (sys.executable, "-m", "tests.system.planted")
HOST = socket.gethostname()
STUCK = r"error: step 4: sum of reports \(collective \d+, \d+ bytes\) did not finish within 3 s: "


def run(
    start: Start, fault: str, folder: Path, ranks: int = 3, faulty: int = 1, options: Sequence[str] = ()
) -> Finished:
    job = start(
        ranks,
        fault,
        *("--comm.timeout_s", "3", "--train.steps", "10"),
        *options,
        cwd=folder,
        program=PLANTED,
        DDP_TEST_FAULTY_RANK=str(faulty),
    )
    finished = job.finish(END_S)
    assert job.remaining() == []
    return finished


def errors(finished: Finished) -> list[str]:
    return [line for line in finished.err.splitlines() if line.startswith("error: ")]


def failed(flavour: Flavour) -> tuple[int, ...]:
    """MPICH's mpirun gives the code of the abort or that of a rank which it killed, whichever it hears of first."""
    return (4, signal.SIGKILL) if flavour is MPICH else (4,)


@pytest.mark.parametrize("faulty", [0, 1])
def test_a_rank_that_sleeps_for_ever_is_named(faulty: int, start: Start, flavour: Flavour, tmp_path: Path) -> None:
    finished = run(start, "hung_step", tmp_path, faulty=faulty)
    assert finished.code in failed(flavour)
    (first,) = errors(finished)
    assert re.fullmatch(rf"{STUCK}rank {faulty} on {HOST} did not arrive", first)
    (line,) = re.findall(rf"^  rank {faulty} on .*", finished.err, re.MULTILINE)
    assert re.fullmatch(
        rf"  rank {faulty} on {HOST}: step 4, in no collective, the last was [a-z ]+ \(collective \d+, \d+ bytes\):"
        r" planted\.py:\d+ <lambda> < planted\.py:\d+ step < trainer\.py:\d+ _train",
        line,
    )
    waiting = re.findall(
        rf"^  rank \d on {HOST}: step 4, in sum of reports .* for \d\.\d s: ", finished.err, re.MULTILINE
    )
    assert len(waiting) == 2
    assert f"Stacks of rank {faulty}, most recent call last:\nthread MainThread:\n" in finished.err
    assert finished.err.count("time.sleep(10_000)") == 1


@pytest.mark.parametrize("faulty", [0, 2])
def test_a_rank_that_is_stopped_does_not_answer(faulty: int, start: Start, flavour: Flavour, tmp_path: Path) -> None:
    finished = run(start, "stopped_step", tmp_path, faulty=faulty)
    assert finished.code in failed(flavour)
    (first,) = errors(finished)
    assert re.fullmatch(rf"{STUCK}rank {faulty} on {HOST} did not answer", first)


def test_a_rank_that_keeps_the_interpreter_shows_its_stacks_itself(
    start: Start, flavour: Flavour, tmp_path: Path
) -> None:
    finished = run(start, "locked_step", tmp_path)
    assert finished.code in failed(flavour)
    (first,) = errors(finished)
    assert re.fullmatch(rf"{STUCK}rank 1 on {HOST} did not answer", first)
    own = finished.err[finished.err.index("Timeout (0:00:03)!") :]
    assert re.search(r'planted\.py", line \d+ in <lambda>\n  File ".*planted\.py", line \d+ in step\n', own)


def test_a_rank_that_does_not_start_ends_the_others(start: Start, flavour: Flavour, tmp_path: Path) -> None:
    finished = run(start, "absent", tmp_path)
    assert finished.code in failed(flavour)
    assert re.fullmatch(
        rf"error: before the first step: start of MPI \(collective 1, 0 bytes\) did not finish within 3 s:"
        rf" rank 0 on {HOST} waits, and cannot ask the others",
        errors(finished)[0],
    )


def test_a_rank_that_fails_before_mpi_starts_ends_the_others(start: Start, flavour: Flavour, tmp_path: Path) -> None:
    finished = run(start, "fails_early", tmp_path)
    assert finished.code in failed(flavour)
    assert errors(finished) == [f"error: rank 1 on {HOST} failed before the first step:"]
    assert finished.err.count("RuntimeError: planted") == 1


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("failing_thread", "RuntimeError: planted"),
        ("failure_beside_a_thread", "RuntimeError: planted"),
        ("leaving_step", "SystemExit: 0"),
    ],
)
def test_a_failure_that_python_would_wait_on_ends_all_ranks(
    fault: str, error: str, start: Start, flavour: Flavour, tmp_path: Path
) -> None:
    finished = run(start, fault, tmp_path, options=["--comm.timeout_s", "1000"])
    assert finished.code in failed(flavour)
    assert errors(finished) == [f"error: rank 1 on {HOST} failed at step 4:"]
    assert finished.err.count("Traceback") == 1
    assert finished.err.count(error) == 1


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_thread_that_lives_on_does_not_delay_the_end(ranks: int, start: Start, tmp_path: Path) -> None:
    finished = run(start, "endless_thread", tmp_path, ranks, faulty=ranks - 1)
    assert finished.code == 0, finished.text
    assert "done: 10 steps" in finished.out
    assert sorted(path.name for path in tmp_path.glob("ended_*")) == ["ended_0"][: ranks - 1]


def test_it_does_not_delay_an_end_by_a_mistake_either(start: Start, tmp_path: Path) -> None:
    finished = run(start, "endless_thread", tmp_path, options=["--resume", "gone.safetensors"])
    assert finished.code == 2, finished.text
    assert len(errors(finished)) == 1
    assert sorted(path.name for path in tmp_path.glob("ended_*")) == ["ended_0", "ended_2"]
