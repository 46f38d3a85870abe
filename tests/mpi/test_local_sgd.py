"""Local SGD: what the ranks do by themselves, and what they then have in common."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ddp.comm.agreement import Agreement
from ddp.comm.failure import Interrupted, NonFiniteError
from ddp.comm.world import World
from ddp.config import BatchConfig, CheckpointConfig, CommConfig, Config, LossConfig, OptimizerConfig, TrainConfig
from ddp.local_sgd import LocalSGD
from ddp.observe.metrics import MetricsLog
from ddp.observe.progress import Progress
from ddp.observe.timers import PhaseTimers
from ddp.run_directory import create_run_directory
from ddp.trainer import Trainer
from tests.mpi.test_trainer import MLP, POLYNOMIAL, bits, build

pytestmark = pytest.mark.mpi


def local(config: Config, sync_every: int, **changes: Any) -> Config:
    return replace(config, comm=CommConfig(sync_every=sync_every), **changes)


def same_on_all_ranks(trainer: Trainer) -> bool:
    """Parameters, momentum and running statistics."""
    return len(set(trainer.world.comm.allgather(bits(trainer)))) == 1


@pytest.mark.parametrize(("sync_every", "reduction"), [(2, "mean"), (3, "sum"), (100, "mean")])
def test_one_rank_computes_the_bits_of_plain_sgd(sync_every: int, reduction: str, alone: World) -> None:
    config = replace(MLP, loss=LossConfig(reduction=reduction), optimizer=OptimizerConfig(lr=0.002))  # type: ignore[arg-type]
    plain = build(replace(config, comm=CommConfig(exact=False)), alone)
    averaged = build(local(config, sync_every), alone)
    plain.train()
    averaged.train()
    assert bits(plain) == bits(averaged)
    assert plain.evaluation == averaged.evaluation


def textbook(trainer: Trainer, steps: int) -> np.ndarray:
    """Local SGD with momentum for a polynomial, in float64: the parameters of all ranks after as many steps."""
    config, size, sampler = trainer.config, trainer.world.size, trainer.sampler
    x = np.vander(trainer.dataset.train.inputs[:, 0].astype(np.float64), 4, increasing=True)
    t = trainer.dataset.train.targets[:, 0].astype(np.float64)
    w = np.tile(trainer.model.parameters.astype(np.float64), (size, 1))
    v, counts = np.zeros_like(w), np.zeros(size)
    for step in range(steps):
        epoch, place = divmod(step, sampler.steps_per_epoch)
        indices = sampler.global_batch(epoch, place)
        for rank in range(size):
            ((where, _, _),) = sampler.micro_batches(len(indices), rank, size, 1)
            mine = indices[where.start : where.stop]
            if len(mine) == 0:
                continue
            counts[rank] += len(mine)
            v[rank] = config.optimizer.momentum * v[rank] + 2 / len(mine) * x[mine].T @ (x[mine] @ w[rank] - t[mine])
            w[rank] -= config.optimizer.lr * v[rank]
        if (place + 1) % config.comm.sync_every == 0 or place + 1 == sampler.steps_per_epoch or step + 1 == steps:
            w[:], v[:] = counts @ w / counts.sum(), counts @ v / counts.sum()
            counts[:] = 0
    return w


@pytest.mark.parametrize("shards", [8, 2, 1])  # with fewer than ranks, some ranks never have a sample
def test_it_is_the_algorithm_of_the_textbook(shards: int, world: World) -> None:
    # Epochs of 5 steps, the last of 2 samples: averages after steps 3, 5, 8, 10, 13 and, the run's last, 14.
    optimizer = OptimizerConfig(lr=0.05, momentum=0.5)
    config = local(POLYNOMIAL, 3, batch=BatchConfig(size=12, shards=shards), optimizer=optimizer)
    trainer = build(replace(config, train=TrainConfig(epochs=3, steps=14)), world)
    start, expected = trainer.model.parameters.copy(), textbook(trainer, 14)
    trainer.train()
    np.testing.assert_allclose(trainer.model.parameters, expected[world.rank], rtol=1e-5)
    assert np.abs(trainer.model.parameters - start).max() > 0.1
    assert same_on_all_ranks(trainer)


def test_nothing_is_sent_between_averages(world: World) -> None:
    trainer = build(local(MLP, 3, batch=BatchConfig(size=25)), world)  # epochs of 4 steps
    for averages in (False, False, True, True, False, False, True, True):
        before = world.activity.last.sequence
        trainer.train_step()
        sent = world.activity.last.sequence - before
        assert (sent > 0) == (averages and world.size > 1)
        assert same_on_all_ranks(trainer) == (averages or world.size == 1)


def test_everything_that_a_step_changes_is_averaged_by_samples(world: World) -> None:
    samples, rank = np.arange(world.size) ** 2, world.rank  # rank 0 has none
    total = max(1, int(samples.sum()))
    parameters, mean = np.float32([rank, 1, -rank]), np.float32([10 * rank])
    momentum, tracked = np.full(2, np.float32(rank + 5)), np.array(7 * rank)
    if rank == 0:
        parameters[1], momentum[0], tracked[...] = np.inf, np.nan, 10**9
    layer = SimpleNamespace(buffers=lambda: {"running_mean": mean, "num_batches_tracked": tracked})
    reports = SimpleNamespace(integers=np.array([1, rank], np.int32))
    gradient: Any = SimpleNamespace(model=SimpleNamespace(parameters=parameters, layers=[layer]), reports=reports)
    update: Any = SimpleNamespace(optimizer=SimpleNamespace(state={"momentum": momentum}))
    local_sgd = LocalSGD(world, gradient, update)
    local_sgd._samples = int(samples[rank])
    assert local_sgd.average(PhaseTimers(), Agreement(world, True, lambda: 0))
    if world.size == 1:
        assert parameters[1] == np.inf  # nobody has taken a step: all stay where they are
        return
    expected = float(samples @ np.arange(world.size)) / total
    np.testing.assert_allclose(parameters, [expected, 1, -expected], rtol=1e-6)
    np.testing.assert_allclose(mean, [10 * expected], rtol=1e-6)
    np.testing.assert_allclose(momentum, [expected + 5] * 2, rtol=1e-6)
    assert int(tracked) == int(7 * samples @ np.arange(world.size)) // total
    assert reports.integers.tolist() == [world.size, sum(range(world.size))]


def plant(trainer: Trainer, rank: int, step: int) -> None:
    """Let a rank's gradient of a step have a NaN."""
    loss_backward = trainer.loss.backward

    def planted() -> np.ndarray:
        dy = loss_backward()
        if (trainer.world.rank, trainer.step) == (rank, step - 1):
            dy[0, 0] = np.nan
        return dy

    trainer.loss.backward = planted  # type: ignore[method-assign]


