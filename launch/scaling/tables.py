"""Tables in Markdown and CSV: the same rows, with a mark on every doubtful point."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from string import ascii_lowercase

from launch.scaling.factors import FACTORS
from launch.scaling.records import PHASES
from launch.scaling.summary import CONFIDENCE, Interval, Row, Series

Cells = Sequence[str]


def markdown_table(headings: Cells, rows: Sequence[Cells], *, left: Sequence[int] = ()) -> str:
    """A table, numbers to the right.

    Args:
        headings: of the columns.
        rows: as many cells each.
        left: the columns of words.
    """
    marks = [":--" if column in left else "--:" for column in range(len(headings))]
    return "\n".join(_line(cells) for cells in [headings, marks, *rows])


def _line(cells: Cells) -> str:
    return f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in cells)} |"


def percent(value: float) -> str:
    """A part of 1: `93%`, and small ones `1.5%`."""
    return f"{100 * value:.{1 if 0.0005 <= abs(value) < 0.0995 else 0}f}%"


def milliseconds(value: float) -> str:
    """Three digits, but no powers of ten: `0.012`, `1.23`, `12.3`, `123`, `1234`."""
    size = abs(value)
    return f"{value:.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3}f}" if value else "0"


def between(interval: Interval, form: str = ".2f", scale: float = 1.0, unit: str = "") -> str:
    """A value and its interval: `1.83 (1.79 to 1.86)`."""
    text = f"{interval.value * scale:{form}}{unit}"
    if interval.low is None or interval.high is None:
        return text
    return f"{text} ({interval.low * scale:{form}} to {interval.high * scale:{form}})"


def efficiency(row: Row) -> str:
    """In percent, with its interval."""
    return between(row.efficiency, ".0f", 100, "%")


class Marks:
    """A letter for each kind of flag, the same in all tables of a report."""

    def __init__(self, series: Sequence[Series]) -> None:
        """Give out the letters."""
        names = dict.fromkeys(flag.name for one in series for row in one.rows for flag in row.flags)
        self._letters = dict(zip(names, ascii_lowercase, strict=False))

    def of(self, row: Row) -> str:
        """Such as ` (a, b)`, empty if nothing is wrong."""
        letters = sorted({self._letters.get(flag.name, "z") for flag in row.flags})
        return f" ({', '.join(letters)})" if letters else ""

    def footnotes(self, rows: Sequence[Row]) -> str:
        """What the marks mean in a table of these rows: a list, empty if there are none."""
        lines = []
        for name, letter in self._letters.items():
            texts: dict[str, list[int]] = {}
            for row in rows:
                for flag in row.flags:
                    if flag.name == name:
                        texts.setdefault(flag.text.rstrip("."), []).append(row.point.ranks)
            told = "; ".join(f"P = {', '.join(map(str, ranks))}: {text}" for text, ranks in texts.items())
            lines += [f"- ({letter}) doubtful, {name}: {told}."] if told else []
        return "\n".join(lines)

    def table(self, headings: Cells, rows: Sequence[tuple[Row, Cells]], *, left: Sequence[int] = ()) -> str:
        """A table whose first column is the ranks, marked, with the footnotes below."""
        lines = [[f"{row.point.ranks}{self.of(row)}", *cells] for row, cells in rows]
        table = markdown_table(["ranks", *headings], lines, left=left)
        footnotes = self.footnotes([row for row, _ in rows])
        return f"{table}\n\n{footnotes}" if footnotes else table


def points_table(series: Series, marks: Marks) -> str:
    """How fast each point is."""
    headings = [
        "hosts",
        "cores",
        "batch",
        "runs",
        "step, ms",
        "spread",
        "samples/s",
        f"speed-up ({percent(CONFIDENCE)})",
        f"efficiency ({percent(CONFIDENCE)})",
        "reducer",
    ]
    rows = []
    for row in series.rows:
        numbers = len(set(row.hosts)), row.cores, row.point.batch, row.repeats
        cells = [
            *map(str, numbers),
            milliseconds(row.times.step_ms),
            percent(row.spread),
            f"{row.times.samples_per_s:,.0f}",
            "1" if row.is_baseline else between(row.speed_up),
            "baseline" if row.is_baseline else efficiency(row),
            ", ".join(row.reducers),
        ]
        rows.append((row, cells))
    return marks.table(headings, rows, left=[10])


def factors_table(series: Series, marks: Marks) -> str:
    """What the efficiency is the product of; nothing for a baseline alone."""
    rows = []
    for row in series.others:
        factors = row.factors
        cells = [percent(factors.efficiency), *(f"{value:.3f}" for value in factors.by_name.values())]
        rows.append((row, [*cells, factors.worst]))
    headings = ["efficiency", *(f"{'=' if name == FACTORS[0] else 'x'} {name}" for name in FACTORS), "most is lost by"]
    return marks.table(headings, rows, left=[6])


def phases_table(series: Series, marks: Marks) -> str:
    """Where the time of a step goes."""
    rows = []
    for row in series.rows:
        times = [milliseconds(row.times.phases_ms[name]) for name in PHASES]
        rows.append((row, [milliseconds(row.times.step_ms), *times, percent(row.uncovered)]))
    return marks.table(["step, ms", *(f"{name}, ms" for name in PHASES), "not covered by timers"], rows)


COLUMNS = "mode ranks threads batch shards hosts cores repeats step_ms spread samples_per_s".split()


def points_csv(series: Sequence[Series]) -> str:
    """A line for each point of each series, for spreadsheets."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    intervals = [f"{name}{part}" for name in ("speed_up", "efficiency") for part in ("", "_low", "_high")]
    phases, factors = [f"{name}_ms" for name in PHASES], [f"factor_{name}" for name in FACTORS]
    writer.writerow([*COLUMNS, *intervals, *factors, *phases, "reducer", "flags"])
    for one in series:
        for row in one.rows:
            point = row.point
            ends = [end for i in (row.speed_up, row.efficiency) for end in (i.value, i.low, i.high)]
            writer.writerow(
                [one.mode, point.ranks, point.threads, point.batch, point.shards, len(set(row.hosts)), row.cores]
                + [row.repeats, row.times.step_ms, row.spread, row.times.samples_per_s]
                + ["" if end is None else end for end in ends]
                + [*row.factors.by_name.values(), *(row.times.phases_ms[name] for name in PHASES)]
                + [" ".join(row.reducers), " ".join(flag.name for flag in row.flags)]
            )
    return file.getvalue()
