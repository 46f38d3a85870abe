"""What every benchmark does with its results: a JSON file, and a table between the markers of a Markdown file."""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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
    """
    if not options.render:
        save_results(options.results, measure())
    rendered = render(json.loads(options.results.read_text()))
    print(rendered)
    if options.write:
        write_between_markers(options.write, name, rendered)


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
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    content = path.read_text()
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(content):
        raise ValueError(f"{path} has no lines {begin} and {end}")
    path.write_text(pattern.sub(lambda _: f"{begin}\n{text}\n{end}", content))
