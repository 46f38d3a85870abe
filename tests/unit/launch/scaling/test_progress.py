"""The time that a study still takes, and what is shown meanwhile."""

from __future__ import annotations

import io
import sys

import pytest

from launch.scaling.progress import COLLECTIVES_S, Forecast, clock, display
from launch.scaling.records import Point
from launch.scaling.study import Run

ONE, TWO, FOUR = Point(1, 1, 64, 8), Point(2, 1, 64, 8), Point(4, 1, 64, 8)
WEAK = Point(2, 1, 128, 16)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (44.4, "44 s"), (89.4, "89 s"), (100, "2 min"), (3600, "60 min"), (5400, "1 h 30 min")],
)
def test_how_long_in_words(seconds: float, words: str) -> None:
    assert clock(seconds) == words


def test_nothing_is_known_before_the_first_run() -> None:
    forecast = Forecast(100, 2)
    assert forecast.run_s(ONE) == forecast.left_s([Run(ONE, 0)], 1, 1) == 0


def test_other_points_follow_from_the_first() -> None:
    forecast = Forecast(100, 2)
    forecast.add(ONE, 40.0, 6.0)  # 2 s to start, 4 s of steps
    assert forecast.run_s(ONE) == 6.0
    assert forecast.run_s(TWO) == pytest.approx(2 + 2)
    assert forecast.run_s(WEAK) == pytest.approx(2 + 4)
    assert forecast.run_s(FOUR) == pytest.approx(2 + 2)  # there are 2 cores
    assert forecast.left_s([Run(TWO, 0), Run(WEAK, 0)], 0, 0) == pytest.approx(4 + 6)
    assert forecast.left_s([], 3, 0) == pytest.approx(3 * 2)


def test_what_was_measured_is_believed() -> None:
    forecast = Forecast(100, 2)
    forecast.add(ONE, 40.0, 30.0, steps=10)  # a trial that has compiled
    assert forecast.run_s(ONE) == pytest.approx(29.6 + 4)
    for wall_s in (5.0, 6.0, 9.0):
        forecast.add(ONE, 40.0, wall_s)
    assert forecast.run_s(ONE) == 6.0
    forecast.add(TWO, 30.0, 8.0)
    assert forecast.run_s(TWO) == 8.0
    assert forecast.left_s([], 0, 2) == 2 * COLLECTIVES_S
    forecast.add_extra(7.0)
    assert forecast.left_s([], 0, 2) == 14


def test_lines_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with display(0, 2) as show:
        show.begin("the first", 70)
        show.done("run 1 of 2", 30)
        show.say("error: run 2 failed")
        show.done("run 2 of 2", 0)
    assert capfd.readouterr() == ("run 1 of 2; 30 s left\nrun 2 of 2\n", "error: run 2 failed\n")


def test_a_live_display_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with display(1, 4) as show:
        show.begin("2 ranks x 1 thread, batch 64", 200)
        show.done("run 2 of 4: [bold] 3 ms", 100)
        show.say("error: run 3 failed")
        show.begin("1 rank x 1 thread, batch 64", 50)
    text = terminal.getvalue()
    for shown in ("1 rank x 1 thread, batch 64", "2/4", "s left", "run 2 of 4: [bold] 3 ms", "error: run 3 failed"):
        assert shown in text