def test_all_ranks_stop_at_the_average_after_a_gradient_that_is_not_finite(world: World) -> None:
    trainer = build(local(MLP, 3, batch=BatchConfig(size=8)), world)
    plant(trainer, rank=world.size - 1, step=5)
    with pytest.raises(NonFiniteError, match="the gradient of a step after step 3 has a NaN"):
        trainer.train()
    assert set(world.comm.allgather(trainer.step)) == {5}  # the average is a part of the sixth


def test_a_rank_skips_its_gradient_that_is_not_finite(world: World) -> None:
    trainer = build(local(MLP, 3, batch=BatchConfig(size=8), train=TrainConfig(epochs=1, on_nonfinite="skip")), world)
    plant(trainer, rank=world.size - 1, step=5)
    trainer.train()
    assert np.isfinite(trainer.model.parameters).all()
    assert same_on_all_ranks(trainer)


def test_checkpoints_and_logs_wait_for_the_next_average_and_a_resumed_run_goes_on_alike(
    world: World, mpi_tmp_path: Path
) -> None:
    config = local(
        MLP,
        4,
        batch=BatchConfig(size=10),  # epochs of 10 steps: averages after 4, 8, 10, 14, 18, 20, ...
        checkpoint=CheckpointConfig(every_steps=3, every_epochs=0, keep=0),
        output=replace(MLP.output, dir=str(mpi_tmp_path), name="run", log_every=5),
    )
    trainer = build(config, world)
    run = world.run_on_root(lambda: create_run_directory(config, resume_step=None))
    logged: list[int] = []
    trainer.use_outputs(MetricsLog(None, time.perf_counter()), Progress(), run if world.is_root else None)
    write = trainer.metrics.write
    trainer.metrics.write = lambda event, **fields: (  # type: ignore[method-assign]
        logged.append(fields["step"]) if event == "step" else None,
        write(event, **fields),
    )[1]
    trainer.train()
    world.comm.Barrier()
    steps = sorted(int(path.stem[5:]) for path in run.checkpoints.iterdir())
    assert steps == [4, 8, 10, 14, 18, 24, 28, 30]
    assert logged == [8, 10, 18, 20, 28, 30]
    resumed = build(config, world)
    resumed.resume(run.checkpoints / "step-00000014.safetensors")
    resumed.train()
    assert bits(resumed) == bits(trainer)


def test_a_signal_is_heeded_at_the_next_average(world: World) -> None:
    trainer = build(local(MLP, 4, batch=BatchConfig(size=10)), world)
    trainer.agreement.report = lambda: 10 if world.rank == 0 and trainer.step >= 5 else 0
    with pytest.raises(Interrupted):
        trainer.train()
    assert set(world.comm.allgather(trainer.step)) == {8}
    assert same_on_all_ranks(trainer)
