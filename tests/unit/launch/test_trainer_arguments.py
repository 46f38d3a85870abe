"""What the launcher reads in the trainer's arguments is what the trainer reads there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ddp.command_line import parse
from ddp.config import Config, to_dict
from launch.trainer_arguments import (
    DEFAULTS,
    checkpoint_grace_s,
    field,
    option_values,
    resuming,
    run_directory,
    with_run_name,
)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("a.toml").write_text('[output]\nname = "a"\n[checkpoint]\ngrace_s = 7\n[model]\nname = "mnist_cnn"\n')
    Path("b.toml").write_text('[output]\nname = "b"\n')
    return tmp_path


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    "line",
    [
        "",
        "--output.name x",
        "--output.name=x --output.name y --checkpoint.grace_s=2",
        "--config a.toml",
        "--config=a.toml --config b.toml",
        "--config b.toml --config a.toml",
        "--output.name x --config a.toml",
        "--model.name mlp --config a.toml",
        "--checkpoint.grace_s 3.5 --config=a.toml",
    ],
)
def test_a_field_is_what_the_trainer_takes(line: str) -> None:
    arguments = line.split()
    config = to_dict(parse(arguments).config)
    for name in DEFAULTS:
        section, key = name.split(".")
        found, expected = field(arguments, name), config[section][key]
        assert (float(found) if isinstance(expected, float) else found) == expected, name
    assert checkpoint_grace_s(arguments) == config["checkpoint"]["grace_s"]


@pytest.mark.parametrize("line", ["--checkpoint.grace_s soon", "--checkpoint.grace_s -1", "--checkpoint.grace_s"])
def test_what_the_trainer_will_refuse_is_no_time(line: str) -> None:
    assert checkpoint_grace_s(line.split()) == Config().checkpoint.grace_s


@pytest.mark.parametrize("text", ["[output", "output = 3", "[output]\nname = 4"])
def test_a_malformed_file_is_left_to_the_trainer(text: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    assert field(["--config", str(file)], "checkpoint.grace_s") == "30.0"
    assert field(["--config", "gone.toml"], "output.dir") == "runs"


def test_option_values() -> None:
    assert option_values("--x 1 --y 2 --x=3 --x".split(), "x") == ["1", "3", ""]
    assert option_values(["--xy", "1"], "x") == []


@pytest.mark.usefixtures("files")
def test_a_run_without_a_name_gets_the_one_that_the_trainer_would_give() -> None:
    assert with_run_name(["--output.name", "x"]) == ["--output.name", "x"]
    assert with_run_name(["--config", "a.toml"]) == ["--config", "a.toml"]
    *arguments, option, name = with_run_name(["--model.name", "vgg"])
    assert (arguments, option) == (["--model.name", "vgg"], "--output.name")
    assert re.fullmatch(r"vgg-digits-\d{8}-\d{6}", name)
    assert run_directory(["--output.dir", "d", "--output.name", "n"]) == Path("d/n")


def test_resuming_replaces_any_other_point() -> None:
    assert resuming(["--seed", "1"]) == ["--seed", "1", "--resume", "auto"]
    for given in (["--resume", "p"], ["--resume=p"], ["--resume", "auto"]):
        assert resuming(["--a", "1", *given, "--b"]) == ["--a", "1", "--b", "--resume", "auto"]
