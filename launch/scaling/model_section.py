"""What the model says, for the report: answers, predictions with their errors, how it was checked, its constants."""

from __future__ import annotations

import math
from collections.abc import Sequence

from launch.scaling.predict import BAND, PRESENT, Band, Check, Constant, Prediction, Predictions
from launch.scaling.tables import markdown_table, milliseconds, percent

LEAST = 1e-6
"""A constant below this is 0: its unit is such that it would not be seen."""


def model_section(predictions: Predictions) -> str:
    """Markdown, without its heading."""
    parts = [answers(predictions), notes(predictions), prediction_tables(predictions)]
    parts += [checks_table(predictions.checks), constants_table(predictions.constants)]
    return "\n\n".join(part for part in parts if part)


def answers(predictions: Predictions) -> str:
    """Each question with what the model says."""
    return "\n".join(f"- **{answer.question}** {answer.text}" for answer in predictions.answers)


def notes(predictions: Predictions) -> str:
    """What is assumed and what is missing, and the networks."""
    networks = [
        f"{network.name}: {network.gbit_per_s:g} Gbit/s a link, {network.latency_us:g} µs"
        + (f", {network.ranks_per_node} ranks a node" if network.ranks_per_node else "")
        for network in predictions.networks
    ]
    lines = [f"- {note}" for note in predictions.notes]
    if predictions.rows and networks:
        lines.append(f"- Stated networks (latency is assumed): {'; '.join(networks)}.")
    return "\n".join(lines)


def prediction_tables(predictions: Predictions) -> str:
    """For each mode and number of threads: the best rung at each number of ranks, on each network."""
    parts = []
    names = [PRESENT, *(network.name for network in predictions.networks)]
    for mode, threads in dict.fromkeys((row.mode, row.threads) for row in predictions.rows):
        rows = [_prediction(row) for name in names for row in predictions.best(name, mode, threads) if _is_told(row)]
        bands = f"{percent(BAND)} band"
        headings = ["network", "ranks", "batch", "best reducer", f"step, ms ({bands})", "leave-one-out error"]
        headings += [f"efficiency ({bands})", f"exposed comm, ms ({bands})", "hidden comm, ms"]
        parts.append(
            f"### Predicted: {mode} scaling, threads a rank: {threads}\n\n{markdown_table(headings, rows, left=[0, 3])}"
        )
    if parts:
        parts.append(
            "Rows with a * are for more ranks than were measured. The band knows of the repeats' spread only; the"
            " leave-one-out error is how wrong the model was, on average, about numbers of ranks that were measured but"
            " kept from it."
        )
    return "\n\n".join(parts)


def _is_told(row: Prediction) -> bool:
    """Not each doubling of what was never measured; and one rank has no network. The JSON file has all."""
    if row.ranks == 1:
        return row.network == PRESENT
    return not row.is_extrapolated or row.ranks.bit_length() % 2 == 1


def _prediction(row: Prediction) -> list[str]:
    return [
        row.network,
        f"{row.ranks}{' *' if row.is_extrapolated else ''}",
        str(row.batch),
        row.reducer,
        _band(row.step_ms),
        _error(row.error),
        f"{percent(row.efficiency.value)} ({percent(row.efficiency.low)} to {percent(row.efficiency.high)})",
        _band(row.comm_ms),
        milliseconds(row.hidden_ms),
    ]


def _band(band: Band) -> str:
    return f"{milliseconds(band.value)} ({milliseconds(band.low)} to {milliseconds(band.high)})"


def _error(value: float) -> str:
    return percent(value) if math.isfinite(value) else "not known"


def checks_table(checks: Sequence[Check]) -> str:
    """Measured against the model with and without that number of ranks."""
    if not checks:
        return ""
    rows = []
    for check in checks:
        left_out = milliseconds(check.left_out_ms) if math.isfinite(check.left_out_ms) else "not known"
        fitted = milliseconds(check.fitted_ms) if math.isfinite(check.fitted_ms) else "not known"
        place = [check.what, check.mode, str(check.ranks), str(check.threads), check.reducer]
        rows.append([*place, milliseconds(check.measured_ms), fitted, left_out, _error(check.error)])
    headings = ["what", "mode", "ranks", "threads", "reducer", "measured, ms", "fitted, ms"]
    headings += ["predicted without these ranks, ms", "its error"]
    return f"### Measured against predicted\n\n{markdown_table(headings, rows, left=[0, 1, 4])}"


def _number(value: float) -> str:
    """Three digits; what is nothing in its unit is 0."""
    return f"{value:.3g}" if abs(value) >= LEAST else "0"


def constants_table(constants: Sequence[Constant]) -> str:
    """The fitted numbers."""
    if not constants:
        return ""
    rows = [
        [each.name, _number(each.value), f"{_number(each.low)} to {_number(each.high)}", each.unit, each.meaning]
        for each in constants
    ]
    headings = ["constant", "value", f"{percent(BAND)} band", "unit", "meaning"]
    return f"### Fitted constants\n\n{markdown_table(headings, rows, left=[0, 3, 4])}"
