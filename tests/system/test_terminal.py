"""On a terminal there is a live bar, which leaves errors readable; under a plain mpirun there are lines."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from launch.flavours import Flavour
from tests.system.jobs import ROOT, TRAIN

HIDE_CURSOR, SHOW_CURSOR, ESCAPE = "\x1b[?25l", "\x1b[?25h", "\x1b"


def on_terminal(folder: Path, *arguments: str, program: Sequence[str] = TRAIN, **environment: str) -> tuple[int, str]:
    """Exit code and output of a program whose outputs are a terminal."""
    ours, theirs = pty.openpty()
    surroundings = {**os.environ, "TERM": "xterm", "COLUMNS": "60", "PYTHONPATH": str(ROOT), **environment}
    process = subprocess.Popen(
        [*program, *arguments],
        cwd=folder,
        env=surroundings,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:
        pass  # Linux' way to say that no process has the terminal open any more
    os.close(ours)
    return process.wait(), shown.decode().replace("\r\n", "\n")


@pytest.mark.timeout(120)
def test_an_error_is_one_line_and_the_cursor_is_back(tmp_path: Path) -> None:
    code, shown = on_terminal(tmp_path, "--optimizer.lr", "1e30")
    assert code == 3
    (line,) = (line for line in shown.splitlines() if "error: " in line)
    assert "the gradient of step" in line
    assert line.endswith("--train.on_nonfinite skip")
    assert HIDE_CURSOR in shown
    assert shown.rindex(SHOW_CURSOR) > shown.rindex(HIDE_CURSOR)
    assert shown.index(SHOW_CURSOR) < shown.index("error: ")


@pytest.mark.timeout(120)
def test_a_launched_rank_writes_plain_lines(tmp_path: Path) -> None:
    code, shown = on_terminal(tmp_path, "--train.steps", "2", OMPI_COMM_WORLD_SIZE="1")
    assert code == 0
    assert ESCAPE not in shown
    assert shown.splitlines()[-1].startswith("done: 2 steps, ")


@pytest.mark.timeout(120)
def test_the_launcher_shows_the_live_bar_of_rank_0(flavour: Flavour, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "launch", "run", "-n", "2", "--"]
    code, shown = on_terminal(tmp_path, "--train.epochs", "2", program=launch, COLUMNS="140")
    assert code == 0
    assert "test accuracy" in shown
    assert shown.count("done: 46 steps") == 1
    if flavour.whole_lines:  # it would get no piece of a line before its end
        assert ESCAPE not in shown
        return
    assert HIDE_CURSOR in shown
    assert shown.rindex(SHOW_CURSOR) > shown.rindex(HIDE_CURSOR)


@pytest.mark.timeout(120)
def test_verify_shows_a_live_table(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "launch", "verify", "--ranks", "1,2", "--threads", "1", "--steps", "2"]
    code, shown = on_terminal(tmp_path, program=command, COLUMNS="100")
    assert code == 0
    assert HIDE_CURSOR in shown
    assert shown.rindex(SHOW_CURSOR) > shown.rindex(HIDE_CURSOR)
    assert "the reference" in shown
    assert shown.splitlines()[-1].endswith("the same bits at all 2 points, at every step")
