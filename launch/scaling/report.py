"""The report of a study: one Markdown text, from which the HTML page is made; CSV, JSON and plots beside."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launch.errors import UsageError
from launch.scaling import plots as drawing
from launch.scaling.accuracy_plots import draw_accuracy
from launch.scaling.accuracy_report import accuracy_csv, accuracy_json, accuracy_section, machine_runs
from launch.scaling.faults import Fault, find_faults
from launch.scaling.flags import Bits, same_bits
from launch.scaling.model_section import model_section
from launch.scaling.networks import NETWORKS, read_networks
from launch.scaling.page import anchor, render_page
from launch.scaling.plots import Plot
from launch.scaling.predict import Predictions, predict_study
from launch.scaling.prediction_plots import draw_predictions
from launch.scaling.records import Measurement, read_measurements
from launch.scaling.simulate import simulation_section
from launch.scaling.study import ACCURACY, Study, read_study
from launch.scaling.summary import CONFIDENCE, Row, Series, summarise
from launch.scaling.tables import Marks, factors_table, markdown_table, phases_table, points_csv, points_table
from launch.scaling.words import baseline_rule, summary
from launch.wording import capitalised, count

POINTS = "points.jsonl"
FILES = ("report.html", "report.md", "report.json", "points.csv")
NO_PLOTS = "There are no plots, since matplotlib is not installed: `pip install 'ddp-sgd[plot]'`, then `{command}`."

READING = """\
- **Speed-up**: samples a second, over the baseline's. **Efficiency**: speed-up over how many times more ranks; 100 % is
  ideal. In parentheses: 95 % intervals, by drawing the repeats of the point and of the baseline anew (bootstrap).
- **Strong** scaling keeps the global batch, so a rank's part shrinks. **Weak** scaling keeps the batch of a rank.
- **Factors** multiply to the efficiency: *communication* is exposed communication, *balance* is waiting for the slowest
  rank, *serial* is data, update and other work, *compute* is how fast a rank computes a sample. 1 is as good as the
  baseline.
- **comm** is communication that was not hidden behind the backward pass; **wait** is waiting for the slowest rank;
  **other** is what no timer covers.
