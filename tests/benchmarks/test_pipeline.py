"""The share of the steps that data take, from records made up."""

from __future__ import annotations

from pathlib import Path
from subprocess import CalledProcessError

import pytest

from benchmarks import pipeline
from benchmarks.training import Run
from ddp.data import DataError


def test_shares_are_medians_without_the_first_record() -> None:
    records = [{"step_ms": 100.0, "data_ms": 90.0}, *({"step_ms": 2.0, "data_ms": d} for d in (0.01, 0.02, 0.6))]
    step, data, share = pipeline.shares(Run(1, 0, {}, {}, tuple(records)))
    assert (step, data, share) == (2.0, 0.02, pytest.approx(0.01))


def test_a_config_above_the_limit_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = []
    monkeypatch.setattr(pipeline, "stand_in_root", lambda *_: [])

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


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What each run is called with; those of missing.toml fail."""
    asked = []

    def train(ranks: int, repeat: int, arguments: list[str], folder: Path) -> Run:
        asked.append(arguments)
        if arguments[1].endswith("missing.toml"):
            raise CalledProcessError(2, ["launch"])
        return Run(ranks, repeat, {}, {}, ({"step_ms": 2.0, "data_ms": 0.03},))

    monkeypatch.setattr(pipeline, "train", train)
    return asked


def write(folder: Path, **names: str) -> list[str]:
    """Configurations of these data sets."""
    for name, data in names.items():
        (folder / f"{name}.toml").write_text(f'[data]\nname = "{data}"\n')
    return [str(folder / f"{name}.toml") for name in names]


def test_cifar10_is_stood_in_for(asked: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr("benchmarks.accuracy.write_stand_in", made.append)
    configs = write(tmp_path, one="cifar10", other="digits")
    assert pipeline.main(configs) == 0
    assert asked[0][-2:] == ["--data.root", str(made[0])]
    assert "--data.root" not in asked[1]
    assert pipeline.main([configs[0], "--", "--data.root=here"]) == 0
    assert asked[2][-1] == "--data.root=here"
    assert len(made) == 1


def test_what_cannot_be_measured_is_a_line_and_the_rest_is_measured(
    asked: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: Path) -> None:
        raise DataError("no Fashion-MNIST; fetch it")

    monkeypatch.setattr("benchmarks.accuracy.write_stand_in", refuse)
    configs = write(tmp_path, none="cifar10", missing="fashion_mnist", there="digits")
    assert pipeline.main([*configs, str(tmp_path / "nothing.toml")]) == 2
    shown = capsys.readouterr()
    assert [row.split()[:3] for row in shown.out.splitlines()[1:]] == [
        ["none", "not", "measured"],
        ["missing", "not", "measured"],
        ["there", "2.000", "30.0"],
        ["nothing", "not", "measured"],
    ]
    first, second = shown.err.splitlines()
    assert first == "error: no Fashion-MNIST; fetch it"
    assert "nothing.toml" in second
    assert [each[1] for each in asked] == configs[1:]


@pytest.mark.parametrize("steps", [1, 19, 20, 39, 200])
def test_every_run_has_records(steps: int, tmp_path: Path) -> None:
    given = pipeline.arguments(tmp_path, steps, [])
    every = int(given[given.index("--output.log_every") + 1])
    assert 1 <= every <= steps


def test_a_run_of_no_steps_would_not_end(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        pipeline.main(["--steps", "0"])
    assert caught.value.code == 2
    assert "--steps = 0: use 1 or more" in capsys.readouterr().err
