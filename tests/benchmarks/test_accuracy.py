"""What the configurations learn: measured, kept and compared to the last bit, and rendered where it is said."""

from __future__ import annotations

import copy
import json
import math
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import accuracy
from benchmarks.accuracy import ROOT
from benchmarks.accuracy_tables import EXPECTED, best, header_lines, quality, recipes_table, write_header
from benchmarks.cifar10_stand_in import write_stand_in
from ddp.command_line import parse
from ddp.config import Config, DataConfig, to_dict
from ddp.data import load_dataset

CONFIG = """# Digits, quickly.
#
#   mpirun -n 2 python -m ddp.train --config digits.toml

[model]
hidden = [16]

[train]
epochs = 2
"""
LEARNED = {
    "config": "configs/made.toml",
    "arguments": [],
    "settings": {
        "seed": 0,
        "batch": {"size": 32},
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0005},
        "schedule": {"name": "cosine", "warmup_epochs": 2.0},
        "train": {"epochs": 3},
    },
    "evaluations": [
        {"epoch": 1, "step": 10, "loss": 0.5, "accuracy": 0.75},
        {"epoch": 2, "step": 20, "loss": 0.25, "accuracy": 0.875},
        {"epoch": 3, "step": 30, "loss": 0.3, "accuracy": 0.8125},
    ],
    "parameters_sha256": "0123456789abcdef" * 4,
    "made_with": {"python": "3.13", "numpy": "2.3", "numba": "0.68", "llvmlite": "0.46", "lanes": 16, "cpu": "a CPU"},
}


def learned(**changed: Any) -> dict[str, Any]:
    return copy.deepcopy(LEARNED) | changed


def recorded() -> list[dict[str, Any]]:
    return accuracy.load(ROOT / "benchmarks" / "results" / "accuracy.json")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "digits.toml"
    path.write_text(CONFIG)
    return path


def run(config: Path, *options: str) -> int:
    return accuracy.main([str(config), "--results", str(config.parent / "results.json"), *options])


