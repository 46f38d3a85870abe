"""Checkpoints of a run, and the run that goes on from one: the same bits as without the interruption."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ddp.checkpoint import CheckpointError, find_checkpoints
from ddp.config import CheckpointConfig, Config, ScheduleConfig
from ddp.run_directory import RunDirectory
from tests.unit.runs import CNN, MLP, VGG, Make, OpenRun, bits, change, records

if TYPE_CHECKING:
    from ddp.trainer import Trainer


def interrupted(config: Config, at: int, make_trainer: Make, open_run: OpenRun, folder: Path) -> Trainer:
    """A run that ends after `at` steps with a checkpoint, and goes on from there in another trainer."""
    first = make_trainer(change(change(config, "train", steps=at), "checkpoint", every_steps=at))
    run = open_run(first, folder)
    first.train()
    second = make_trainer(config)
    second.resume(find_checkpoints(run.checkpoints)[-1])
    assert (second.step, bits(second)) == (at, bits(first))
    open_run(second, folder, resuming=True)
    second.train()
    return second


@pytest.mark.parametrize("at", [1, 4, 6, 13])
@pytest.mark.parametrize("config", [MLP, CNN], ids=["mlp", "mnist_cnn"])
def test_an_interrupted_run_ends_with_the_same_bits(
    config: Config, at: int, make_trainer: Make, open_run: OpenRun, tmp_path: Path
) -> None:
    config = dataclasses.replace(config, schedule=ScheduleConfig(name="cosine", warmup_epochs=0.5))
    straight = make_trainer(config)
    straight.train()
    resumed = interrupted(config, at, make_trainer, open_run, tmp_path)
    assert resumed.step == straight.step == 18
    assert bits(resumed) == bits(straight)
    assert resumed.evaluation == straight.evaluation


def test_running_statistics_are_resumed(make_trainer: Make, open_run: OpenRun, tmp_path: Path) -> None:
    straight = make_trainer(VGG)
    straight.train()
    resumed = interrupted(VGG, 3, make_trainer, open_run, tmp_path)
    assert bits(resumed) == bits(straight)
    assert resumed.model.state_dict()["1.num_batches_tracked"] == resumed.step == 4
    assert resumed.evaluation == straight.evaluation


def test_plain_sgd_resumes_too(make_trainer: Make, open_run: OpenRun, tmp_path: Path) -> None:
    config = change(MLP, "optimizer", momentum=0.0)
    straight = make_trainer(config)
    straight.train()
    assert bits(interrupted(config, 5, make_trainer, open_run, tmp_path)) == bits(straight)


@pytest.mark.parametrize("name", ["lars", "adadelta", "adam", "adamw", "lamb"])
def test_every_optimizer_resumes(name: str, make_trainer: Make, open_run: OpenRun, tmp_path: Path) -> None:
    config = change(MLP, "optimizer", name=name, lr=0.01)
    straight = make_trainer(config)
    straight.train()
    assert bits(interrupted(config, 5, make_trainer, open_run, tmp_path)) == bits(straight)


def test_a_resumed_run_appends_to_its_records(make_trainer: Make, open_run: OpenRun, tmp_path: Path) -> None:
    interrupted(MLP, 4, make_trainer, open_run, tmp_path)
    run = RunDirectory(tmp_path / "run")
    assert [record["step"] for record in records(run, "step")] == [4, 8, 12, 16, 18]
    assert len(records(run, "end")) == 2


def test_another_run_is_refused_and_nothing_changes(make_trainer: Make, open_run: OpenRun, tmp_path: Path) -> None:
    first = make_trainer(change(MLP, "train", epochs=1))
    run = open_run(first, tmp_path)
    first.train()
    (path,) = find_checkpoints(run.checkpoints)
    other = make_trainer(dataclasses.replace(MLP, seed=4))
    before = bits(other)
    with pytest.raises(CheckpointError, match=r"seed = 4: .* was made with 3"):
        other.resume(path)
    assert (bits(other), other.step) == (before, 0)


@pytest.mark.parametrize(
    ("checkpoint", "steps"),
    [
        (CheckpointConfig(), [12, 18]),
        (CheckpointConfig(keep=0), [6, 12, 18]),
        (CheckpointConfig(every_epochs=2, keep=0), [12]),
        (CheckpointConfig(every_epochs=0, every_steps=5, keep=0), [5, 10, 15]),
        (CheckpointConfig(every_epochs=1, every_steps=4, keep=0), [4, 6, 8, 12, 16, 18]),
        (CheckpointConfig(every_epochs=0), []),
    ],
)
def test_checkpoints_are_written_when_due(
    checkpoint: CheckpointConfig, steps: list[int], make_trainer: Make, open_run: OpenRun, tmp_path: Path
) -> None:
    trainer = make_trainer(dataclasses.replace(MLP, checkpoint=checkpoint))
    run = open_run(trainer, tmp_path)
    trainer.train()
    assert [path.name for path in find_checkpoints(run.checkpoints)] == [f"step-{s:08d}.safetensors" for s in steps]
    written = records(run, "checkpoint")
    assert [record["step"] for record in written][-len(steps) or 99 :] == steps
    for record in written[-len(steps) or 99 :]:
        assert (run.path / record["path"]).exists()
