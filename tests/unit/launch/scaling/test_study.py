"""A study's points, their order, what is still to do, and what a study that goes on must keep."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ddp.reducer_choice import plan_trials
from launch.errors import UsageError
from launch.scaling.records import Point
from launch.scaling.study import (
    FILE,
    Settings,
    Study,
    difference,
    read_study,
    steps_for,
    steps_per_record,
    write_study,
)
from tests.unit.launch.scaling.run_records import CONFIG, measurement


def study(**changes: Any) -> Study:
    defaults = Settings((1, 2, 4), (1,), "both", 3, 0, 0, ("--bind", "core"), ("--model.hidden", "[8]"))
    return Study(replace(defaults, **changes), CONFIG, 100, 5)


def test_both_modes_share_the_run_on_one_rank() -> None:
    strong, weak = study().curves()
    assert (strong.mode, weak.mode) == ("strong", "weak")
    assert strong.points == (Point(1, 1, 64, 8), Point(2, 1, 64, 8), Point(4, 1, 64, 8))
    assert weak.points == (Point(1, 1, 64, 8), Point(2, 1, 128, 16), Point(4, 1, 256, 32))
    assert len(study().points()) == 5


def test_a_rank_has_as_many_shards_at_every_point_of_weak_scaling() -> None:
    most = study(ranks=(1, 12), mode="weak").curves()[0].points
    assert [point.shards // point.ranks for point in most] == [12, 12]  # raised to the most ranks
    assert most[-1] == Point(12, 1, 768, 144)


def test_the_users_own_shards_stand() -> None:
    own = study(ranks=(1, 12), trainer=("--batch.shards", "8"))
    assert {point.shards for point in own.curves()[0].points} == {8}


def test_threads_make_curves_of_their_own() -> None:
    curves = study(threads=(1, 2), mode="strong").curves()
    assert [(curve.threads, curve.points[-1].threads) for curve in curves] == [(1, 1), (2, 2)]


def test_each_round_visits_every_point_once_in_an_order_of_its_own() -> None:
    one = study(repeats=6)
    runs = one.runs()
    rounds = [tuple(run.point for run in runs if run.repeat == repeat) for repeat in range(6)]
    assert [run.repeat for run in runs] == sorted(run.repeat for run in runs)
    assert all(Counter(points) == Counter(one.points()) for points in rounds)
    assert len(set(rounds)) > 1
    assert runs == study(repeats=6).runs()
    assert runs != study(repeats=6, seed=1).runs()
    assert runs[:5] == study(repeats=1).runs()  # more repeats change nothing in the rounds before


def test_what_is_measured_is_not_run_again() -> None:
    one = study(ranks=(1, 2), mode="strong", repeats=2)
    first, *others = one.runs()
    done = measurement(first.point.ranks, shards=first.point.shards, repeat=first.repeat)
    assert one.missing([]) == one.runs()
    assert one.missing([done]) == others
    assert one.missing([replace(done, point=Point(9, 9, 9, 9))]) == one.runs()


def test_names_of_runs_are_those_of_folders() -> None:
    names = [run.name for run in study().runs()]
    assert len(set(names)) == len(names)
    assert "ranks-4-threads-1-batch-256-repeat-2" in names


@pytest.mark.parametrize(
    ("step_s", "steps"),
    [(0.0001, 20_000), (0.01, 400), (0.1, 40), (7.0, 40)],
)
def test_the_steps_of_a_run_take_some_seconds(step_s: float, steps: int) -> None:
    assert steps_for(step_s) == steps
    assert steps % steps_per_record(steps) == 0


def test_auto_has_enough_steps_to_try_reducers() -> None:
    one, several = study(ranks=(1,)), study()
    assert CONFIG["comm"]["reducer"] == "auto"
    assert (one.least_steps, several.least_steps) == (40, 144)
    assert replace(several, config={**CONFIG, "comm": {"reducer": "flat"}}).least_steps == 40
    assert 144 <= steps_for(7.0, 144) < 160
    trials = plan_trials(["flat", "node_shared", "bucketed", "sharded"], 144)
    assert trials
    assert not plan_trials(["flat", "node_shared", "bucketed", "sharded"], 143)


@pytest.mark.parametrize(("steps", "every"), [(2, 1), (8, 2), (20, 5), (40, 5), (400, 20), (20_000, 1000)])
def test_records_are_many_and_not_too_short(steps: int, every: int) -> None:
    assert steps_per_record(steps) == every


def test_a_study_is_read_as_it_was_written(tmp_path: Path) -> None:
    one = replace(study(), started_at="2026-01-31T12:00:00Z", command="python -m launch scale", networks="/n.toml")
    write_study(tmp_path, one)
    assert read_study(tmp_path) == one
    assert "the median run on 1 rank with the same threads" in json.loads((tmp_path / FILE).read_text())["baseline"]


def test_the_baseline_of_a_study_without_one_rank_is_said() -> None:
    assert "2 ranks (the study has no run on 1)" in study(ranks=(2, 4)).baseline
    assert study(ranks=(4, 2)).baseline_ranks == 2


@pytest.mark.parametrize(
    ("content", "named"),
    [(None, "holds no study"), ("{", "no JSON"), ("[]", "of no study"), ('{"format": 7}', "of no study")],
)
def test_a_folder_without_a_study(content: str | None, named: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / FILE).write_text(content)
    with pytest.raises(UsageError, match=named) as caught:
        read_study(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, ""),
        ({"repeats": 5}, ""),
        ({"repeats": 2}, "it has --repeats 3, not 2"),
        ({"ranks": (1, 2)}, "it has --ranks 1,2,4, not 1,2"),
        ({"steps": 30}, "it has --steps chosen by a trial, not 30"),
        ({"trainer": ()}, "it has arguments after the -- --model.hidden [8], not none"),
        ({"placement": ("--bind", "none")}, "it has hosts, MPI, binding and variables --bind core, not --bind none"),
    ],
)
def test_another_study_is_told_from_the_same(changes: dict[str, Any], named: str) -> None:
    assert difference(study(), study(**changes)) == named


def test_a_configuration_file_that_was_changed_is_another_study() -> None:
    other = replace(study(), config={**CONFIG, "batch": {"size": 32, "shards": 8}})
    assert difference(study(), other) == "it has batch.size = 64, not 32"


def test_more_ranks_than_samples_of_a_step() -> None:
    with pytest.raises(UsageError, match=r"--ranks 65: .* batch.size = 64.*at most 64"):
        study(ranks=(1, 65)).check()
    study(ranks=(1, 65), mode="weak").check()
    study(ranks=(1, 64)).check()


@pytest.mark.parametrize(("name", "value"), [("exact", False), ("compression", "bf16"), ("sync_every", 4)])
def test_what_is_not_exact(name: str, value: Any) -> None:
    assert study().exact
    assert not replace(study(), config={**CONFIG, "comm": {**CONFIG["comm"], name: value}}).exact
