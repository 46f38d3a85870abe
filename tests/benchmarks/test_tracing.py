"""The table of what tracing costs compares runs pair by pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import tracing
from benchmarks.networks import NETWORKS
from benchmarks.tracing import measure, render


def test_the_cost_is_that_of_pairs() -> None:
    times = {"without_ms": [1.0, 2.0, 4.0], "with_ms": [1.01, 2.06, 4.08]}
    *_, row, _, note = render([{"network": "mlp", "reducer": "flat", "events": 18, **times}]).splitlines()
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells == ["mlp, 64 a rank", "flat", "18", "2.000 (1.500 to 3.000)", "2.0% (1.5% to 2.5%)"]
    assert note == "2 ranks of 1 thread on one node; 3 pairs of runs in turn."


def test_runs_with_and_without_a_trace_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[bool] = []

    def pretend(network: Any, reducer: str, is_traced: bool, folder: Path) -> tuple[float, int]:
        turns.append(is_traced)
        return float(len(turns)), 18 * is_traced

    monkeypatch.setattr(tracing, "run", pretend)
    found = measure(NETWORKS[0], "bucketed", 2, tmp_path)
    assert turns == [True, False, True, False, True]  # the first compiles
    assert (found["without_ms"], found["with_ms"], found["events"]) == ([2.0, 4.0], [3.0, 5.0], 18)


@pytest.mark.timeout(200)
def test_a_traced_run_tells_its_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "STEPS", {"mlp": 30})
    milliseconds, events = tracing.run(NETWORKS[0], "bucketed", True, tmp_path)
    assert milliseconds > 0
    assert events >= 18
    assert tracing.run(NETWORKS[0], "bucketed", False, tmp_path)[1] == 0
