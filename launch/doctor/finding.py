"""What a check finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["ok", "warning", "error"]
STATES: tuple[State, ...] = ("ok", "warning", "error")
"""From good to bad. An error keeps jobs from starting, or from computing what they should, or wastes most cores."""


@dataclass(frozen=True)
class Finding:
    """One row of the report."""

    check: str
    state: State
    measured: str
    """What was found, in one line."""
    fix: str = ""
    """What to do about it, in one line; empty if nothing is to be done."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """The numbers behind it, for `--json`."""


def worst(findings: Sequence[Finding]) -> State:
    """The state of the whole."""
    return max((finding.state for finding in findings), key=STATES.index, default="ok")


def not_made(check: str, reason: str, fix: str = "") -> Finding:
    """A check that could not be made: never `ok`."""
    return Finding(check, "warning", f"not checked: {reason}", fix or "mend what is above, then ask again")


def listing(items: Sequence[str], most: int = 6) -> str:
    """The first of many, and how many more there are."""
    shown = ", ".join(items[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"
