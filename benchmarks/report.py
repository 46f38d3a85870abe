"""What every benchmark does with its results: a JSON file, and a table between the markers of a Markdown file."""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from launch.errors import HostError, UsageError

RESULTS = Path(__file__).parent / "results"


def add_report_options(parser: argparse.ArgumentParser, name: str) -> None:
    """Let the user say where the results of this name are kept and shown."""
    path = RESULTS / f"{name}.json"
    parser.add_argument("--results", type=Path, default=path, help="file (default: %(default)s)")
    parser.add_argument("--render", action="store_true", help="measure nothing, show the last results")
    parser.add_argument("--write", type=Path, help="Markdown file to put the tables into")


def report(options: argparse.Namespace, name: str, measure: Callable[[], Any], render: Callable[[Any], str]) -> None:
    """Measure and save, unless the last results are to be shown; print them, and write them between the markers.

    Args:
        options: those of `add_report_options`.
        name: of the markers.
        measure: the results, as JSON can hold them.
        render: the results as Markdown.

    Raises:
        SystemExit: with code 2 and one line, if the file has no such markers, before anything is measured, or if the
            ranks cannot be started as wanted; and if a job fails.
    """
    if options.write:
        with _told_in_one_line(OSError, ValueError):
            _find_markers(options.write, name)
    if not options.render:
        with _told_in_one_line(UsageError, HostError, subprocess.CalledProcessError):
            save_results(options.results, measure())
    rendered = render(json.loads(options.results.read_text()))
    print(rendered)
    if options.write:
        write_between_markers(options.write, name, rendered)


@contextlib.contextmanager
def _told_in_one_line(*mistakes: type[Exception]) -> Iterator[None]:
    try:
        yield
    except mistakes as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        raise SystemExit(2) from None


def save_results(path: Path, results: Any) -> None:
    """Write results as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The first quartile, the median and the third quartile; between two values, by a straight line."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, median, third


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median, smallest and largest, for a table."""
    middle, least, most = (f"{f(values):,.{digits}f}" for f in (statistics.median, min, max))
    return f"{middle} ({least} to {most})"


def write_between_markers(path: Path, name: str, text: str) -> None:
    """Replace what stands between the markers `NAME: begin` and `NAME: end` of a Markdown file.

    Raises:
        ValueError: if the file has no such markers.
    """
    content = path.read_text()
    begin, end = _find_markers(path, name)
    path.write_text(f"{content[:begin]}\n{text}\n{content[end:]}")


def _find_markers(path: Path, name: str) -> tuple[int, int]:
    """Where the first marker ends and the second begins."""
    first, second = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    content = path.read_text()
    begin = content.find(first) + len(first)
    end = content.find(second, begin)
    if first not in content or end < 0:
        raise ValueError(f"{path} has no lines {first} and {second}")
    return begin, end
