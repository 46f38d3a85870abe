"""When a run evaluates, saves, compares and logs."""

from __future__ import annotations

from typing import Any

import pytest

from ddp.config import (
    BatchConfig,
    CheckpointConfig,
    CommConfig,
    Config,
    OptimizerConfig,
    OutputConfig,
    ScheduleConfig,
    TrainConfig,
)
from ddp.timetable import Timetable

STEPS_PER_EPOCH = 5


def table(**sections: Any) -> Timetable:
    return Timetable(Config(**sections), STEPS_PER_EPOCH)


def due(is_due: Any, steps: int = 20) -> list[int]:
    """The steps at which something is due that is asked for after every step."""
    return [step for step in range(1, steps + 1) if is_due(step, step - 1)]


@pytest.mark.parametrize(("epochs", "steps", "total"), [(4, 0, 20), (4, 7, 7), (4, 99, 20), (0, 0, 0)])
def test_a_run_ends_after_its_epochs_or_steps(epochs: int, steps: int, total: int) -> None:
    assert table(train=TrainConfig(epochs=epochs, steps=steps)).total_steps == total


def test_an_epoch_is_counted_from_one_to_its_last_step() -> None:
    assert [table().epoch(step) for step in (1, 5, 6, 10, 11)] == [1, 1, 2, 2, 3]


def test_checkpoints_come_by_steps_and_by_epochs() -> None:
    both = table(checkpoint=CheckpointConfig(every_steps=4, every_epochs=2))
    assert due(both.is_checkpoint_due) == [4, 8, 10, 12, 16, 20]
    assert due(table(checkpoint=CheckpointConfig(every_steps=0, every_epochs=0)).is_checkpoint_due) == []


def test_what_falls_between_two_averages_is_made_up_for() -> None:
    local = table(comm=CommConfig(sync_every=3), checkpoint=CheckpointConfig(every_steps=4, every_epochs=0))
    synced = [step for step in range(1, 21) if local.is_synced(step)]
    assert synced == [3, 5, 8, 10, 13, 15, 18, 20]
    pairs = zip([0, *synced], synced, strict=False)
    assert [step for since, step in pairs if local.is_checkpoint_due(step, since)] == [5, 8, 13, 18, 20]


def test_logs_and_comparisons_come_at_the_end_too() -> None:
    run = table(
        train=TrainConfig(epochs=2),
        output=OutputConfig(log_every=4),
        checkpoint=CheckpointConfig(every_epochs=0, every_steps=7),
    )
    assert due(run.is_log_due, 10) == [4, 8, 10]
    assert due(lambda *now: run.is_check_due(3, *now), 10) == [3, 6, 7, 9, 10]
    assert due(lambda *now: run.is_check_due(0, *now), 10) == [7, 10]


def test_evaluations_come_at_the_end_of_epochs() -> None:
    each_second = table(train=TrainConfig(evaluate_every=2))
    assert [step for step in range(1, 21) if each_second.is_evaluation_due(step)] == [10, 20]
    assert not any(table(train=TrainConfig(evaluate_every=0)).is_evaluation_due(step) for step in range(1, 21))


def test_a_run_that_ends_early_has_the_learning_rates_of_the_whole_one() -> None:
    whole = table(schedule=ScheduleConfig(name="cosine"), train=TrainConfig(epochs=4))
    short = table(schedule=ScheduleConfig(name="cosine"), train=TrainConfig(epochs=4, steps=6))
    rates = [whole.learning_rate(step) for step in range(20)]
    assert rates == sorted(rates, reverse=True)
    assert len(set(rates)) == 20
    assert [short.learning_rate(step) for step in range(6)] == rates[:6]


def test_the_rate_is_scaled_with_the_batch_before_the_schedule_begins() -> None:
    scaled = table(
        batch=BatchConfig(size=256),
        optimizer=OptimizerConfig(lr=0.1),
        schedule=ScheduleConfig(base_batch=64, warmup_epochs=2, start_factor=0.25),
        train=TrainConfig(epochs=4),
    )
    rates = [scaled.learning_rate(step) for step in range(20)]
    assert rates[:10] == pytest.approx([0.1 + 0.03 * (step + 1) for step in range(10)])
    assert rates[10:] == [0.4] * 10
