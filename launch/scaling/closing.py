"""What a study says at its end: a table of its points, the baseline, doubts, and whether the bits are the same."""

from __future__ import annotations

from collections.abc import Sequence

from launch.scaling.flags import MEANING, same_bits
from launch.scaling.records import Measurement
from launch.scaling.study import Study
from launch.scaling.summary import Row, Series, summarise
from launch.table import growing_table

HEADINGS = ("ranks", "threads", "batch", "cores", "step ms", "spread", "samples/s", "speed-up", "efficiency", "flags")
WIDTHS = (5, 7, 6, 5, 9, 6, 10, 8, 10, 5)


def show_table(study: Study, measurements: Sequence[Measurement]) -> list[Series]:
    """Print the table, a part for each mode and number of threads; what it shows."""
    series = summarise(measurements, study.curves())
    for one in series:
        print_line(f"{study.title}, {one.name}")
        with growing_table(HEADINGS, WIDTHS) as table:
            for row in one.rows:
                table.add(_cells(row), is_good=not row.flags)
    return series


def print_line(text: str) -> None:
    """A line on standard output."""
    import sys

    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _cells(row: Row) -> list[str]:
    point, times = row.point, row.times
    return [
        *(str(number) for number in (point.ranks, point.threads, point.batch, row.cores)),
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
