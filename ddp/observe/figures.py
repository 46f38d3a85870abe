"""Pictures of runs: how they went, and what a network takes for something else. Needs matplotlib (the extra `plot`).

The colours are those of M. Okabe and K. Ito, which can be told apart with any kind of colour vision.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ddp.observe.history import History, Points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = "#0072B2 #D55E00 #009E73 #CC79A7 #E69F00 #56B4E9".split()  # Okabe and Ito
LINES = ("-", "--", ":")
"""For each round of the colours."""
GREY, INK = "#808080", "#222222"
STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "svg.hashsalt": "ddp",  # the same picture is the same file
    "svg.fonttype": "path",  # the same everywhere, and no font is asked for
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.color": GREY,
    "legend.frameon": False,
    "axes.titlesize": 10.0,
    "savefig.dpi": 150,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}
MARKED: dict[str, Any] = {"marker": "o", "markersize": 4, "markerfacecolor": "white", "linewidth": 1.6}
"""Curves of evaluations."""
PANEL = 4.2, 3.2
"""Inches of a panel of curves."""
MEANS = 60
"""About so many points are left of a noisy curve, each the mean of those around it."""
DECADES = 2.0
"""Orders of magnitude from which on losses are drawn on a logarithmic axis."""
LEGEND_COLUMNS = 5
IMAGE_COLUMNS, IMAGE_INCHES = 8, (1.25, 1.5)


def require_matplotlib() -> None:
    """Refuse to go on without it.

    Raises:
        ValueError: with the fix.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ValueError("plots need matplotlib, which is not installed; pip install 'ddp-sgd[plot]'") from None


def draw_curves(histories: Sequence[History], kind: str) -> bytes:
    """Loss, accuracy (of regressions: error) and throughput of runs over epochs; the content of a file.

    Args:
        histories: of the runs.
        kind: of the file: png, svg or pdf.
    """
    qualities = sorted({history.quality for history in histories} - {None}, key=str)
    panels: list[Callable[[Axes, Sequence[History]], None]] = [
        _draw_loss,
        *(_quality_panel(str(name)) for name in qualities),
        _draw_throughput,
    ]
    with _figure(len(panels) * PANEL[0], PANEL[1] + 0.22 * math.ceil((len(histories) + 2) / LEGEND_COLUMNS)) as figure:
        grid: Any = figure.subplots(1, len(panels), squeeze=False)
        for axes, draw in zip(grid.flat, panels, strict=True):
            draw(axes, histories)
            axes.set_xlabel("epoch")
            axes.set_xlim(left=0)
            axes.locator_params(axis="x", integer=axes.get_xlim()[1] >= 1)
        _legend(figure, histories)
        return _content(figure, kind)


def _styles(histories: Sequence[History]) -> Iterator[tuple[History, dict[str, Any]]]:
    for number, history in enumerate(histories):
        line = LINES[number // len(COLOURS) % len(LINES)]
        yield history, {"color": COLOURS[number % len(COLOURS)], "linestyle": line}


def _draw_loss(axes: Axes, histories: Sequence[History]) -> None:
    values: list[float] = []
    for history, style in _styles(histories):
        training, test = history.training("loss"), history.test("loss")
        _noisy(axes, training, style)
        axes.plot(*test, **MARKED, **style)
        values += [value for value in (*smooth(training)[1], *test[1]) if math.isfinite(value)]
    if values and min(values) > 0 and math.log10(max(values) / min(values)) > DECADES:
        axes.set_yscale("log")
    axes.set_title("loss")


def _quality_panel(name: str) -> Callable[[Axes, Sequence[History]], None]:
    factor, title = (100, "test accuracy, %") if name == "accuracy" else (1, "root mean square error, test")

    def draw(axes: Axes, histories: Sequence[History]) -> None:
        for history, style in _styles(histories):
            epochs, values = history.test(name)
            if not values:
                continue
            axes.plot(epochs, [factor * value for value in values], **MARKED, **style)
        axes.set_title(title)

    return draw


def _draw_throughput(axes: Axes, histories: Sequence[History]) -> None:
    for history, style in _styles(histories):
        _noisy(axes, history.training("samples_per_s"), style)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_title("training, samples/s")


def _noisy(axes: Axes, points: Points, style: dict[str, Any]) -> None:
    """The points pale, and their mean over it."""
    axes.plot(*points, linewidth=0.6, alpha=0.3, **style)
    axes.plot(*smooth(points), linewidth=1.0, **style)


def smooth(points: Points) -> Points:
    """Means of about a MEANS-th of the points each, gaps left out."""
    epochs, values = (np.array(numbers) for numbers in points)
    known = np.isfinite(values)
    epochs, values = epochs[known], values[known]
    width = max(1, len(values) // MEANS)
    groups = range(0, len(values), width)
    return (
        [float(epochs[start : start + width].mean()) for start in groups],
        [float(values[start : start + width].mean()) for start in groups],
    )


def _legend(figure: Figure, histories: Sequence[History]) -> None:
    """One legend below all panels, where it covers nothing."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], linewidth=1.6, **style) for _, style in _styles(histories)]
    handles += [Line2D([], [], color=GREY, linewidth=1.0), Line2D([], [], color=GREY, **MARKED)]
    labels = [*(history.name for history in histories), "training", "test"]
    legend: Any = figure.legend  # whose annotation does not know the places outside
    legend(handles, labels, loc="outside lower center", ncols=min(len(labels), LEGEND_COLUMNS))


def draw_images(images: npt.NDArray[np.float32], captions: Iterable[str], title: str, kind: str) -> bytes:
    """Images in a grid, each with its caption; the content of a file.

    Args:
        images: (N, C, H, W) of values from 0 to 1, N at least 1; of three channels in colour, else their mean in grey.
        captions: of each image, of one or two lines.
        title: of all.
        kind: of the file: png, svg or pdf.
    """
    columns = min(IMAGE_COLUMNS, len(images))
    lines = -(-len(images) // columns)
    with _figure(max(columns * IMAGE_INCHES[0], 5.0), lines * IMAGE_INCHES[1] + 0.4) as figure:
        figure.suptitle(title, fontsize=10)
        every = list(figure.subplots(lines, columns, squeeze=False).flat)
        for axes in every:
            axes.axis("off")
        for axes, image, caption in zip(every, images, captions, strict=False):
            pixels = image.transpose(1, 2, 0) if len(image) == 3 else image.mean(axis=0)
            axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_title(caption, fontsize=7, pad=3)
        return _content(figure, kind)


@contextmanager
def _figure(width: float, height: float) -> Iterator[Figure]:
    """An empty figure in the style of all; matplotlib's own settings stay as they are."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        layout: Any = figure.get_layout_engine()
        layout.set(w_pad=0.08)
        yield figure


def _content(figure: Figure, kind: str) -> bytes:
    """The picture without a date."""
    file = io.BytesIO()
    undated = {"png": None, "svg": "Date", "pdf": "CreationDate"}[kind]
    figure.savefig(file, format=kind, metadata={undated: None} if undated else {})
    return file.getvalue()
