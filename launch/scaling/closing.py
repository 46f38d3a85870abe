"""What a study says at its end: a table of its points, the baseline, doubts, and whether the bits are the same."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from launch.scaling.flags import MEANING, same_bits
from launch.scaling.records import Measurement
from launch.scaling.study import Study
from launch.scaling.summary import Row, Series, summarise

HEADINGS = ("ranks", "batch", "cores", "step ms", "spread", "samples/s", "speed-up", "efficiency", "flags")


def show_table(study: Study, measurements: Sequence[Measurement]) -> list[Series]:
    """Print the table, a part for each mode and number of threads; what it shows."""
    series = summarise(measurements, study.curves())
    for one in series:
        lines = aligned([HEADINGS, *(_cells(row) for row in one.rows)])
        sys.stdout.write("\n".join([f"{study.title}, {one.name}", *lines]) + "\n")
    sys.stdout.flush()
    return series


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of columns as wide as need be, numbers to the right; the last column is of words.

    A terminal folds a line that is too long for it, where a table made for its width would leave columns out.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    lines = []
    for *numbers, words in rows:
        cells = [cell.rjust(width) for cell, width in zip(numbers, widths, strict=True)]
        lines.append("  ".join([*cells, words]).rstrip())
    return lines


def _cells(row: Row) -> list[str]:
    times = row.times
    return [
        *(str(number) for number in (row.point.ranks, row.point.batch, row.cores)),
        f"{times.step_ms:.4g}",
        f"{row.spread:.0%}" if row.repeats > 1 else "-",
        f"{times.samples_per_s:,.0f}",
        f"{row.speed_up.value:.2f}",
        f"{row.efficiency.value:.0%}",
        ", ".join(flag.name for flag in row.flags),
    ]


def words(study: Study, series: Sequence[Series], measurements: Sequence[Measurement]) -> list[str]:
    """What is said below the table."""
    lines = [f"baseline: {study.baseline}"]
    names = {flag.name for one in series for row in one.rows for flag in row.flags}
    lines += [f"{name}: {meaning}" for name, meaning in MEANING.items() if name in names]
    if bits := same_bits(measurements):
        lines.append(bits.text)
    elif not study.exact:
        lines.append("comm.exact is off, or what is configured cannot be exact: points train different bits")
    return lines
