"""The share of the steps that data take, from records made up."""

from __future__ import annotations

import pytest

from benchmarks import pipeline
from benchmarks.training import Run


def test_shares_are_medians_without_the_first_record() -> None:
    records = [{"step_ms": 100.0, "data_ms": 90.0}, *({"step_ms": 2.0, "data_ms": d} for d in (0.01, 0.02, 0.6))]
    step, data, share = pipeline.shares(Run(1, 0, {}, {}, tuple(records)))
    assert (step, data, share) == (2.0, 0.02, pytest.approx(0.01))


def test_a_config_above_the_limit_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = []

    def train(ranks: int, repeat: int, arguments: list[str], folder: object) -> Run:
        asked.append(arguments)
        data_ms = 0.05 if "a.toml" in arguments else 0.03
        return Run(ranks, repeat, {}, {}, ({"step_ms": 2.0, "data_ms": data_ms},))

    monkeypatch.setattr(pipeline, "train", train)
    assert pipeline.main(["b.toml", "--steps", "40", "--", "--data.flip", "true"]) == 0
    assert asked[0][:6] == ["--config", "b.toml", "--train.epochs", "1000000", "--train.steps", "40"]
    assert asked[0][-2:] == ["--data.flip", "true"]
    assert pipeline.main(["a.toml", "b.toml"]) == 1
    shown = capsys.readouterr().out.splitlines()
    assert shown[-2].split() == ["a", "2.000", "50.0", "2.50%", "above", "2%"]
    assert shown[-1].split() == ["b", "2.000", "30.0", "1.50%"]
