"""The plots of a report, as SVG files; needs matplotlib (the extra `plot`).

Doubtful points are drawn hollow, lines to them dashed and their bars hatched, in every plot. The colours are those of
M. Okabe and K. Ito, which can be told apart with any kind of colour vision.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.scaling.factors import FACTORS
from launch.scaling.records import PHASES
from launch.scaling.summary import CONFIDENCE, GOOD, Interval, Row, Series
from launch.scaling.tables import Marks, percent
from launch.wording import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW = (
    "#0072B2 #E69F00 #009E73 #D55E00 #CC79A7 #56B4E9 #F0E442".split()  # Okabe and Ito
)
COLOURS = (BLUE, RED, GREEN, PURPLE, SKY, ORANGE)
GREY = "#808080"
INK, PAPER = "#222222", "#fffffe"
"""Lines and letters, and what they are drawn on: a page may replace both."""
PHASE_COLOURS = dict(zip(PHASES, (YELLOW, SKY, BLUE, GREEN, RED, ORANGE, GREY), strict=True))
FACTOR_COLOURS = dict(zip(FACTORS, (RED, ORANGE, GREEN, BLUE), strict=True))
MARKERS = {"strong": "o", "weak": "s"}
HATCH = "////"
DOUBTFUL = "doubtful (see the table)"
STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "svg.hashsalt": "ddp",  # the same plot is the same file
    "svg.fonttype": "path",  # the same everywhere, and no font is asked for
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.color": GREY,
    "hatch.linewidth": 0.8,
    "hatch.color": PAPER,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "axes.titlesize": 10.0,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}
WIDTH, HEIGHT = 3.9, 3.1
"""Inches of a panel."""


@dataclass(frozen=True)
class Plot:
    """A picture of the report."""

    name: str
    """Of its file, without a suffix."""
    caption: str
    """What it shows, in a sentence: for those who do not see it, too."""
    svg: str


def is_available() -> bool:
    """Whether there is a matplotlib."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def draw_series(series: Sequence[Series]) -> list[Plot]:
    """All plots of what was measured; of a baseline alone its step only."""
    marks = Marks(series)
    compared = [one for one in series if one.others]
    plots = [draw_step_time(series, marks)] if series else []
    if compared:
        plots = [draw_speed_up(compared), draw_efficiency(compared), *plots, draw_factors(compared, marks)]
        plots.append(draw_throughput(compared))
    return plots


def draw_speed_up(series: Sequence[Series]) -> Plot:
    """Speed-up over ranks, a panel for each mode."""

    def panel(axes: Axes, members: Sequence[Series]) -> None:
        _ideal_line(axes, members, lambda row: row.point.ranks / members[0].baseline.point.ranks)
        for colour, one in _coloured(members, series):
            _line(axes, one.rows, [row.speed_up for row in one.rows], colour, one)
        axes.set_yscale("log", base=2)
        plain_numbers(axes.yaxis)

    with _figure(_by_mode(series), panel, "speed-up over the baseline") as figure:
        return _plot(
            figure, "speed-up", f"Speed-up over the baseline, with {percent(CONFIDENCE)} intervals; grey: ideal."
        )


def draw_efficiency(series: Sequence[Series]) -> Plot:
    """Efficiency over ranks, a panel for each mode."""

    def panel(axes: Axes, members: Sequence[Series]) -> None:
        axes.axhline(100, color=GREY, linestyle=":", label="ideal")
        axes.axhline(100 * GOOD, color=GREY, linewidth=0.8, label=f"{percent(GOOD)}")
        for colour, one in _coloured(members, series):
            _line(axes, one.rows, [row.efficiency.times(100) for row in one.rows], colour, one)
        axes.set_ylim(0, max(110, 105 * max(_top(row.efficiency) for one in series for row in one.rows)))

    with _figure(_by_mode(series), panel, "efficiency, %") as figure:
        return _plot(figure, "efficiency", f"Efficiency, with {percent(CONFIDENCE)} intervals; ideal is 100 %.")


