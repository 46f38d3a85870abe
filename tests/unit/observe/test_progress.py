"""Progress for people: plain lines for files, a bar for terminals, nothing on the other ranks."""

from __future__ import annotations

import io
import math
import re
import sys

import pytest

from ddp.observe import progress as module
from ddp.observe.progress import PlainProgress, Progress, TerminalProgress, build_progress


class Clock:
    now = 1000.0

    def perf_counter(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_plain_progress_writes_what_it_is_told(clock: Clock) -> None:
    stream = io.StringIO()
    progress = PlainProgress(100, stream)
    progress.message("hello")
    progress.step(1, 1, 2.5, 1234.4)
    progress.close()
    first, second = stream.getvalue().splitlines()
    assert first == "hello"
    assert second.split() == ["epoch", "1", "step", "1/100", "loss", "2.5000", "1234", "samples/s"]


def test_plain_progress_throttles_steps_but_not_messages(clock: Clock) -> None:
    stream = io.StringIO()
    progress = PlainProgress(100, stream)
    for step in range(1, 41):
        progress.step(step, 1, 0.5, 100.0)
        clock.now += PlainProgress.INTERVAL_S / 8
    shown = [line.split()[3] for line in stream.getvalue().splitlines()]
    assert shown == [f"{step}/100" for step in (1, 9, 17, 25, 33)]
    progress.message("a")
    progress.message("b")
    assert stream.getvalue().endswith("a\nb\n")


def test_plain_progress_is_quiet_in_a_long_run(clock: Clock) -> None:
    stream = io.StringIO()
    progress = PlainProgress(100_000, stream)
    for step in range(10, 100_001, 10):
        progress.step(step, 1, 0.5, 100.0)
        clock.now += 10 * PlainProgress.INTERVAL_S
    shown = [int(line.split()[3].partition("/")[0]) for line in stream.getvalue().splitlines()]
    assert len(shown) == PlainProgress.MOST_LINES
    assert shown[:3] == [10, 5010, 10010]


def test_plain_progress_tells_the_time_left_from_the_steps_it_saw(clock: Clock) -> None:
    stream = io.StringIO()
    progress = PlainProgress(110, stream)
    progress.step(50, 1, 0.5, 100.0)  # a resumed run begins here
    clock.now += 30
    progress.step(60, 2, 0.5, 100.0)
    clock.now += 150
    progress.step(110, 2, 0.5, 100.0)
    first, second, last = stream.getvalue().splitlines()
    assert "left" not in first
    assert second.endswith("150 s left")  # 50 steps of 3 s
    assert last.endswith(" 0 s left")


def test_plain_progress_is_flushed_line_by_line(clock: Clock) -> None:
    class Counting(io.StringIO):
        flushed = 0

        def flush(self) -> None:
            self.flushed += 1

    stream = Counting()
    progress = PlainProgress(10, stream)
    progress.message("a")
    progress.step(1, 1, math.nan, 1.0)
    assert stream.flushed == 2
    assert "nan" in stream.getvalue()


def test_only_the_root_shows_anything(capsys: pytest.CaptureFixture[str]) -> None:
    progress = build_progress(is_root=False, total_steps=10, terminal_width=80)
    progress.message("hello")
    progress.step(1, 1, 0.5, 100.0)
    progress.close()
    assert type(progress) is Progress
    assert capsys.readouterr() == ("", "")


def test_a_pipe_gets_plain_lines_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    progress = build_progress(is_root=True, total_steps=10, terminal_width=None)
    assert isinstance(progress, PlainProgress)
    progress.message("hello")
    assert capsys.readouterr().out == "hello\n"


def test_a_terminal_gets_a_bar_and_messages_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    progress = build_progress(is_root=True, total_steps=10, terminal_width=120)
    assert isinstance(progress, TerminalProgress)
    progress.evaluation(1, 0.5, "test accuracy 97.50%")
    progress.step(5, 2, 0.125, 4321.0)
    progress.message("run directory runs/[bold]x[/bold]")
    progress.close()
    shown = terminal.getvalue()
    assert "5/10" in shown
    assert "0.1250" in shown
    assert "epoch   1  test loss 0.5000  test accuracy 97.50%\n" in shown
    assert "0.1250  accuracy 97.50%  4321" in shown
    assert "4321 samples/s" in shown
    assert "run directory runs/[bold]x[/bold]" in shown


def test_eighty_columns_hold_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    progress = TerminalProgress(46900, 80)
    progress.step(10000, 4, 0.2345, 12345.6)
    progress.evaluation(4, 0.25, "test accuracy 91.25%")
    progress.step(20000, 5, 0.1234, 12345.6)
    progress.close()
    text = re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue())  # without colours
    last = [frame for frame in re.split(r"\x1b\[[\d;?]*[A-Zlh]|[\r\n]", text) if frame.strip()][-1]
    assert len(last) <= 80
    assert re.search(r"^epoch 5 .* 20000/46900 loss 0.1234  accuracy 91.25%  12346 samples/s [-\d]+:", last)
