"""`--mode accuracy`: what is trained, with a trainer that only writes what a test wants, and what is made of it."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ddp.command_line import parse
from ddp.schedule import full_learning_rate
from launch.errors import UsageError
from launch.scaling import accuracy_runs
from launch.scaling.accuracy import (
    Result,
    Wanted,
    finding,
    learning_rate,
    read_results,
    wanted_of,
    warmup_epochs,
    write_wanted,
)
from launch.scaling.accuracy_report import Batch, accuracy_section, sentences
from launch.scaling.accuracy_runs import run_accuracy
from launch.scaling.noise import typical
from tests.unit.launch.scaling.accuracy_trainings import (
    CONFIG,
    EPOCHS,
    SAMPLES,
    WANTED,
    Shown,
    Trainer,
    made_session,
    run,
    study,
)


def test_the_learning_rate_follows_the_batch_from_the_configured_one() -> None:
    assert [learning_rate(batch, CONFIG) for batch in (32, 64, 256)] == pytest.approx([0.05, 0.1, 0.4])
    summed = CONFIG | {"loss": {"reduction": "sum"}}
    assert learning_rate(256, summed) == 0.1
    by_root = scheduled(batch_scaling="sqrt")
    assert [learning_rate(batch, by_root) for batch in (16, 64, 256)] == pytest.approx([0.05, 0.1, 0.2])
    assert [learning_rate(batch, scheduled(base_batch=16)) for batch in (16, 64)] == pytest.approx([0.1, 0.4])
    old = CONFIG | {"schedule": {"name": "constant", "warmup_epochs": 0.0}}  # from before there was a choice
    assert [training.lr for training in finding(WANTED, old)] == [training.lr for training in finding(WANTED, CONFIG)]


def scheduled(**values: Any) -> dict[str, Any]:
    return CONFIG | {"schedule": CONFIG["schedule"] | values}


@pytest.mark.parametrize("values", [{}, {"batch_scaling": "sqrt"}, {"base_batch": 16}])
def test_the_trainer_is_left_to_scale_the_rate_and_comes_to_the_same(values: dict[str, Any]) -> None:
    for training in finding(WANTED, scheduled(**values)):
        given = ["--optimizer.lr", "0.1", "--schedule.batch_scaling", values.get("batch_scaling", "linear")]
        config = parse([*given, *training.arguments(10)]).config
        assert full_learning_rate(config) == pytest.approx(training.lr)
        assert config.batch.size == training.batch


def test_only_larger_batches_are_warmed_up_more_than_configured() -> None:
    assert [warmup_epochs(batch, CONFIG) for batch in (32, 64, 256)] == [0, 0, 1]
    assert [warmup_epochs(batch, scheduled(warmup_epochs=3.0)) for batch in (64, 256)] == [3, 3]
    assert [warmup_epochs(batch, scheduled(name="one_cycle")) for batch in (64, 256)] == [0, 0]


def test_the_epochs_are_found_on_the_most_ranks_with_a_seed_a_round() -> None:
    trainings = finding(WANTED, CONFIG)
    assert [(each.seed, each.batch) for each in trainings] == [
        (seed, batch) for seed in (7, 8, 9) for batch in (64, 256, 1024)
    ]
    assert {each.ranks for each in trainings} == {2}
    few = finding(replace(WANTED, batches=(4,), ranks=(1, 3)), CONFIG)
    assert few[0].shards == 4  # not more than samples


def test_what_cannot_be_measured_is_refused() -> None:
    assert wanted_of(study(), 0.9, [256, 64]) == Wanted(0.9, (64, 256), 64, (1, 2), 1, 5)
    with pytest.raises(UsageError, match=r"--batches 1: less than a sample for each of 2 ranks"):
        wanted_of(study(), 0.9, [64, 1])
    with pytest.raises(UsageError, match="polynomial"):
        wanted_of(replace(study(), config=CONFIG | {"model": {"name": "polynomial"}}), 0.9, [64])


def test_trainings_end_at_the_target_and_the_first_seed_is_repeated_on_the_other_ranks(
    tmp_path: Path, trainer: Trainer
) -> None:
    failed, said = run(tmp_path, trainer)
    assert failed == []
    results = read_results(tmp_path)
    assert [result.training.name for result in results] == trainer.names[1:]
    assert len(results) == 9 + 3
    assert [result.training.seed for result in results if result.training.ranks == 1] == [7, 7, 7]
    for result in results:
        batch, seed = result.training.batch, result.training.seed
        epochs = EPOCHS[batch] + seed - 7
        assert result.epochs_to(0.9) == (epochs if epochs <= 18 else None)
        assert len(result.accuracies) == min(epochs, 18)
        assert result.steps_per_epoch == -(-SAMPLES // batch)
        if batch == 64:
            assert result.step_ms == pytest.approx(8.0 / result.training.ranks)  # without the first record
    assert said[0] == "training 1 of 12: batch 64, 2 ranks, seed 7: 90.0% after 4 epochs of 0.064 s"
    assert "training 6 of 12: batch 1024, 1 rank, seed 7: not 90.0% in 18 epochs, at best 1.80%" in said


def test_a_study_goes_on_where_it_stopped_and_only_as_the_same(tmp_path: Path, trainer: Trainer) -> None:
    run(tmp_path, trainer)
    path = tmp_path / "accuracy.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:4]) + lines[4][:20])
    again = Trainer(EPOCHS)
    run(tmp_path, again)
    assert again.names == trainer.names[5:]
    assert len(read_results(tmp_path)) == len(lines)
    with pytest.raises(UsageError, match=r"batches = 64,256,1024, not 64: give that, or another --output"):
        run(tmp_path, again, replace(WANTED, batches=(64,)))


def test_a_study_takes_more_repeats_and_anything_else_before_a_training_is_done(
    tmp_path: Path, trainer: Trainer
) -> None:
    write_wanted(tmp_path, replace(WANTED, target=0.8))
    run(tmp_path, trainer)
    again = Trainer(EPOCHS)
    run(tmp_path, again, replace(WANTED, repeats=4))
    assert again.names == [f"accuracy-batch-{batch}-ranks-2-threads-1-seed-10" for batch in (64, 256, 1024)]
    assert len(again.names) == len(read_results(tmp_path)) - 12


def test_a_training_that_fails_is_said_and_the_others_are_made(tmp_path: Path, trainer: Trainer) -> None:
    name = "accuracy-batch-256-ranks-2-threads-1-seed-7"
    trainer.codes = {name: 4}
    failed, said = run(tmp_path, trainer)
    assert [training.name for training in failed] == [name]
    assert any("exit code 4" in line and "the last line" in line for line in said)
    assert len(read_results(tmp_path)) == 12 - 2  # the failed one, and the one that would confirm it


@pytest.mark.parametrize("code", [75, 143])
def test_a_training_that_was_about_to_end_when_it_was_asked_to_has_reached_the_target(
    tmp_path: Path, trainer: Trainer, code: int
) -> None:
    trainer.stopped = code
    assert run(tmp_path, trainer)[0] == []
    assert len(read_results(tmp_path)) == 12


@pytest.mark.parametrize("code", [75, 143])
def test_a_training_that_others_ended_before_the_target_has_failed(tmp_path: Path, trainer: Trainer, code: int) -> None:
    name = "accuracy-batch-256-ranks-2-threads-1-seed-7"
    trainer.codes = {name: code}
    failed, said = run(tmp_path, trainer)
    assert [training.name for training in failed] == [name]
    assert any("interrupted" in line for line in said)


def test_what_is_shown_meanwhile(tmp_path: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count(step=10.0)
    monkeypatch.setattr(accuracy_runs, "time", SimpleNamespace(**vars(time) | {"monotonic": lambda: next(seconds)}))
    session, show = made_session(tmp_path, trainer), Shown()
    wanted = replace(WANTED, batches=(64, 256), repeats=1)
    run_accuracy(session, wanted, SAMPLES, show)
    assert [text for text, _ in show.begun if "so far" not in text] == [
        f"batch {batch}, {ranks}, seed 7" for batch in (64, 256) for ranks in ("2 ranks", "1 rank")
    ]
    assert "batch 64, 2 ranks, seed 7: epoch 3 of at most 18, 0.3%, 40 s so far" in [text for text, _ in show.begun]
    assert {left_s for text, left_s in show.begun if text.startswith("batch 64, 2")} == {0}  # nothing is known
    walls = [result.wall_s for result in read_results(tmp_path)]
    assert all(wall_s > 0 for wall_s in walls)
    lefts = [left_s for text, left_s in show.begun if text == "batch 256, 1 rank, seed 7"]
    assert lefts == [walls[2]]  # as the same batch took on other ranks
    assert ("batch 256, 1 rank, seed 7: epoch 1 of at most 5, 0.1%, 20 s so far", walls[2] - 20) in show.begun


def test_a_training_takes_its_time_unless_the_user_gives_a_limit(tmp_path: Path, trainer: Trainer) -> None:
    run(tmp_path / "own", trainer)
    assert min(trainer.limits_s) >= 86400
    trainer.limits_s.clear()
    run(tmp_path / "given", trainer, limit_s=50)
    assert trainer.limits_s == {50}


def test_a_mistake_of_the_users_ends_all(tmp_path: Path, trainer: Trainer) -> None:
    trainer.codes = {"accuracy-batch-64-ranks-2-threads-1-seed-7": 2}
    with pytest.raises(UsageError, match="lr = 9: use less"):
        run(tmp_path, trainer)


def test_the_report_names_the_fastest_batch_and_where_the_rule_breaks(tmp_path: Path, trainer: Trainer) -> None:
    assert accuracy_section(tmp_path) == ""
    run(tmp_path, trainer)
    text = accuracy_section(tmp_path)
    # Steps take 4 ms on 2 ranks whatever the batch; the medians over the seeds are 5 and 6 epochs.
    assert "shortest time to a test accuracy of 90.0% is **96 ms**: batch 256 on 2 ranks, 6 epochs of 16 ms." in text
    assert "holds up to batch 256 and **breaks at batch 1024**: it does not reach 90.0%" in text
    assert "against batch 64, which needs 5 epochs" in text
    assert "On 1, 2 ranks accuracy and loss were the same to the last bit" in text
    assert (
        "noise scale in the second half of training with batch 64 is about **1,200 samples**: a batch of so many"
        in text
    )
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")]
    assert [[cell.strip() for cell in row] for row in rows[2:5]] == [
        ["64", "0.1", "0", "16", "5 (4 to 6)", "3 of 3", "91.00%", "1,200", "reference"],
        ["256", "0.4", "1", "4", "6 (5 to 7)", "3 of 3", "91.00%", "310", "holds"],
        ["1024", "1.6", "1", "1", "not reached", "0 of 3", "1.80%", "-", "**breaks**"],
    ]
    assert ["64", "1", "2", "8 ms", "128 ms", "640 ms", "1.00 times", "yes"] in [
        [cell.strip() for cell in row] for row in rows
    ]


def test_doubtful_times_are_marked_and_not_the_best_as_long_as_there_are_others(
    tmp_path: Path, trainer: Trainer
) -> None:
    run(tmp_path / "some", trainer, replace(WANTED, ranks=(1, 2, 8)))
    text = accuracy_section(tmp_path / "some")
    cells = [[cell.strip() for cell in line.split("|")[1:4]] for line in text.splitlines() if line.startswith("| 256 ")]
    assert cells[1:] == [["256", "1", "2"], ["256", "2", "2"], ["256", "8 (a)", "2"]]
    where = "P = 8 (batch 64, 256, 1024): 8 ranks x 1 thread on node1 have 2 cores for 8 threads"
    note = f"- (a) doubtful, oversubscribed: {where}."
    assert text.count(note) == text.count("(a) doubtful") == 1
    assert "is **96 ms**: batch 256 on 2 ranks, 6 epochs of 16 ms. The linear" in text  # those on 8 took 24 ms
    trainer.affinity = [[0]]
    run(tmp_path / "all", trainer, replace(WANTED, ranks=(2,)))
    text = accuracy_section(tmp_path / "all")
    assert "batch 256 on 2 ranks, 6 epochs of 16 ms. But that is doubtful: oversubscribed. The linear" in text


def test_what_others_do_before_a_training_is_told(
    tmp_path: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy_runs, "busy_cores", lambda: 1.5)
    run(tmp_path, trainer)
    where = "P = 1 (batch 64, 256, 1024), 2 (batch 64, 256, 1024)"
    assert f"doubtful, busy: {where}: others kept 1.5 cores at work just before it." in accuracy_section(tmp_path)


def test_the_report_tells_that_ranks_change_what_is_learned(tmp_path: Path, trainer: Trainer) -> None:
    trainer.noise = lambda ranks: 1e-9 * ranks
    run(tmp_path, trainer)
    assert any("Ranks change what is learned" in sentence for sentence in sentences(tmp_path))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], None),
        ([None, None], None),
        ([None, 9.0, 10.0, 30.0, 20.0], 25.0),
        ([None, None, None, None, 5.0, 6.0], 6.0),
        ([5.0, 6.0, None, 300.0, 100.0], 300.0),
        ([5.0, 6.0, None, None], None),
    ],
)
def test_the_noise_scale_of_a_training_is_the_median_of_its_second_half(values: list[Any], expected: Any) -> None:
    others = [{"event": "step"}]
    assert typical([*others, *({"noise_scale": value} for value in values)]) == expected


def test_noise_is_measured_where_the_trainer_can(tmp_path: Path, trainer: Trainer) -> None:
    assert {training.noise_every for training in finding(WANTED, CONFIG)} == {25}
    for values in ({"sync_every": 2}, {"reducer": "dummy"}, {"compression": "bf16"}):
        without = CONFIG | {"comm": CONFIG["comm"] | values}
        assert {training.noise_every for training in finding(WANTED, without)} == {0}
    assert finding(replace(WANTED, batches=(1,), ranks=(1,)), CONFIG)[0].noise_every == 0
    trainer.noise_scales = {}
    run(tmp_path, trainer)
    assert not any("noise scale" in sentence for sentence in sentences(tmp_path))
    assert {result.noise_scale for result in read_results(tmp_path)} == {None}


def test_the_noise_scale_of_a_batch_counts_a_seed_that_noise_hid() -> None:
    def batch(every: int, *scales: float | None) -> Batch:
        training = replace(finding(WANTED, CONFIG)[0], noise_every=every)
        return Batch(64, tuple(Result(training, "", 1, (), (), 1.0, True, noise_scale=scale) for scale in scales), 0.9)

    assert batch(25, 30.0, None, 10.0).noise_scale == 30.0
    assert batch(25, 30.0, None, None).noise_scale is None
    assert batch(0, 30.0, None, None).noise_scale == 30.0  # of those that measured
    assert batch(0, None).noise_scale is None


def test_the_report_says_what_the_times_include(tmp_path: Path, trainer: Trainer) -> None:
    run(tmp_path / "with", trainer, replace(WANTED, repeats=1))
    assert "but with what measures the gradient noise scale, in one step of 25." in accuracy_section(tmp_path / "with")
    run(tmp_path / "without", Trainer({1: 1}), replace(WANTED, batches=(1,), ranks=(1,), repeats=1))
    assert "start, compilation and evaluations." in accuracy_section(tmp_path / "without")


def test_one_epoch_is_told_as_one(tmp_path: Path, trainer: Trainer) -> None:
    trainer.epochs = {64: 1, 256: 3}
    run(tmp_path, trainer, replace(WANTED, batches=(64, 256), repeats=1))
    assert "against batch 64, which needs 1 epoch." in sentences(tmp_path)[1]


def test_the_report_tells_that_no_batch_reached_the_target(tmp_path: Path) -> None:
    run(tmp_path, Trainer(dict.fromkeys(EPOCHS, 99)))
    assert sentences(tmp_path)[0].startswith("**No batch reached 90.0%**; the best test accuracy was 1.80%")


def test_a_training_that_is_not_finite_is_a_result(tmp_path: Path, trainer: Trainer) -> None:
    trainer.codes = {f"accuracy-batch-1024-ranks-2-threads-1-seed-{seed}": 3 for seed in (7, 8, 9)}
    failed, said = run(tmp_path, trainer)
    assert failed == []
    # The one that would confirm it is no longer planned.
    assert "training 5 of 11: batch 1024, 2 ranks, seed 7: a loss or a gradient was not finite" in said
    assert "**breaks at batch 1024**" in accuracy_section(tmp_path)


def test_the_median_counts_a_seed_that_did_not_reach_the_target() -> None:
    training = finding(WANTED, CONFIG)[0]

    def result(epochs: int) -> Result:
        return Result(training, "", 1, tuple(float(epoch >= epochs) for epoch in range(1, 11)), (0.0,) * 10, 1.0, True)

    assert Batch(64, (result(3), result(99), result(5)), 0.9).epochs == 5
    assert Batch(64, (result(3), result(99), result(99)), 0.9).epochs is None
    assert Batch(64, (result(3), result(99)), 0.9).epochs is None