def draw_throughput(series: Sequence[Series]) -> Plot:
    """Samples a second over ranks: all in one."""

    def panel(axes: Axes, members: Sequence[Series]) -> None:
        for colour, one in _coloured(members, series):
            values = [Interval(row.times.samples_per_s) for row in one.rows]
            _line(axes, one.rows, values, colour, one, f"{one.mode}, {count(one.threads, 'thread')} a rank")
        axes.set_ylim(bottom=0)

    with _figure([("throughput", list(series))], panel, "samples/s", columns=1) as figure:
        return _plot(figure, "throughput", "Samples a second of all ranks together.")


def draw_step_time(series: Sequence[Series], marks: Marks) -> Plot:
    """The phases of a step as stacked bars, a panel for each series."""

    def panel(axes: Axes, members: Sequence[Series]) -> None:
        rows = members[0].rows
        bottom = [0.0] * len(rows)
        for phase in PHASES:
            heights = [row.times.phases_ms[phase] for row in rows]
            bars = axes.bar(range(len(rows)), heights, 0.7, bottom, label=phase, color=PHASE_COLOURS[phase])
            _hatch(bars, rows)
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
        _name_bars(axes, rows, marks)

    with _figure(_each(series), panel, "step, ms", bars=True) as figure:
        return _plot(figure, "step-time", "Where the time of a step goes, means over the ranks; hatched: doubtful.")


def draw_factors(series: Sequence[Series], marks: Marks) -> Plot:
    """The factors side by side, a panel for each series."""

    def panel(axes: Axes, members: Sequence[Series]) -> None:
        rows = members[0].others
        width = 0.8 / len(FACTORS)
        for index, name in enumerate(FACTORS):
            places = [place + (index - (len(FACTORS) - 1) / 2) * width for place in range(len(rows))]
            heights = [row.factors.by_name[name] for row in rows]
            bars = axes.bar(places, heights, 0.9 * width, label=name, color=FACTOR_COLOURS[name])
            _hatch(bars, rows)
        for place, row in enumerate(rows):
            axes.hlines(
                row.factors.efficiency, place - 0.45, place + 0.45, color=INK, label="" if place else "their product"
            )
        axes.axhline(1, color=GREY, linestyle=":")
        _name_bars(axes, rows, marks)

    with _figure(_each(series), panel, "factor of the efficiency", bars=True) as figure:
        return _plot(
            figure, "factors", "What the efficiency is the product of: the shortest bar costs most; hatched: doubtful."
        )


Panels = Sequence[tuple[str, Sequence[Series]]]


def _by_mode(series: Sequence[Series]) -> Panels:
    modes = dict.fromkeys(one.mode for one in series)
    return [(f"{mode} scaling", [one for one in series if one.mode == mode]) for mode in modes]


def _each(series: Sequence[Series]) -> Panels:
    return [(one.name, [one]) for one in series]


@contextmanager
def _figure(
    panels: Panels,
    draw: Callable[[Axes, Sequence[Series]], None],
    label: str,
    *,
    columns: int = 2,
    bars: bool = False,
) -> Iterator[Figure]:
    """A figure with a panel for each group, in the style of all; matplotlib's own settings stay as they are."""
    with figure_of(len(panels), columns, share=not bars) as (figure, all_axes):
        for number, (axes, (title, members)) in enumerate(zip(all_axes, panels, strict=True)):
            draw(axes, members)
            axes.set_title(title)
            if number % columns == 0 or bars:
                axes.set_ylabel(label)
            axes.set_xlabel("ranks (P)")
            if not bars:
                rank_axis(axes, sorted({row.point.ranks for one in members for row in one.rows}))
                if any(row.is_doubtful for one in members for row in one.rows):
                    axes.plot([], [], marker="o", color=GREY, markerfacecolor=PAPER, linestyle="--", label=DOUBTFUL)
        legend_below(figure, all_axes)
        yield figure


def legend_below(figure: Figure, all_axes: Sequence[Axes]) -> None:
    """One legend for all panels, where it covers nothing."""
    entries: dict[str, Any] = {}
    for axes in all_axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    columns = min(len(entries), 7 if max(map(len, entries)) < 14 else 3)
    legend: Any = figure.legend  # whose annotation does not know the places outside
    legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns, handlelength=1.6)


