"""The event log: one JSON object a line, on disk when written."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from ddp.observe.metrics import MetricsLog


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_events_are_json_lines_in_order(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, time.perf_counter())
    log.write("start", hosts=["a", "b"], git_revision=None, text="two\nlines and ö")
    log.write("step", step=3, loss=0.1)
    log.close()
    first, second = records(path)
    assert first | {"time_s": 0} == {
        "event": "start",
        "time_s": 0,
        "hosts": ["a", "b"],
        "git_revision": None,
        "text": "two\nlines and ö",
    }
    assert second | {"time_s": 0} == {"event": "step", "time_s": 0, "step": 3, "loss": 0.1}
    assert list(first)[:2] == ["event", "time_s"]


def test_an_event_is_there_before_the_log_is_closed(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", time.perf_counter())
    log.write("step", step=1)
    assert len(records(tmp_path / "metrics.jsonl")) == 1
    log.close()


def test_time_is_seconds_since_the_start(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", time.perf_counter() - 1000)
    log.write("a")
    log.write("b")
    log.close()
    first, second = (record["time_s"] for record in records(tmp_path / "metrics.jsonl"))
    assert first >= 1000
    assert second >= first


def test_a_resumed_run_appends(tmp_path: Path) -> None:
    for event in ("before", "after"):
        log = MetricsLog(tmp_path / "metrics.jsonl", time.perf_counter())
        log.write(event)
        log.close()
    assert [record["event"] for record in records(tmp_path / "metrics.jsonl")] == ["before", "after"]


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", time.perf_counter())
    log.write("eval", loss=math.nan, accuracy=0.5, grad_norm=-math.inf, samples=3)
    log.close()
    (record,) = records(tmp_path / "metrics.jsonl")
    assert (record["loss"], record["accuracy"], record["grad_norm"], record["samples"]) == (None, 0.5, None, 3)


def test_ranks_without_a_file_drop_events() -> None:
    log = MetricsLog(None, 0.0)
    log.write("step", step=1)
    log.close()
