"""What the model says, as plots: beside the measurements, and far beyond them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from launch.scaling.plots import (
    BLUE,
    COLOURS,
    GREY,
    INK,
    ORANGE,
    PAPER,
    Plot,
    figure_of,
    legend_below,
    plain_numbers,
    rank_axis,
    svg_of,
)
from launch.scaling.predict import BAND, PRESENT, Check, Predictions
from launch.scaling.summary import GOOD, Series
from launch.scaling.tables import percent

NEAR = 0.15
"""Half of the width of the grey band around equality."""


def draw_predictions(predictions: Predictions, series: Sequence[Series]) -> list[Plot]:
    """The plots for which there is something to show."""
    checks = [check for check in predictions.checks if math.isfinite(check.left_out_ms) and check.measured_ms > 0]
    plots = [draw_checks(checks)] if checks else []
    if predictions.rows:
        plots.append(draw_outlook(predictions, series))
    return plots


def draw_checks(checks: Sequence[Check]) -> Plot:
    """Predicted against measured: each number of ranks by a model that was fitted without it."""
    values = [value for check in checks for value in (check.measured_ms, check.left_out_ms) if value > 0]
    ends = [min(values) / 1.5, max(values) * 1.5]
    with figure_of(1) as (figure, (axes,)):
        axes.fill_between(
            ends, [v * (1 - NEAR) for v in ends], [v * (1 + NEAR) for v in ends], color=GREY, alpha=0.2, linewidth=0
        )
        axes.plot(ends, ends, ":", color=GREY, label=f"equal, and within {percent(NEAR)}")
        for index, what in enumerate(dict.fromkeys(check.what for check in checks)):
            members = [check for check in checks if check.what == what]
            x, y = [check.measured_ms for check in members], [check.left_out_ms for check in members]
            axes.plot(x, y, "osD^v<>"[index % 7], color=COLOURS[index % len(COLOURS)], label=what)
            for check, across, up in zip(members, x, y, strict=True):
                axes.annotate(f"{check.ranks}", (across, up), (4, -9), textcoords="offset points", fontsize=7)
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal")
        plain_numbers(axes.xaxis, (1, 2, 5))
        plain_numbers(axes.yaxis, (1, 2, 5))
        axes.set(xlabel="measured, ms", ylabel="predicted without these ranks, ms")
        legend_below(figure, [axes])
        caption = "Predicted against measured: each number of ranks (beside its mark) by a model fitted without it."
        return Plot("predicted-measured", caption, svg_of(figure))


def draw_outlook(predictions: Predictions, series: Sequence[Series]) -> Plot:
    """Efficiency of the best rung over ranks, on each network, with what was measured; for the fewest threads."""
    threads = min(row.threads for row in predictions.rows)
    modes = list(dict.fromkeys(row.mode for row in predictions.rows if row.threads == threads))
    networks = [PRESENT, *(network.name for network in predictions.networks)]
    with figure_of(len(modes)) as (figure, panels):
        for axes, mode in zip(panels, modes, strict=True):
            every: set[int] = set()
            for index, name in enumerate(networks):
                rows = predictions.best(name, mode, threads)
                if not rows:
                    continue
                ranks = [row.ranks for row in rows]
                every |= set(ranks)
                colour = INK if name == PRESENT else [ORANGE, BLUE, *COLOURS[2:]][(index - 1) % len(COLOURS)]
                lows, highs = ([100 * getattr(row.efficiency, end) for row in rows] for end in ("low", "high"))
                axes.fill_between(ranks, lows, highs, color=colour, alpha=0.15, linewidth=0)
                axes.plot(ranks, [100 * row.efficiency.value for row in rows], color=colour, label=name)
            for one in series:
                if (one.mode, one.threads) == (mode, threads):
                    for row in one.rows:
                        face = PAPER if row.is_doubtful else INK
                        height = 100 * row.efficiency.value
                        axes.plot(row.point.ranks, height, "o", color=INK, markerfacecolor=face, zorder=3)
            axes.axhline(100 * GOOD, color=GREY, linewidth=0.8)
            rank_axis(axes, sorted(every))
            axes.set(title=f"{mode} scaling", xlabel="ranks (P)", ylim=(0, None))
        panels[0].set_ylabel("efficiency of the best reducer, %")
        panels[0].plot([], [], "o", color=INK, label="measured (hollow: doubtful)")
        legend_below(figure, panels)
        caption = (
            f"Predicted efficiency of the best reducer, with {percent(BAND)} bands of the repeats; dots: measured."
        )
        return Plot("predicted-efficiency", caption, svg_of(figure))
