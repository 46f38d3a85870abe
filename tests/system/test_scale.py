"""`python -m launch scale` on real ranks: a study that is interrupted goes on, and every run is there once."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from launch.scaling.records import Measurement, read_measurements
from launch.scaling.study import read_study
from tests.system.jobs import LAUNCH, TIMEOUT_S, Finished, Job

POINTS = ["scale", "--ranks", "1,2", "--threads", "1", "--repeats", "2", "--mode", "both", "--steps", "20"]
SMALL = ["--model.hidden", "[16]", "--batch.size", "16"]
TOGETHER_S = 280.0


def scale(folder: Path, arguments: Sequence[str]) -> Finished:
    job = Job([*LAUNCH, *arguments], folder)
    finished = job.finish(timeout_s=TOGETHER_S)
    assert job.remaining() == []
    return finished


def measured(folder: Path) -> list[Measurement]:
    return read_measurements(folder / "points.jsonl")


def wait_for_points(job: Job, folder: Path, number: int) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not ((folder / "study.json").exists() and len(measured(folder)) >= number):
        assert job.process.poll() is None, job.output().text
        assert time.monotonic() < deadline, job.output().text
        time.sleep(0.05)


def interrupt(folder: Path, number: int, points: int) -> Finished:
    """Begin a study, and send a signal when so many points are there and another run is under way."""
    job = Job([*LAUNCH, *POINTS, "--output", "study", "--", *SMALL], folder)
    wait_for_points(job, folder / "study", points)
    time.sleep(1)
    os.killpg(job.process.pid, number)
    finished = job.finish(30)
    assert job.remaining() == []
    assert "Traceback" not in finished.text
    return finished


@pytest.mark.timeout(600)
def test_an_interrupted_study_goes_on_and_has_each_run_once(tmp_path: Path) -> None:
    study = tmp_path / "study"
    finished = interrupt(tmp_path, signal.SIGINT, 2)
    assert finished.code == 130, finished.text
    begun = measured(study)
    assert 2 <= len(begun) < 6
    assert {path.name for path in (study / "runs").glob("ranks-*")} == {one.run for one in begun}
    assert f"interrupted: {len(begun)} of 6 runs are measured and kept" in finished.err

    command = shlex.split(finished.err.splitlines()[-1])
    finished = scale(tmp_path, [*command[3:]])
    assert finished.code == 0, finished.text
    assert f"it goes on: {len(begun)} of 6 runs are there" in finished.out
    runs = measured(study)
    assert runs[: len(begun)] == begun
    assert Counter(run.run for run in runs) == Counter({run.name: 1 for run in read_study(study).runs()})
    check_measurements(runs)
    assert "trained the same bits" in finished.out
    assert (study / "report.html").stat().st_size > 0
    assert [json.loads(line)["ranks"] for line in (study / "collectives.jsonl").read_text().splitlines()] == [2]


def test_sigterm_in_the_first_run_keeps_nothing_and_says_how_to_go_on(tmp_path: Path) -> None:
    finished = interrupt(tmp_path, signal.SIGTERM, 0)
    assert finished.code == 143, finished.text
    assert "interrupted: 0 of 6 runs are measured and kept; to go on:\n" in finished.err
    assert " --output study -- " in finished.err
    assert list((tmp_path / "study" / "runs").glob("*/metrics.jsonl")) == []


def check_measurements(runs: Sequence[Measurement]) -> None:
    strong = [run for run in runs if run.point.batch == 16]
    assert len({run.parameters_sha256 for run in strong}) == 1
    assert {run.point.ranks for run in strong} == {1, 2}
    for run in runs:
        assert run.steps == 15  # of 20, without the first record
        assert len(run.records_ms) == 3
        assert run.step_ms > 0
        assert sum(run.phases_ms.values()) == pytest.approx(run.step_ms)
        assert 0 <= run.uncovered < 1  # a step of this network takes no longer than what is around it
        assert len(run.hosts) == run.point.ranks
        assert 1 <= run.cores <= (os.cpu_count() or 1)
        assert run.exact
        facts = run.provenance
        assert {"versions", "cpu", "mpi_library", "affinity", "git_revision", "command", "plan", "end"} <= facts.keys()
        assert facts["command"].startswith(shlex.join([sys.executable, "-m", "launch", "run", "-n"]))
        assert sum(facts["tensor_bytes"]) == 4 * run.parameters


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--batch.sise", "3"], "unknown field --batch.sise: did you mean batch.size?"),
        (["--data.name", "mnist", "--data.root", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_in_the_trainers_arguments_end_it_at_once(arguments: list[str], named: str, tmp_path: Path) -> None:
    points = ["scale", "--ranks", "2", "--repeats", "2", "--steps", "20", "--output", "study"]
    finished = scale(tmp_path, [*points, "--", *arguments])
    assert finished.code == 2, finished.text
    assert finished.err.startswith("error: ")
    assert finished.err.count("\n") == 1
    assert named in finished.err


def test_a_run_that_hangs_is_ended_and_said(tmp_path: Path) -> None:
    hangs = ["--ranks", "1", "--repeats", "1", "--mode", "strong", "--steps", "1000000", "--timeout", "8"]
    finished = scale(tmp_path, ["scale", *hangs, "--output", "study", "--", *SMALL])
    assert finished.code == 1, finished.text
    assert "error: run ranks-1-threads-1-batch-16-repeat-0 failed: exit code" in finished.err
    assert "ended after --timeout 8 s" in finished.err
    assert "nothing is measured" in finished.err
