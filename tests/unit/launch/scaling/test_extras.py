"""What a study measures beside its points: if that fails, the study goes on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launch.errors import UsageError
from launch.scaling import extras
from launch.scaling.extras import Extras
from launch.scaling.runs import RunFailed
from tests.unit.launch.scaling.made import made_run, made_study


class Shown:
    """What is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def begin(self, what: str, left_s: float) -> None:
        pass

    def done(self, line: str, left_s: float) -> None:
        self.lines.append(line)

    def say(self, line: str) -> None:
        self.lines.append(line)


def session(folder: Path, trace: Any = None) -> Any:
    """As far as extras look at it."""
    study = made_study(ranks=(1,))
    forecast = SimpleNamespace(left_s=lambda *_: 0.0, add_extra=lambda _: None)
    runner = SimpleNamespace(trace=trace)
    run = made_run(study.points()[0])
    return SimpleNamespace(study=study, folder=folder, measurements=[run], forecast=forecast, runner=runner)


@pytest.mark.parametrize("failure", [RunFailed("exit code 4", ""), UsageError("comm.reducer = bucketed: use flat")])
def test_a_trace_that_fails_is_said_and_no_more(failure: Exception, tmp_path: Path) -> None:
    def fail(*_: Any) -> None:
        raise failure

    shown = Shown()
    Extras(session(tmp_path, fail)).make(shown)
    assert shown.lines == [
        f"warning: a trace of 1 rank x 1 thread failed ({failure}): the report tells nothing of hidden communication"
    ]


def test_the_collectives_sum_reports_as_long_as_the_trainer_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(extras, "measure", lambda *_, **options: given.append(options))
    one = session(tmp_path)
    one.study.config["comm"]["bucket_mb"] = 1.0
    one.measurements[0].provenance.update(tensor_bytes=[40, 8], statistics=9)
    assert extras.measure_collectives(one, 2, 1, tmp_path) == ""
    # 8 shards: loss and squares (doubles), the largest of 2 tensors, and 9 statistics.
    assert given == [{"bucket_mb": 1.0, "report_bytes": 8 * 4 * (2 + 2 + 2 + 9)}]


@pytest.mark.parametrize("line", ["{", "{}", "3", '{"ranks": "x", "threads": 1}'])
def test_collectives_that_cannot_be_read_are_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "collectives.jsonl").write_text(line + "\n")
    with pytest.raises(UsageError, match=r"collectives\.jsonl.*remove that line"):
        Extras(session(tmp_path))
