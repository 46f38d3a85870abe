"""What one rank reports stops all of them, at the same place."""

from __future__ import annotations

import errno
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddp import checkpoint_writer
from ddp.checkpoint import find_checkpoints, load_checkpoint
from ddp.comm.agreement import GO_ON, Agreement, StopAgreed
from ddp.comm.failure import Interrupted, UserError
from ddp.comm.world import World
from ddp.config import CheckpointConfig, CommConfig, Config
from ddp.observe.metrics import MetricsLog
from ddp.observe.progress import Progress
from ddp.run_directory import create_run_directory
from ddp.trainer import Trainer
from tests.mpi.test_trainer import MLP, build

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize("odd", ["first", "last"])
@pytest.mark.parametrize("with_steps", [True, False])
def test_all_ranks_see_the_largest_report(odd: str, with_steps: bool, world: World) -> None:
    reporter = 0 if odd == "first" else world.size - 1
    report = GO_ON
    agreement = Agreement(world, with_steps, lambda: report)

    def agree() -> int:
        sums = np.ones(1000)
        with agreement.with_step():
            world.all_reduce(sums)
        assert (sums == world.size).all()
        if not with_steps:
            agreement.now()
        return agreement.value

    assert agree() == GO_ON
    agreement.check()
    report = 10 if world.rank == reporter else GO_ON
    assert agree() == 10
    with pytest.raises(StopAgreed):
        agreement.check()
    report = 15
    assert agree() == 15


def test_any_rank(world: World) -> None:
    assert world.any_rank(world.rank == world.size - 1)
    assert not world.any_rank(False)


def with_run(config: Config, world: World, folder: Path) -> Trainer:
    config = replace(config, output=replace(config.output, dir=str(folder), name="run"))
    trainer = build(config, world)
    run = world.run_on_root(lambda: create_run_directory(config, resume_step=None))
    metrics = MetricsLog(run.metrics if world.is_root else None, time.perf_counter())
    trainer.use_outputs(metrics, Progress(), run if world.is_root else None)
    return trainer


@pytest.mark.parametrize("reducer", ["naive", "flat", "bucketed", "node_shared", "sharded", "dummy"])
def test_a_signal_to_one_rank_stops_all_after_the_same_step(reducer: str, world: World, mpi_tmp_path: Path) -> None:
    """The rank gets it at a step of its own choice, in the middle of it."""
    trainer = with_run(replace(MLP, comm=CommConfig(reducer=reducer)), world, mpi_tmp_path)  # type: ignore[arg-type]
    backward = trainer.model.backward

    def planted(*arguments: Any, **options: Any) -> Any:
        if world.rank == world.size - 1 and trainer.step == 6:
            trainer.signals.requested = signal.SIGUSR1
        return backward(*arguments, **options)

    trainer.model.backward = planted  # type: ignore[method-assign]
    with pytest.raises(Interrupted, match=r"interrupted by SIGUSR1: checkpoint of step \d+ saved"):
        trainer.train()
    steps = world.comm.allgather(trainer.step)
    assert set(steps) == {10 if reducer == "dummy" else 7}  # without communication: when they log
    newest = find_checkpoints(mpi_tmp_path / "run" / "checkpoints")[-1]
    assert load_checkpoint(newest).step == steps[0]
    trainer.metrics.close()


def test_a_signal_to_one_rank_ends_an_evaluation_on_all(world: World, mpi_tmp_path: Path) -> None:
    trainer = with_run(MLP, world, mpi_tmp_path)
    batches = []
    split = trainer.evaluator.split

    class Test:
        def gather(self, *arguments: Any) -> Any:
            batches.append(1)
            if world.rank == 0 and len(batches) == 2:
                trainer.signals.requested = signal.SIGTERM
            return split.gather(*arguments)

        def __len__(self) -> int:
            return len(split)

    trainer.evaluator.split = Test()  # type: ignore[assignment]
    trainer.evaluator.batch_size = 1
    with pytest.raises(Interrupted, match="SIGTERM: checkpoint of step 4 saved"):
        trainer.train()
    # Reported with the third batch, as the second's allreduce was on its way; one rank alone sees it at once.
    assert set(world.comm.allgather(len(batches))) == {2 if world.size == 1 else 3}
    assert trainer.evaluation is None
    trainer.metrics.close()


def test_a_checkpoint_that_cannot_be_written_stops_all_ranks(
    world: World, mpi_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", fail)
    trainer = with_run(replace(MLP, checkpoint=CheckpointConfig(every_steps=2)), world, mpi_tmp_path)
    if trainer.writer is not None:
        begin, join = trainer.writer.begin, trainer.writer._join
        monkeypatch.setattr(trainer.writer, "begin", lambda *given, **named: (begin(*given, **named), join()))
    with pytest.raises(UserError, match=r"step-00000002\.safetensors: cannot be written \(No space") as caught:
        trainer.train()
    assert caught.value.rank == 0
    assert set(world.comm.allgather(trainer.step)) == {3}
    trainer.metrics.close()