@contextmanager
def figure_of(panels: int, columns: int = 2, *, share: bool = True) -> Iterator[tuple[Figure, list[Axes]]]:
    """An empty figure in the style of all, with so many panels."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        columns = min(columns, panels)
        lines = -(-panels // columns)
        size = max(columns * WIDTH, 5.2), lines * HEIGHT
        figure = Figure(figsize=size, layout="constrained")
        grid: Any = figure.subplots(lines, columns, sharey="row" if share else "none", squeeze=False)
        every = list(grid.flat)
        for axes in every[panels:]:
            axes.remove()
        yield figure, every[:panels]


def _plot(figure: Figure, name: str, caption: str) -> Plot:
    return Plot(name, caption, svg_of(figure))


def svg_of(figure: Figure) -> str:
    """The picture as text, without a date."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def save(plots: Sequence[Plot], folder: Path) -> list[Path]:
    """Write each to its file."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{plot.name}.svg" for plot in plots]
    for path, plot in zip(paths, plots, strict=True):
        path.write_text(plot.svg, encoding="utf-8")
    return paths


def _coloured(members: Sequence[Series], series: Sequence[Series]) -> list[tuple[str, Series]]:
    """A colour for each number of threads, the same in all panels."""
    threads = sorted({one.threads for one in series})
    return [(COLOURS[threads.index(one.threads) % len(COLOURS)], one) for one in members]


def _line(
    axes: Axes, rows: Sequence[Row], values: Sequence[Interval], colour: str, series: Series, label: str = ""
) -> None:
    """Points with their intervals, joined; doubtful ones hollow, and what leads to them dashed."""
    ranks = [row.point.ranks for row in rows]
    for index in range(1, len(rows)):
        doubtful = rows[index - 1].is_doubtful or rows[index].is_doubtful
        ends = slice(index - 1, index + 1)
        heights = [value.value for value in values[ends]]
        axes.plot(ranks[ends], heights, "--" if doubtful else "-", color=colour, linewidth=1.4)
    for rank, row, value in zip(ranks, rows, values, strict=True):
        axes.errorbar(
            rank,
            value.value,
            _error(value),
            fmt=MARKERS.get(series.mode, "o"),
            color=colour,
            markerfacecolor=PAPER if row.is_doubtful else colour,
            capsize=3,
            zorder=3,
        )
    name = label or f"{count(series.threads, 'thread')} a rank"
    axes.plot([], [], marker=MARKERS.get(series.mode, "o"), color=colour, label=name)


def _error(value: Interval) -> list[list[float]] | None:
    if value.low is None or value.high is None:
        return None
    # A median may lie at the end of its own interval, and rounding a little outside.
    return [[max(value.value - value.low, 0.0)], [max(value.high - value.value, 0.0)]]


def _top(value: Interval) -> float:
    return value.value if value.high is None else max(value.value, value.high)


def _ideal_line(axes: Axes, members: Sequence[Series], value: Callable[[Row], float]) -> None:
    points = sorted({(row.point.ranks, value(row)) for one in members for row in one.rows})
    axes.plot(*zip(*points, strict=True), ":", color=GREY, label="ideal")


def rank_axis(axes: Axes, ranks: Sequence[int]) -> None:
    """Numbers of ranks in powers of two, each with its own mark, as long as there is room."""
    axes.set_xscale("log", base=2)
    shown = list(ranks)
    while len(shown) > 9:
        shown = shown[::2]
    axes.set_xticks(shown, [str(rank) for rank in shown])
    axes.minorticks_off()
    if len(ranks) > 1:
        room = (ranks[-1] / ranks[0]) ** 0.08
        axes.set_xlim(ranks[0] / room, ranks[-1] * room)


def plain_numbers(axis: Any, subs: Sequence[float] = ()) -> None:
    """Numbers of a logarithmic axis as they are, not as powers; `subs` are the marks in each decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if subs:
        axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _hatch(bars: Any, rows: Sequence[Row]) -> None:
    for bar, row in zip(bars, rows, strict=True):
        if row.is_doubtful:
            bar.set_hatch(HATCH)


def _name_bars(axes: Axes, rows: Sequence[Row], marks: Marks) -> None:
    """Ranks with their marks below the bars."""
    axes.set_xticks(range(len(rows)), [f"{row.point.ranks}{marks.of(row)}" for row in rows])
    axes.set_xlim(-0.6, max(len(rows), 3) - 0.4)
    axes.grid(axis="x", visible=False)
    assert all(math.isfinite(row.times.step_ms) for row in rows)
