"""The plot of `--mode accuracy`: how accuracy rises with each batch, and the learning rate that it was trained with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from launch.scaling.accuracy import read_results, read_wanted
from launch.scaling.accuracy_report import Batch, batches_of
from launch.scaling.plots import COLOURS, GREY, Plot, figure_of, legend_below, svg_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "accuracy"
CAPTION = "Test accuracy after each epoch, a line for each seed, and the learning rate of each batch."


def draw_accuracy(folder: Path) -> list[Plot]:
    """Of a study's trainings; none if the folder holds no such study, or nothing is trained."""
    wanted = read_wanted(folder)
    batches = [] if wanted is None else batches_of(read_results(folder), wanted)
    return [_draw(batches)] if batches else []


def _draw(batches: Sequence[Batch]) -> Plot:
    has_rates = any(result.rates for batch in batches for result in batch.results)
    with figure_of(1 + has_rates, share=False) as (figure, all_axes):
        _accuracies(all_axes[0], batches)
        if has_rates:
            _rates(all_axes[1], batches)
        for axes in all_axes:
            axes.set_xlabel("epochs")
        legend_below(figure, all_axes)
        return Plot(NAME, CAPTION, svg_of(figure))


def _accuracies(axes: Axes, batches: Sequence[Batch]) -> None:
    axes.axhline(100 * batches[0].target, color=GREY, linestyle=":", label="target")
    for number, batch in enumerate(batches):
        for index, result in enumerate(batch.results):
            epochs = range(1, len(result.accuracies) + 1)
            label = f"batch {batch.batch}" if index == 0 else None
            accuracies = [100 * accuracy for accuracy in result.accuracies]
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(epochs, accuracies, color=colour, marker=".", alpha=1 if index == 0 else 0.4, label=label)
    axes.set_title("test accuracy, %")


def _rates(axes: Axes, batches: Sequence[Batch]) -> None:
    for number, batch in enumerate(batches):
        pairs = max((result.rates for result in batch.results), key=len)  # the longest of the same schedule
        if pairs:
            axes.plot(*zip(*pairs, strict=True), color=COLOURS[number % len(COLOURS)])
    axes.set_ylim(bottom=0)
    axes.set_title("learning rate")
