r"""The README's table of scaling and the example of docs/scaling.md, both from the folder of a finished study.

    python -m launch scale --ranks 1,2 --threads 1 --mode both --repeats 5 --output studies/example -- \
        --config configs/mnist_cnn.toml
    python -m benchmarks.scaling studies/example

The table and the example stand between markers, and are never edited by hand.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from benchmarks.report import write_between_markers
from launch.errors import UsageError
from launch.scaling import plots
from launch.scaling.report import Findings, find_out, headline, machine_facts, render_markdown
from launch.scaling.tables import Marks, between, efficiency, markdown_table, milliseconds
from launch.wording import capitalised

README, DOCS, PICTURES = Path("README.md"), Path("docs/scaling.md"), Path("docs/scaling")
LEFT_OUT = ("How to read this", "To repeat it")
"""Sections of a report that the page itself is about, or that hold this machine's paths."""
HEADINGS = [
    "scaling",
    "ranks",
    "batch",
    "step, ms",
    "samples/s",
    "speed-up (95%)",
    "efficiency (95%)",
    "most is lost by",
]


def table(findings: Findings) -> str:
    """All points in one table, what makes some of them doubtful, and whether all trained the same bits."""
    marks, rows = Marks(findings.series), []
    for series in findings.series:
        for row in series.rows:
            cells = [
                series.mode,
                f"{row.point.ranks}{marks.of(row)}",
                str(row.point.batch),
                milliseconds(row.times.step_ms),
                f"{row.times.samples_per_s:,.0f}",
                "1" if row.is_baseline else between(row.speed_up),
                "baseline" if row.is_baseline else efficiency(row),
                "" if row.is_baseline else row.factors.worst,
            ]
            rows.append(cells)
    footnotes = marks.footnotes([row for series in findings.series for row in series.rows])
    bits = f"{capitalised(findings.bits.text)}." if findings.bits else ""
    machine = machine_facts(findings.measurements[0])
    where = f"{headline(findings)} On {machine['processor']}, {machine['MPI']}. {bits}"
    return "\n\n".join(filter(None, [markdown_table(HEADINGS, rows, left=[0, 7]), footnotes, where]))


def example(findings: Findings) -> str:
    """The report as a part of a page: without its contents, its headings two levels lower, its plots beside."""
    first, *sections = re.split(r"^## ", render_markdown(findings), flags=re.MULTILINE)
    title, *paragraphs = first.strip().split("\n\n")
    opening = [title, *(each for each in paragraphs if not each.startswith("["))]
    kept = [f"## {each.strip()}" for each in sections if not each.startswith(LEFT_OUT)]
    text = "\n\n".join([*opening, *kept]).replace("](plots/", f"]({PICTURES.name}/")
    return re.sub(r"^#", "###", text, flags=re.MULTILINE)


def main() -> None:
    """Write both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of a study")
    try:
        findings = find_out(parser.parse_args().study)
        write_between_markers(README, "scaling", table(findings))
        write_between_markers(DOCS, "example", example(findings))
    except (UsageError, ValueError, OSError) as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        raise SystemExit(2) from None
    plots.save(findings.plots, PICTURES)


if __name__ == "__main__":
    main()
