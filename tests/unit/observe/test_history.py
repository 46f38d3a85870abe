"""What is read from an event log: epochs, gaps, and only what the run went on with."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from ddp.observe.history import read_history

START = {"event": "start", "samples": {"train": 100, "test": 10}}


def step(number: int, loss: float | None = 1.0) -> dict[str, Any]:
    return {"event": "step", "step": number, "loss": loss, "samples_per_s": 10.0 * number}


def evaluation(number: int, **fields: Any) -> dict[str, Any]:
    return {"event": "eval", "step": number, "loss": 0.5, **fields}


def write(folder: Path, *events: dict[str, Any], end: str = "") -> Path:
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events) + end)
    return path


def test_values_over_epochs(tmp_path: Path) -> None:
    path = write(tmp_path, START, step(2, 3.0), step(4, None), evaluation(4, accuracy=0.25), {"event": "end"})
    history = read_history(path, "a", 30)  # 4 steps an epoch, the last with 10 samples
    epochs, losses = history.training("loss")
    assert epochs == [0.5, 1.0]
    assert losses[0] == 3.0
    assert math.isnan(losses[1])
    assert history.training("samples_per_s") == ([0.5, 1.0], [20.0, 40.0])
    assert history.test("accuracy") == ([1.0], [0.25])
    assert (history.name, history.quality) == ("a", "accuracy")


def test_a_regression_is_judged_by_its_error_and_a_new_run_by_nothing(tmp_path: Path) -> None:
    assert read_history(write(tmp_path, START, evaluation(1, rmse=2.0)), "a", 10).quality == "rmse"
    assert read_history(write(tmp_path, START), "a", 10).quality is None


def test_what_a_later_start_has_replaced_is_not_shown(tmp_path: Path) -> None:
    given_up = [step(2, 1.0), step(4, 2.0), evaluation(4, accuracy=0.1), step(6, 3.0)]
    path = write(tmp_path, START, *given_up, START, step(4, 20.0), evaluation(4, accuracy=0.9), step(8, 80.0))
    history = read_history(path, "a", 50)
    assert history.training("loss") == ([1.0, 2.0, 4.0], [1.0, 20.0, 80.0])
    assert history.test("accuracy") == ([2.0], [0.9])


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, START, step(2), end='{"event": "st')
    assert read_history(path, "a", 50).training("loss") == ([1.0], [1.0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"\xff\n", "not UTF-8"),
        (b"", "no run that has started"),
        (b'{"event": "start", "samples": {"train": 5}}\nnonsense\n', "line 2"),
        (b'{"event": "step"}\n{"event": "step"}\n', "line 2"),
        (b"[]\n", "line 1"),
    ],
)
def test_a_damaged_log_is_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        read_history(path, "a", 10)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
