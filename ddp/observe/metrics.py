"""The event log of a run: one JSON object a line, the source of every table and plot."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Listener(Protocol):
    """Is told of every event, too."""

    def write(self, event: str, fields: Mapping[str, Any]) -> None:
        """An event, and what it holds."""

    def close(self) -> None:
        """No more will come."""


class MetricsLog:
    """Appends events to `metrics.jsonl`; on ranks without a run directory it drops them."""

    def __init__(self, path: Path | None, started: float, listener: Listener | None = None) -> None:
        """Open the log.

        Args:
            path: the file, appended to; None to drop events.
            started: `time.perf_counter()` at the start of the run.
            listener: who is told of what is written, too.
        """
        self.started, self._listener = started, listener
        self._file = None if path is None else open(path, "a", encoding="utf-8")

    def write(self, event: str, **fields: Any) -> None:
        """Append one event with the seconds since the start; numbers that JSON lacks (NaN, infinity) as null.

        The line is handed to the system when this returns.
        """
        if self._file is not None:
            finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in fields.items()}
            record = {"event": event, "time_s": round(time.perf_counter() - self.started, 6), **finite}
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()
            if self._listener is not None:
                self._listener.write(event, finite)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        if self._listener is not None:
            self._listener.close()