@pytest.mark.timeout(300)
def test_a_result_is_measured_and_found_again_on_another_number_of_ranks(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = config.parent / "results.json"
    assert run(config) == 0
    (result,) = json.loads(results.read_text())
    assert [each["epoch"] for each in result["evaluations"]] == [1, 2]
    assert f"{result['evaluations'][1]['accuracy']:.2%}" in config.read_text()
    assert result["settings"]["model"]["hidden"] == [16]
    assert tomllib.loads(config.read_text()) == tomllib.loads(CONFIG)  # only the header has changed
    header = config.read_text()

    assert run(config, "--check", "--ranks", "1") == 0
    assert capsys.readouterr().out.endswith("the same to the last bit\n")

    result["evaluations"][1]["loss"] = math.nextafter(result["evaluations"][1]["loss"], 1)
    result["made_with"]["numba"] = "0.1"
    results.write_text(json.dumps([result]))
    assert run(config, "--check") == 1
    told = capsys.readouterr().out
    assert f"was {result['evaluations'][1]}, is " in told
    assert "numba was 0.1, is " in told
    assert (config.read_text(), results.read_bytes()) == (header, json.dumps([result]).encode())


def test_the_last_bit_counts() -> None:
    found = learned()
    assert accuracy.differences(LEARNED, found) == []
    found["evaluations"][2]["loss"] = math.nextafter(0.3, 1)
    assert accuracy.differences(LEARNED, found) == [f"was {LEARNED['evaluations'][2]}, is {found['evaluations'][2]}"]
    assert accuracy.differences(LEARNED, learned(parameters_sha256="f")) != []
    assert len(accuracy.differences(LEARNED, learned(evaluations=LEARNED["evaluations"][:1]))) == 2


def test_what_is_not_expected_is_not_as_expected(capsys: pytest.CaptureFixture[str]) -> None:
    assert accuracy.check([learned()], learned())
    assert not accuracy.check([learned()], learned(arguments=["--seed", "1"]))
    assert "nothing is expected of it" in capsys.readouterr().out


def test_other_settings_are_named_as_the_reason() -> None:
    found = learned()
    found["settings"]["seed"], found["made_with"]["lanes"] = 5, 8
    assert accuracy.reasons(LEARNED, found) == ["seed was 0, is 5", "lanes was 16, is 8"]


def test_a_new_result_takes_the_place_of_the_old_one() -> None:
    first, varied = learned(), learned(arguments=["--seed", "1"])
    results = accuracy.merge(accuracy.merge([], varied), first)
    assert results == [first, varied]
    assert accuracy.merge(results, learned(parameters_sha256="new")) == [learned(parameters_sha256="new"), varied]


def test_variations_are_repeated_where_that_is_asked(config: Path) -> None:
    name = accuracy.name_of(config)
    results = [learned(config=name, arguments=each) for each in ([], ["--seed", "1"])] + [learned()]
    assert list(accuracy.runs(accuracy.parse([str(config)]), results)) == [(config, [])]
    assert list(accuracy.runs(accuracy.parse([str(config), "--variations"]), results)) == [
        (config, []),
        (config, ["--seed", "1"]),
    ]
    given = accuracy.parse([str(config), "--", "--seed", "2"])
    assert list(accuracy.runs(given, results)) == [(config, ["--seed", "2"])]


def test_a_header_keeps_what_was_written_and_loses_what_was_rendered(config: Path) -> None:
    written, settings = CONFIG.split("\n\n")[0], CONFIG[CONFIG.index("\n\n") :]
    write_header(config, learned())
    once = config.read_text()
    assert once == written + "\n#\n" + "\n".join(header_lines(LEARNED)) + settings
    write_header(config, learned())
    assert config.read_text() == once
    rows = [line.split() for line in once.splitlines() if "%" in line]
    assert rows == [
        ["#", "1", "75.00%", "0.50000"],
        ["#", "2", "87.50%", "0.25000"],
        ["#", "3", "81.25%", "0.30000"],
    ]
    assert "0123456789ab" in once


def test_a_file_without_a_header_gets_one(tmp_path: Path) -> None:
    path = tmp_path / "bare.toml"
    path.write_text("seed = 1\n")
    write_header(path, learned())
    assert path.read_text().startswith(EXPECTED)
    assert path.read_text().endswith("otherwise.\nseed = 1\n")
    assert tomllib.loads(path.read_text()) == {"seed": 1}


def test_regression_is_judged_by_the_smallest_error() -> None:
    errors = [{"epoch": epoch, "step": epoch, "loss": value**2, "rmse": value} for epoch, value in enumerate([3, 1, 2])]
    assert best(errors)["rmse"] == 1
    assert quality(errors[0]) == "3.00000"
    assert "rmse" in header_lines(learned(evaluations=errors))[2]
    assert best(LEARNED["evaluations"])["epoch"] == 2


def test_seeds_share_a_row() -> None:
    other = learned(arguments=["--seed", "1"])
    other["settings"]["seed"] = 1
    other["evaluations"][2]["accuracy"] = 0.8
    changed = learned(arguments=["--optimizer.lr", "0.5"])
    changed["settings"]["optimizer"]["lr"] = 0.5
    table = recipes_table([other, changed, learned()])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    assert rows[2:] == [
        ["[made](../configs/made.toml)", "32", "sgd, Nesterov momentum 0.9, weight decay 0.0005", "0.1",
         "cosine, 2 of warm-up", "3", "30", "75.00%, 75.00%", "87.50%, 87.50%", "81.25%, 80.00%"],
        ["[made](../configs/made.toml) `--optimizer.lr 0.5`", "32", "sgd, Nesterov momentum 0.9, weight decay 0.0005",
         "0.5", "cosine, 2 of warm-up", "3", "30", "75.00%", "87.50%", "81.25%"],
    ]  # fmt: skip


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_a_header_says_what_was_measured_of_the_file_as_it_is(path: Path, tmp_path: Path) -> None:
    (result,) = (each for each in recorded() if each["config"] == f"configs/{path.name}" and not each["arguments"])
    copied = tmp_path / path.name
    copied.write_text(path.read_text())
    write_header(copied, result)
    assert path.read_text() == copied.read_text()
    assert_is_up_to_date(result)


def test_every_variation_is_of_a_file_as_it_is() -> None:
    for result in recorded():
        assert_is_up_to_date(result)


def assert_is_up_to_date(result: dict[str, Any]) -> None:
    """A field that was added since has a default that changes nothing."""
    now = to_dict(parse(["--config", str(ROOT / result["config"]), *result["arguments"]]).config)
    for section, fields in result["settings"].items():
        if isinstance(fields, dict):
            assert now[section].items() >= fields.items(), f"measure {result['config']} {result['arguments']} again"
        else:
            assert now[section] == fields


def test_the_page_shows_what_was_measured() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text()
    begin, end = (f"<!-- benchmarks.accuracy: {word} -->\n" for word in ("begin", "end"))
    assert page.split(begin)[1].split(end)[0] == recipes_table(recorded()) + "\n"


@pytest.mark.timeout(200)
@pytest.mark.parametrize("name", ["polynomial_sgd", "mlp"])
def test_what_a_header_says_is_found_again(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if accuracy.main([str(ROOT / "configs" / f"{name}.toml"), "--check"]) != 0:
        told = capsys.readouterr().out
        if any(f": {key} was " in told for key in (*accuracy.MADE_WITH, "lanes")):
            pytest.skip(f"measured with other versions or another processor: {told}")
        pytest.fail(told)


@pytest.mark.skipif(not Path("/usr/share/datasets/fashion-mnist").is_dir(), reason="needs dataset-fashion-mnist")
def test_the_stand_in_is_read_as_cifar10_and_shows_its_source(tmp_path: Path) -> None:
    write_stand_in(tmp_path)
    made = load_dataset(DataConfig(name="cifar10", root=str(tmp_path)), seed=0)
    source = load_dataset(DataConfig(name="fashion_mnist"), seed=0)
    assert (len(made.train), len(made.test)) == (10_000, 2_000)
    np.testing.assert_array_equal(made.train.targets, source.train.targets[:10_000])
    np.testing.assert_array_equal(made.test.targets, source.test.targets[:2_000])
    for number in (0, 2_000, 9_999):
        image, gray = made.train.inputs[number].astype(float), source.train.inputs[number, 0] / 255
        background = image[:, 0, 0]  # where nothing of the source lies, but rarely
        places = [(row, column, flip) for row in range(5) for column in range(5) for flip in (1, -1)]
        errors = []
        for row, column, flip in places:
            share = np.zeros((32, 32))
            share[row : row + 28, column : column + 28] = gray[:, ::flip]
            # The object's colour by least squares: the rest must be rounding.
            object_colour = [np.vdot(share, plane - base * (1 - share)) / np.vdot(share, share)
                             for plane, base in zip(image, background, strict=True)]  # fmt: skip
            blend = np.stack([share * o + (1 - share) * b for o, b in zip(object_colour, background, strict=True)])
            errors.append(np.abs(blend - image).max())
        assert min(errors) < 1.5


def test_only_cifar10_of_no_folder_needs_the_stand_in(tmp_path: Path) -> None:
    path = tmp_path / "made.toml"
    path.write_text('[data]\nname = "cifar10"\n')
    assert accuracy.needs_stand_in(path, [])
    assert not accuracy.needs_stand_in(path, ["--data.root", "here"])
    assert not accuracy.needs_stand_in(path, ["--data.root=here"])
    assert accuracy.needs_stand_in(path, ["--data.rotation=3"])
    path.write_text('[data]\nname = "mnist"\n')
    assert not accuracy.needs_stand_in(path, [])


def test_where_data_come_from_does_not_decide_the_result() -> None:
    here, there = (to_dict(Config(data=data)) for data in (
        DataConfig(name="mnist"), DataConfig(name="mnist", root="there", download=True)
    ))  # fmt: skip
    assert accuracy.settings(here) == accuracy.settings(there)
    assert accuracy.settings(here) != accuracy.settings(to_dict(Config(data=DataConfig(name="mnist", flip=True))))


def test_a_file_that_is_not_there_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "nothing.toml") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
