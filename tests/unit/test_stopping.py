"""A trainer that is asked to stop: after which step, with which checkpoint, and what the resumed run makes up for."""

from __future__ import annotations

import errno
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ddp import checkpoint_writer
from ddp.checkpoint import find_checkpoints, load_checkpoint
from ddp.comm.failure import Interrupted, UserError
from tests.unit.runs import CNN, MLP, Make, OpenRun, bits, change, records

if TYPE_CHECKING:
    from ddp.trainer import Trainer

EVALUATED = [6, 12, 18]


def ask_in_step(trainer: Trainer, step: int) -> None:
    """As a signal that comes while the gradient of a step is computed."""
    backward = trainer.model.backward

    def planted(*arguments: Any, **options: Any) -> Any:
        if trainer.step + 1 == step:
            trainer.signals.requested = signal.SIGTERM
        return backward(*arguments, **options)

    trainer.model.backward = planted  # type: ignore[method-assign]


@pytest.mark.parametrize("step", [1, 4, 6, 17, 18])
def test_the_step_ends_a_checkpoint_is_written_and_the_resumed_run_ends_with_the_same_bits(
    step: int, make_trainer: Make, open_run: OpenRun, tmp_path: Path
) -> None:
    straight = make_trainer(CNN)
    straight.train()
    first = make_trainer(change(CNN, "checkpoint", keep=0))
    run = open_run(first, tmp_path)
    ask_in_step(first, step)
    with pytest.raises(Interrupted, match=f"interrupted by SIGTERM: checkpoint of step {step} saved"):
        first.train()
    newest = find_checkpoints(run.checkpoints)[-1]
    assert load_checkpoint(newest).step == first.step == step
    assert records(run, "checkpoint")[-1] == records(run, "checkpoint")[-1] | {
        "step": step,
        "path": f"checkpoints/{newest.name}",
    }
    assert records(run, "end") == []

    second = make_trainer(CNN)
    second.resume(newest)
    open_run(second, tmp_path, resuming=True)
    second.train()
    assert bits(second) == bits(straight)
    assert second.evaluation == straight.evaluation
    # Stopped at the end of an epoch, the first run left the evaluation to the second.
    assert [record["step"] for record in records(run, "eval")] == EVALUATED


def test_a_signal_during_evaluation_stops_it(make_trainer: Make, open_run: OpenRun, tmp_path: Path) -> None:
    trainer = make_trainer(MLP)
    run = open_run(trainer, tmp_path)
    gather, batches = trainer.dataset.test.gather, []

    class Test:
        """The test split, on which a signal comes with the first of its two batches."""

        def gather(self, *arguments: Any) -> Any:
            batches.append(arguments)
            trainer.signals.requested = signal.SIGUSR1
            return gather(*arguments)

        def __len__(self) -> int:
            return len(trainer.dataset.test)

    trainer.evaluator.split = Test()  # type: ignore[assignment]
    trainer.evaluator.batch_size = -(-len(trainer.evaluator.mine) // 2)
    assert trainer.evaluator.rounds == 2
    with pytest.raises(Interrupted, match="SIGUSR1: checkpoint of step 6 saved"):
        trainer.train()
    assert len(batches) == 1
    assert records(run, "eval") == []
    (path,) = find_checkpoints(run.checkpoints)
    second = make_trainer(MLP)
    second.resume(path)
    open_run(second, tmp_path, resuming=True)
    second.train()
    assert [record["step"] for record in records(run, "eval")] == EVALUATED


def test_no_second_checkpoint_of_a_step_is_written(
    make_trainer: Make, open_run: OpenRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluation at the very end is stopped, when the last step has its checkpoint."""
    trainer = make_trainer(change(change(MLP, "train", steps=5), "checkpoint", every_steps=5))
    run = open_run(trainer, tmp_path)
    written = []
    save = checkpoint_writer.save_checkpoint
    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", lambda *args: (written.append(args), save(*args)))
    begin = trainer.writer.begin  # type: ignore[union-attr]

    def begin_and_ask(*given: Any, **named: Any) -> None:
        begin(*given, **named)
        trainer.signals.requested = signal.SIGTERM

    monkeypatch.setattr(trainer.writer, "begin", begin_and_ask)
    with pytest.raises(Interrupted, match="checkpoint of step 5 saved"):
        trainer.train()
    assert len(written) == len(find_checkpoints(run.checkpoints)) == 1


def test_a_run_that_is_done_is_not_interrupted(make_trainer: Make, open_run: OpenRun, tmp_path: Path) -> None:
    trainer = make_trainer(change(MLP, "train", evaluate_every=0))
    run = open_run(trainer, tmp_path)
    write = trainer.recovery.finish

    def write_and_ask() -> None:
        trainer.signals.requested = signal.SIGTERM
        write()

    trainer.recovery.finish = write_and_ask  # type: ignore[method-assign]
    trainer.train()
    assert len(records(run, "end")) == 1


@pytest.mark.parametrize("every_steps", [4, 18])
def test_a_checkpoint_that_cannot_be_written_ends_the_run_with_the_users_mistake(
    every_steps: int, make_trainer: Make, open_run: OpenRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the next step; where there is none, at the end."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    trainer = make_trainer(change(MLP, "checkpoint", every_steps=every_steps, every_epochs=0))
    run = open_run(trainer, tmp_path)
    begin = trainer.writer.begin  # type: ignore[union-attr]

    def begin_and_wait(*given: Any, **named: Any) -> None:
        begin(*given, **named)
        trainer.writer._join()  # type: ignore[union-attr]

    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", fail)
    monkeypatch.setattr(trainer.writer, "begin", begin_and_wait)
    with pytest.raises(UserError, match=rf"step-{every_steps:08d}\.safetensors: cannot be written \(No space"):
        trainer.train()
    assert trainer.step == min(every_steps + 1, 18)
    assert not run.model.exists()


def test_with_the_dummy_reducer_the_ranks_agree_when_they_log(
    make_trainer: Make, open_run: OpenRun, tmp_path: Path
) -> None:
    trainer = make_trainer(change(MLP, "comm", reducer="dummy"))
    open_run(trainer, tmp_path)
    ask_in_step(trainer, 2)
    with pytest.raises(Interrupted, match="checkpoint of step 4 saved"):
        trainer.train()
