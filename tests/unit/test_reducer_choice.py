"""Which reducer `auto` chooses, and what it says of it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from ddp import reducer_choice
from ddp.reducer_choice import GAIN, STEPS, Choice, ReducerTrials, choose, plan_trials

RUNGS = ["flat", "node_shared", "bucketed"]


def test_rungs_take_turns_in_rounds_and_their_first_step_does_not_count() -> None:
    trials = plan_trials(RUNGS, 10_000)
    assert len(trials) == 3 * 3 * STEPS[-1]
    turns = [rung for rung, _ in itertools.groupby(trial.rung for trial in trials)]
    assert turns == RUNGS * 3
    assert [trial.counts for trial in trials] == [False, *[True] * (STEPS[-1] - 1)] * 9


@pytest.mark.parametrize(("steps", "expected"), [(360, 90), (359, 81), (108, 27), (107, 0), (0, 0)])
def test_a_quarter_of_the_steps_at_most_are_trials(steps: int, expected: int) -> None:
    assert len(plan_trials(RUNGS, steps)) == expected


def test_nothing_is_tried_where_there_is_no_choice() -> None:
    assert plan_trials(["flat"], 10_000) == []


def test_the_fastest_is_chosen_where_the_difference_is_no_noise() -> None:
    assert choose({"flat": 10.0, "node_shared": 7.0, "bucketed": 9.0}).rung == "node_shared"
    assert choose({"flat": 10.0, "node_shared": 10.0 * (1 - GAIN / 2)}).rung == "flat"
    assert choose({"flat": 10.0, "bucketed": 12.0}).rung == "flat"


def test_the_log_has_every_rung_and_the_reason() -> None:
    lines = choose({"flat": 10.0, "node_shared": 7.0}).lines()
    assert [line.split() for line in lines[1:3]] == [
        ["flat", "10.000", "ms", "a", "step,", "1.00"],
        ["node_shared", "7.000", "ms", "a", "step,", "0.70"],
    ]
    assert lines[3] == "reducer node_shared: a step takes 30% less time than with flat"
    assert Choice("flat", "too few steps", {}).lines() == ["reducer flat: too few steps"]


class Ranks:
    """A world of two ranks, of which the other takes twice as long."""

    def all_gather_rows(self, row: Any, name: str) -> Any:
        import numpy as np

        return np.stack([row, 2 * row])


def test_steps_are_done_by_the_rung_whose_turn_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = {"flat": 4.0, "node_shared": 3.0, "bucketed": 5.0}
    used, present, now = list[str](), "flat", 0.0

    class Clock:
        def perf_counter(self) -> float:
            return now

    def use(rung: str) -> None:
        nonlocal present
        present = rung

    def step() -> None:
        nonlocal now
        used.append(present)
        disturbed = len(used) % STEPS[-1] in (1, 5, 6, 7)  # each rung's first step, and some more
        now += 1000.0 if disturbed else cost[present]

    monkeypatch.setattr(reducer_choice, "time", Clock())
    trials, choice = ReducerTrials(Ranks(), RUNGS, 360), None  # type: ignore[arg-type]
    while choice is None:
        choice = trials.step(step, present, use)
    assert used == [trial.rung for trial in trials.trials] + ["node_shared"]
    assert choice.rung == present == "node_shared"
    assert choice.step_ms == {rung: 1500 * seconds for rung, seconds in cost.items()}


def test_a_short_run_is_done_by_the_first_and_says_why() -> None:
    steps: list[int] = []
    trials = ReducerTrials(Ranks(), RUNGS, 20)  # type: ignore[arg-type]
    choice = trials.step(lambda: steps.append(1), "flat", pytest.fail)
    assert choice == Choice("flat", "20 steps are too few to try flat, node_shared, bucketed", {})
    assert steps == [1]
