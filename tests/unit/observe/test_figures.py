"""The pictures hold what was logged: every panel, every run, the same file each time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ddp.observe import figures
from ddp.observe.history import History

STEPS = [{"step": n, "loss": 2.0 / n, "samples_per_s": 100.0 + n} for n in range(1, 9)]
EVALUATIONS = [{"step": 4, "loss": 0.6, "accuracy": 0.5}, {"step": 8, "loss": 0.4, "accuracy": 0.75}]
CLASSES = History("classes", 4, STEPS, EVALUATIONS)
POINTS = History("points", 2, STEPS, [{"step": 8, "loss": 1e-4, "rmse": 0.01}])
NEW = History("new", 2, [], [])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are made, before they become files."""
    made: list[Any] = []
    monkeypatch.setattr(figures, "_content", lambda figure, kind: made.append(figure) or b"")
    return made


def lines(axes: Any) -> list[tuple[list[float], list[float]]]:
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]


def test_every_panel_shows_what_was_logged(drawn: list[Any]) -> None:
    figures.draw_curves([CLASSES], "png")
    loss, accuracy, throughput = drawn[0].axes
    epochs = [n / 4 for n in range(1, 9)]
    assert (epochs, [2.0 / n for n in range(1, 9)]) in lines(loss)
    assert ([1.0, 2.0], [0.6, 0.4]) in lines(loss)
    assert lines(accuracy) == [([1.0, 2.0], [50.0, 75.0])]
    assert (epochs, [100.0 + n for n in range(1, 9)]) in lines(throughput)
    assert throughput.get_ylim()[0] == 0
    assert (loss.get_title(), accuracy.get_title()) == ("loss", "test accuracy, %")


def test_regressions_and_classes_have_a_panel_each(drawn: list[Any]) -> None:
    figures.draw_curves([CLASSES, POINTS, NEW], "png")
    titles = [axes.get_title() for axes in drawn[0].axes]
    assert titles == ["loss", "test accuracy, %", "root mean square error, test", "training, samples/s"]
    assert lines(drawn[0].axes[2]) == [([4.0], [0.01])]
    assert drawn[0].axes[0].get_yscale() == "log"  # from 2 to 0.0001
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["classes", "points", "new", "training", "test"]


def test_no_two_of_many_runs_look_alike(drawn: list[Any]) -> None:
    runs = [History(str(number), 4, STEPS, EVALUATIONS) for number in range(10)]
    figures.draw_curves(runs, "png")
    accuracy = drawn[0].axes[1]
    assert len({(line.get_color(), line.get_linestyle()) for line in accuracy.lines}) == 10


def test_smoothing_takes_means_and_leaves_gaps_out() -> None:
    values = [float(n) for n in range(120)]
    assert figures.smooth((values, values)) == (
        [n + 0.5 for n in range(0, 120, 2)],
        [n + 0.5 for n in range(0, 120, 2)],
    )
    assert figures.smooth(([1.0, 2.0, 3.0], [5.0, math.nan, 7.0])) == ([1.0, 3.0], [5.0, 7.0])
    assert figures.smooth(([], [])) == ([], [])


@pytest.mark.parametrize(("kind", "begin"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_same_picture_is_the_same_file(kind: str, begin: bytes) -> None:
    first, second = (figures.draw_curves([CLASSES, NEW], kind) for _ in range(2))
    assert first == second
    assert first.startswith(begin)
    assert figures.draw_curves([POINTS, NEW], kind) != first


def test_images_are_shown_in_order_grey_or_in_colour(drawn: list[Any]) -> None:
    grey = np.random.default_rng(0).random((10, 1, 4, 5), dtype=np.float32)
    colour = np.random.default_rng(1).random((1, 3, 4, 5), dtype=np.float32)
    figures.draw_images(grey, [str(n) for n in range(10)], "ten", "png")
    figures.draw_images(colour, ["a"], "one", "png")
    shown = [axes for axes in drawn[0].axes if axes.images]
    assert [axes.get_title() for axes in shown] == [str(n) for n in range(10)]
    for axes, image in zip(shown, grey, strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), image[0])
    np.testing.assert_array_equal(drawn[1].axes[0].images[0].get_array(), colour[0].transpose(1, 2, 0))


def test_without_matplotlib_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"pip install 'ddp-sgd\[plot\]'"):
        figures.require_matplotlib()
