"""What was found, as a table that grows or as one JSON document."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict

from launch.doctor.finding import STATES, Finding, worst
from launch.table import Table, growing_table
from launch.wording import count

HEADINGS, WIDTHS = ("check", "state", "measured"), (15, 7, 40)


def show_table(findings: Iterable[Finding]) -> list[Finding]:
    """Show each finding as soon as it is made, its fix below it; and the sum of all."""
    shown = []
    with growing_table(HEADINGS, WIDTHS) as table:
        for finding in findings:
            shown.append(finding)
            _add(table, finding)
    numbers = {state: sum(finding.state == state for finding in shown) for state in STATES}
    sys.stdout.write(
        f"{numbers['ok']} ok, {count(numbers['warning'], 'warning')}, {count(numbers['error'], 'error')}\n"
    )
    return shown


def _add(table: Table, finding: Finding) -> None:
    is_good = finding.state != "error"
    table.add([finding.check, finding.state, " ".join(finding.measured.split())], is_good)
    if finding.fix:
        table.add(["", "", f"fix: {finding.fix}"], is_good)


def show_json(findings: Iterable[Finding]) -> list[Finding]:
    """One document, when all is known."""
    shown = list(findings)
    document = {"state": worst(shown), "checks": [asdict(finding) for finding in shown]}
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
    return shown
