"""The plot of `--mode accuracy`: drawn of what was trained, with and without learning rates."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from launch.scaling.accuracy import read_results
from launch.scaling.accuracy_plots import draw_accuracy
from tests.unit.launch.scaling.accuracy_trainings import EPOCHS, Trainer, run

COLOURED_LINE = re.compile(r'<path d="[^"]*" [^>]*style="fill: none; stroke: #(0072b2|d55e00|009e73)', re.IGNORECASE)


def lines(folder: Path) -> int:
    """How many curves the one plot has; it is XML."""
    (plot,) = draw_accuracy(folder)
    xml.etree.ElementTree.fromstring(plot.svg)
    return len(COLOURED_LINE.findall(plot.svg)) - 3  # the legend's


def change(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "accuracy.jsonl"
    values = [json.loads(line) for line in path.read_text().splitlines()]
    for each in values:
        edit(each)
    path.write_text("".join(json.dumps(each) + "\n" for each in values))


def test_each_seed_has_a_curve_and_each_batch_a_learning_rate(tmp_path: Path) -> None:
    assert draw_accuracy(tmp_path) == []
    run(tmp_path, Trainer(EPOCHS))
    assert lines(tmp_path) == 3 * 3 + 3
    assert draw_accuracy(tmp_path) == draw_accuracy(tmp_path)


def test_rates_are_those_of_the_records(tmp_path: Path) -> None:
    run(tmp_path, Trainer(EPOCHS))
    first = read_results(tmp_path)[0]
    assert first.steps_per_epoch == 16
    assert first.rates[:2] == ((5 / 16, 0.1 / 5), (10 / 16, 0.1 / 10))  # the trainer's, a record in 5 steps
    longest = max(len(result.rates) for result in read_results(tmp_path))
    assert 10 < longest <= 100


def test_a_study_of_an_earlier_version_has_no_rates_and_still_a_plot(tmp_path: Path) -> None:
    run(tmp_path, Trainer(EPOCHS))

    def forget(values: dict[str, Any]) -> None:
        del values["rates"], values["training"]["base_batch"], values["training"]["power"]

    change(tmp_path, forget)
    assert lines(tmp_path) == 3 * 3