- **Spread**: (slowest - fastest) / median of the repeats.
- **(a), (b), ...** mark doubtful points; what is wrong with them is said below the table."""


@dataclass(frozen=True)
class Findings:
    """All that the report is made of."""

    folder: Path
    study: Study
    measurements: tuple[Measurement, ...]
    series: tuple[Series, ...]
    bits: Bits | None
    faults: tuple[Fault, ...]
    predictions: Predictions
    plots: tuple[Plot, ...]
    has_matplotlib: bool

    @property
    def title(self) -> str:
        """Of the page."""
        return f"Scaling study: {self.study.title}"

    @property
    def summary(self) -> list[str]:
        """Its sentences."""
        missing = len(self.study.missing(self.measurements))
        return summary(self.study, self.series, self.bits, missing)


def write_report(folder: Path) -> list[Path]:
    """Make the report anew from what is in a study's folder.

    Returns:
        What was written, the page first.

    Raises:
        UsageError: if there is no study, one of its files cannot be read, or the folder cannot be written to.
    """
    findings = find_out(folder)
    text = render_markdown(findings)
    by_file = {f"plots/{plot.name}.svg": plot for plot in findings.plots}
    texts = (
        render_page(text, by_file, findings.title),
        text,
        json.dumps(as_json(findings), indent=1) + "\n",
        points_csv(findings.series),
    )
    files = dict(zip(FILES, texts, strict=True))
    if trained := accuracy_csv(folder):
        files["accuracy.csv"] = trained
    try:
        for name, each in files.items():
            (folder / name).write_text(each, encoding="utf-8")
        pictures = drawing.save(findings.plots, folder / "plots") if findings.plots else []
    except OSError as error:
        raise UsageError(
            f"cannot write the report to {folder} ({error.strerror}): free it, or copy the study"
        ) from None
    return [*(folder / name for name in files), *pictures]


def find_out(folder: Path) -> Findings:
    """Read a study, and work out everything that the report says."""
    study = read_study(folder)
    try:
        measurements = tuple(read_measurements(folder / POINTS))
    except ValueError as error:
        raise UsageError(str(error)) from None
    networks = NETWORKS + (read_networks(Path(study.networks)) if study.networks else ())
    predictions = predict_study(folder, measurements, networks, study.config) if measurements else Predictions()
    series = tuple(summarise(measurements, study.curves()))
    has_matplotlib = drawing.is_available()
    pictures: list[Plot] = []
    if has_matplotlib:
        pictures = [*drawing.draw_series(series), *draw_predictions(predictions, series), *draw_accuracy(folder)]
    return Findings(
        folder,
        study,
        measurements,
        series,
        same_bits(measurements),
        tuple(find_faults(series, measurements, predictions.slow_links)),
        predictions,
        tuple(pictures),
        has_matplotlib,
    )


def render_markdown(findings: Findings) -> str:
    """The whole report."""
    is_measured = bool(findings.measurements)
    opening = [
        f"# {findings.title}",
        headline(findings),
        _list(findings.summary),
        baseline_rule(findings.study, findings.series) if is_measured else "",
    ]
    body = _scaling_sections(findings) if is_measured else []
    body += [accuracy_section(findings.folder).strip(), *_pictures(findings, "accuracy")]
    if is_measured:
        body += ["## How to read this", READING]
    if runs := findings.measurements or machine_runs(findings.folder):
        body += ["## Machine and software", machine_table(runs)]
    body = [section for section in [*body, "## To repeat it", commands(findings)] if section]
    return "\n\n".join(filter(None, [*opening, contents(body), *body])) + "\n"


def _scaling_sections(findings: Findings) -> list[str]:
    """What is wrong, what was measured, and what that predicts."""
    marks = Marks(findings.series)
    sections = ["## What is wrong", fault_list(findings.faults)] if findings.faults else []
    if not findings.has_matplotlib:
        sections.append(NO_PLOTS.format(command=report_command(findings.folder)))
    sections += _pictures(findings, "speed-up", "efficiency")
    for one in findings.series:
        sections += [f"## {capitalised(one.name)}", points_table(one, marks)]
        if one.others:
            sections += ["### Where efficiency goes: factors", factors_table(one, marks)]
        sections += ["### Where time goes", phases_table(one, marks)]
    if names := [plot.name for plot in findings.plots if plot.name in ("step-time", "factors", "throughput")]:
        sections += ["## Time, factors and throughput", *_pictures(findings, *names)]
    sections += ["## Model and predictions", model_section(findings.predictions)]
    sections += _pictures(findings, "predicted-measured", "predicted-efficiency")
    if simulation := simulation_section(findings.folder).strip():
        sections += ["### Simulated networks", simulation]
    return sections


def contents(sections: Sequence[str]) -> str:
    """A link to each heading, in a line."""
    headings = [line[3:] for section in sections for line in section.splitlines() if line.startswith("## ")]
    return " | ".join(f"[{heading}](#{anchor(heading)})" for heading in headings)


def headline(findings: Findings) -> str:
    """What was studied, in a sentence or two."""
    study, settings = findings.study, findings.study.settings
    how_often = (
        f"{count(settings.repeats, 'repeat')} of {count(study.steps, 'step')} in an order drawn anew each round"
        f" (seed {settings.seed})"
    )
    if settings.mode == ACCURACY:
        how_often = f"{count(settings.repeats, 'seed')} a batch"
    return (
        f"{study.title}, batch {study.batch} in {study.shards} logical shards; {_numbers('rank', settings.ranks)},"
        f" {_numbers('thread', settings.threads)} each; mode {settings.mode}, {how_often}; begun"
        f" {study.started_at or 'at an unknown time'} (UTC)."
    )


def _numbers(noun: str, numbers: Sequence[int]) -> str:
    """`1 rank`, `1, 2, 4 ranks`."""
    return f"{', '.join(map(str, numbers))} {noun}{'' if tuple(numbers) == (1,) else 's'}"


def fault_list(faults: Sequence[Fault]) -> str:
    """Each with what to do."""
    return _list(f"**{fault.kind}**: {fault.text} *{fault.advice}*" for fault in faults)


def report_command(folder: Path) -> str:
    """Makes the report anew."""
    return shlex.join(["python", "-m", "launch", "scale", "report", str(folder)])


def machine_table(measurements: Sequence[Measurement]) -> str:
    """What the runs were made on and with; what differs between them, with all its values."""
    facts: dict[str, list[str]] = {}
    for run in measurements:
        for name, value in machine_facts(run).items():
            values = facts.setdefault(name, [])
            if value not in values:
                values.append(value)
    return markdown_table(["", ""], [[name, "; ".join(values)] for name, values in facts.items()], left=[0, 1])


def machine_facts(run: Measurement) -> dict[str, str]:
    """Of one run, in words; what is not recorded is left out."""
    facts = run.provenance
    versions = facts.get("versions", {})
    named = {
        "hosts": ", ".join(dict.fromkeys(run.hosts)),
        "processor": facts.get("cpu", ""),
        "MPI": facts.get("mpi_library", ""),
        "Python": versions.get("python", ""),
        "packages": ", ".join(f"{name} {version}" for name, version in versions.items() if name != "python"),
        "source revision": facts.get("git_revision") or "",
        "parameters": f"{run.parameters:,}",
    }
    return {name: str(value) for name, value in named.items() if value}


def commands(findings: Findings) -> str:
    """The study's own, that of the report, and one for each point."""
    first: dict[str, str] = {}
    for run in sorted(findings.measurements, key=lambda run: (run.point, run.repeat)):
        first.setdefault(run.point.name, str(run.provenance.get("command", "")))
    points = "\n".join(f"# {name}\n{command}" for name, command in first.items() if command)
    text = (
        f"```sh\n{findings.study.command or '# the command was not recorded'}\n{report_command(findings.folder)}\n```"
    )
    return f"{text}\n\nThe first run of each point:\n\n```sh\n{points}\n```" if points else text


def as_json(findings: Findings) -> dict[str, Any]:
    """Everything, as plain objects."""
    bits = findings.bits
    return {
        "format": 1,
        "title": findings.title,
        "study": asdict(findings.study) | {"baseline": findings.study.baseline},
        "summary": findings.summary,
        "confidence": CONFIDENCE,
        "series": [
            {"mode": one.mode, "threads": one.threads, "rows": [_row(row) for row in one.rows]}
            for one in findings.series
        ],
        "faults": [asdict(fault) for fault in findings.faults],
        "same_bits": None if bits is None else {"same": bits.same, "text": bits.text},
        "predictions": findings.predictions.to_json(),
        "accuracy": accuracy_json(findings.folder),
    }


def _row(row: Row) -> dict[str, Any]:
    return asdict(row) | {"step_ms": row.times.step_ms, "is_doubtful": row.is_doubtful}


def _pictures(findings: Findings, *names: str) -> list[str]:
    plots = {plot.name: plot for plot in findings.plots}
    return [f"![{plots[name].caption}](plots/{name}.svg)" for name in names if name in plots]


def _list(lines: Any) -> str:
    return "\n".join(f"- {line}" for line in lines)
