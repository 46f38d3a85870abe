"""The course of a run, read from its event log: what is drawn of it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Points = tuple[list[float], list[float]]
"""Epochs, and the values after them."""


@dataclass(frozen=True)
class History:
    """What a run has logged, without what a later start from an earlier step has replaced."""

    name: str
    steps_per_epoch: int
    steps: Sequence[dict[str, Any]]
    """The `step` records, by step."""
    evaluations: Sequence[dict[str, Any]]
    """The `eval` records, by step."""

    def training(self, field: str) -> Points:
        """A field of the `step` records over epochs."""
        return self._points(self.steps, field)

    def test(self, field: str) -> Points:
        """A field of the `eval` records over epochs."""
        return self._points(self.evaluations, field)

    @property
    def quality(self) -> str | None:
        """What the run is judged by: `accuracy` or `rmse`; None before its first evaluation."""
        return next((name for name in ("accuracy", "rmse") for record in self.evaluations[:1] if name in record), None)

    def _points(self, records: Sequence[dict[str, Any]], field: str) -> Points:
        """Where a number was not finite, and so null, a gap."""
        shown = [(record["step"] / self.steps_per_epoch, record[field]) for record in records if field in record]
        return [epoch for epoch, _ in shown], [math.nan if value is None else float(value) for _, value in shown]


def read_history(metrics: Path, name: str, batch_size: int) -> History:
    """Read the event log of a run, which may still go on.

    Args:
        metrics: the file, metrics.jsonl.
        name: what the run is called.
        batch_size: samples of a step, over all ranks.

    Raises:
        ValueError: if the file is missing or damaged; one line with the fix.
    """
    try:
        text = metrics.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ValueError(f"{metrics}: cannot be read ({reason}); give a run directory of ddp.train") from None
    whole = text[: text.rfind("\n") + 1].splitlines()  # a run that goes on, or was killed, may be within a line
    series: dict[str, list[dict[str, Any]]] = {"step": [], "eval": []}
    training_samples = 0
    for number, line in enumerate(whole, start=1):
        try:
            record = json.loads(line)
            if record["event"] == "start":
                training_samples = int(record["samples"]["train"])
            elif record["event"] in series:
                _add(record, series[record["event"]])
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{metrics}: line {number} is no event of a run; restore the file") from None
    if training_samples < 1:
        raise ValueError(f"{metrics}: tells of no run that has started; wait for its first step")
    return History(name, -(-training_samples // batch_size), series["step"], series["eval"])


def _add(record: dict[str, Any], records: list[dict[str, Any]]) -> None:
    """Append a record; those of its step and later are of a run that was given up, and gone on from before."""
    while records and records[-1]["step"] >= record["step"]:
        records.pop()
    records.append(record)
