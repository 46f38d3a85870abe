"""When a job is started again, with which arguments, and what is said; a list of exit codes in place of jobs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from launch.restart import FINAL, Change, run_with_restarts
from launch.supervise import Ended

NO_CHANGE = Change()
NAMED = ["--output.name", "run"]


class Jobs:
    """Each start takes the next ending; None: by a signal to the launcher."""

    def __init__(self, endings: Iterable[int | None]) -> None:
        self.endings = list(endings)
        self.started: list[list[str]] = []
        self.said: list[str] = []

    def start(self, arguments: Sequence[str]) -> Ended:
        self.started.append(list(arguments))
        code = self.endings.pop(0)
        return Ended(143, True) if code is None else Ended(code, False)

    def run(self, trainer: Sequence[str], max_restarts: int, change: Change = NO_CHANGE) -> int:
        return run_with_restarts(self.start, trainer, max_restarts, self.said.append, lambda: change).code


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/run/checkpoints")
    folder.mkdir(parents=True)
    return folder


@pytest.mark.usefixtures("checkpoints")
@pytest.mark.parametrize("code", [1, 4, 9, 14, 137, 139, 143, 213, 255])
def test_a_failure_is_followed_by_a_start_from_the_newest_checkpoint(code: int) -> None:
    jobs = Jobs([code, 0])
    assert jobs.run(["--seed", "1", *NAMED], 3) == 0
    assert jobs.started == [["--seed", "1", *NAMED], ["--seed", "1", *NAMED, "--resume", "auto"]]
    (line,) = jobs.said
    assert line.startswith(f"restart 1 of 3: the job failed (exit code {code}")
    assert line.endswith("runs/run goes on from the start")


@pytest.mark.usefixtures("checkpoints")
@pytest.mark.parametrize("code", [0, 2, 3, 75, 130])
def test_these_ends_are_final(code: int) -> None:
    jobs = Jobs([code])
    assert jobs.run(NAMED, 3) == code
    assert jobs.said == []
    assert {0, 2, 3, 75, 130} == FINAL


@pytest.mark.usefixtures("checkpoints")
def test_after_a_signal_to_the_launcher_nothing_is_started() -> None:
    jobs = Jobs([4, None])
    assert jobs.run(NAMED, 3) == 143
    assert len(jobs.started) == 2


@pytest.mark.usefixtures("checkpoints")
def test_the_last_failure_is_the_exit_code() -> None:
    jobs = Jobs([4, 9, 137])
    assert jobs.run(NAMED, 2) == 137
    assert len(jobs.said) == 2
    assert "exit code 9)" in jobs.said[1]


def test_the_line_names_the_newest_checkpoint(checkpoints: Path) -> None:
    for step in (9, 10, 100):
        (checkpoints / f"step-{step:08d}.safetensors").touch()
    jobs = Jobs([137, 0])
    assert jobs.run(NAMED, 1) == 0
    (line,) = jobs.said
    assert "exit code 137, SIGKILL" in line
    assert line.endswith("checkpoint step-00000100")


def test_a_given_checkpoint_is_taken_again_until_the_run_has_one_of_its_own(checkpoints: Path) -> None:
    old = checkpoints / "step-00000030.safetensors"  # of the run before, which went another way
    old.touch()
    os.utime(old, (0, 0))
    given = [*NAMED, "--resume", "other/step-00000010.safetensors"]
    jobs = Jobs([4, 4, 0])
    start = jobs.start

    def start_and_write(arguments: Sequence[str]) -> Ended:
        if len(jobs.started) == 1:
            (checkpoints / "step-00000012.safetensors").touch()
        return start(arguments)

    jobs.start = start_and_write  # type: ignore[method-assign]
    assert jobs.run(given, 5) == 0
    assert jobs.started == [given, given, [*NAMED, "--resume", "auto"]]


def test_an_unnamed_run_keeps_the_name_that_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    jobs = Jobs([4, 0])
    assert jobs.run(["--seed", "1"], 1) == 0
    first, second = jobs.started
    assert first[:3] == ["--seed", "1", "--output.name"]
    assert second == [*first, "--resume", "auto"]


@pytest.mark.usefixtures("checkpoints")
def test_the_line_names_the_hosts_that_are_left_out() -> None:
    jobs = Jobs([4, 0])
    assert jobs.run(NAMED, 3, Change(" without node3", "4 ranks on node1, node2")) == 0
    (line,) = jobs.said
    assert line.startswith("restart 1 of 3 without node3: 4 ranks on node1, node2; ")
    assert line.endswith("goes on from the start")


@pytest.mark.usefixtures("checkpoints")
def test_without_any_host_there_is_no_restart() -> None:
    jobs = Jobs([4])
    assert jobs.run(NAMED, 3, Change(" without node1, node2", "no host answers", is_possible=False)) == 4
    assert jobs.said == ["error: no restart without node1, node2: no host answers"]
