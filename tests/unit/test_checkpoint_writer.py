"""The writer beside training: what it writes is the state when it was told, and the run goes on meanwhile."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ddp import checkpoint_writer as module
from ddp.checkpoint import Checkpoint, find_checkpoints, load_checkpoint, save_checkpoint
from tests.unit.runs import MLP, VGG, Make, change

if TYPE_CHECKING:
    from ddp.checkpoint_writer import CheckpointWriter
    from ddp.trainer import Trainer

WAIT_S = 30


class Disk:
    """A disk that writes when it is told to."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.busy = threading.Event()

    def save(self, path: Path, checkpoint: Checkpoint) -> None:
        self.busy.set()
        assert self.free.wait(WAIT_S)
        save_checkpoint(path, checkpoint)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()
    monkeypatch.setattr(module, "save_checkpoint", disk.save)
    yield disk
    disk.free.set()  # so that no thread outlives a failed test


def make_writer(trainer: Trainer, folder: Path) -> CheckpointWriter:
    return module.CheckpointWriter(folder, trainer.config, "data", trainer.model, trainer.gradient.scales)


def test_training_goes_on_while_the_state_of_then_is_written(make_trainer: Make, disk: Disk, tmp_path: Path) -> None:
    trainer = make_trainer(VGG)  # its running statistics are part of the state
    trainer.train_step()
    writer = make_writer(trainer, tmp_path)
    then = trainer.model.state_dict()
    momentum = trainer.model.to_state(trainer.optimizer.state["momentum"])
    to_state = trainer.model.to_state

    def later(flat: np.ndarray) -> dict[str, np.ndarray]:
        """The thread is slow: it looks at the buffers when training has changed them."""
        disk.busy.set()
        assert disk.free.wait(WAIT_S)
        return to_state(flat)

    trainer.model.to_state = later  # type: ignore[method-assign]
    writer.begin(1, trainer.optimizer.state, evaluated=True)
    assert disk.busy.wait(WAIT_S)
    trainer.train_step()  # returns, although nothing is written yet
    assert find_checkpoints(tmp_path) == []
    assert writer.take_written() == []
    disk.free.set()
    writer.finish()
    ((step, path),) = writer.take_written()
    assert (step, [path]) == (1, find_checkpoints(tmp_path))
    saved = load_checkpoint(path)
    assert saved.step == 1
    assert saved.parameters.keys() == then.keys()
    for name in then:
        np.testing.assert_array_equal(saved.parameters[name], then[name])
    for name in momentum:
        np.testing.assert_array_equal(saved.optimizer["momentum"][name], momentum[name])
    trainer.model.to_state = to_state  # type: ignore[method-assign]
    now = trainer.model.state_dict()
    assert not all(np.array_equal(then[name], now[name]) for name in now)


def test_the_next_checkpoint_waits_for_the_one_before(make_trainer: Make, disk: Disk, tmp_path: Path) -> None:
    trainer = make_trainer(MLP)
    writer = make_writer(trainer, tmp_path)
    writer.begin(1, trainer.optimizer.state, evaluated=True)
    assert disk.busy.wait(WAIT_S)
    second = threading.Thread(target=writer.begin, args=(2, trainer.optimizer.state, True))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    assert writer.newest_step == 1
    disk.free.set()
    second.join(WAIT_S)
    writer.finish()
    assert [step for step, _ in writer.take_written()] == [1, 2]
    assert len(find_checkpoints(tmp_path)) == 2


def test_older_checkpoints_are_deleted_when_a_newer_one_is_written(make_trainer: Make, tmp_path: Path) -> None:
    trainer = make_trainer(change(MLP, "checkpoint", keep=2))
    writer = make_writer(trainer, tmp_path)
    for step in range(1, 6):
        writer.begin(step, trainer.optimizer.state, evaluated=True)
    writer.finish()
    assert [path.name for path in find_checkpoints(tmp_path)] == [f"step-0000000{step}.safetensors" for step in (4, 5)]


def test_a_full_disk_is_told_with_the_files_name_and_nothing_more_is_written(
    make_trainer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, checkpoint: Checkpoint) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "save_checkpoint", fail)
    trainer = make_trainer(MLP)
    writer = make_writer(trainer, tmp_path)
    writer.begin(3, trainer.optimizer.state, evaluated=True)
    message = r"step-00000003\.safetensors: cannot be written \(No space left on device\); .*--output\.dir"
    with pytest.raises(OSError, match=message):
        writer.finish()
    monkeypatch.undo()
    writer.begin(4, trainer.optimizer.state, evaluated=True)
    with pytest.raises(OSError, match=message):
        writer.finish()
    assert list(tmp_path.iterdir()) == []


def test_a_fault_of_the_program_is_not_taken_for_the_disks(
    make_trainer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, checkpoint: Checkpoint) -> None:
        raise KeyError("planted")

    monkeypatch.setattr(module, "save_checkpoint", fail)
    trainer = make_trainer(MLP)
    writer = make_writer(trainer, tmp_path)
    writer.begin(3, trainer.optimizer.state, evaluated=True)
    with pytest.raises(KeyError, match="planted"):
        writer.finish()
