"""Training with any number of ranks computes what one rank computes: the same bits, by `comm.exact`."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddp.comm.failure import NonFiniteError
from ddp.comm.world import World
from ddp.config import (
    BatchConfig,
    CheckpointConfig,
    CommConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from ddp.data import load_dataset
from ddp.evaluation import Evaluation
from ddp.kernels.jit import exclusive_cache
from ddp.kernels.types import Float32
from ddp.observe.metrics import MetricsLog
from ddp.observe.progress import Progress
from ddp.run_directory import create_run_directory
from ddp.trainer import Trainer

pytestmark = pytest.mark.mpi

BOUND = 1e-6

MLP = Config(
    model=ModelConfig(name="mlp", hidden=(32, 16), bias=True),
    data=DataConfig(name="synthetic", shape=(1, 8, 8), samples=100, classes=5),
    batch=BatchConfig(size=32, shards=8),  # the last batch of an epoch has 4 samples: half the shards are empty
    optimizer=OptimizerConfig(lr=0.05, momentum=0.9, weight_decay=1e-3),
    train=TrainConfig(epochs=3),
)
CNN = replace(
    MLP,
    model=ModelConfig(name="mnist_cnn", dropout=True),
    data=DataConfig(name="synthetic", shape=(2, 9, 10), samples=45, classes=4),
    batch=BatchConfig(size=20, shards=8),
    train=TrainConfig(epochs=2),
)
POLYNOMIAL = replace(
    MLP,
    model=ModelConfig(name="polynomial", degree=3),
    data=DataConfig(name="polynomial", coefficients=(1.0, -2.0, 3.0), samples=50),
    batch=BatchConfig(size=20, shards=8),
)
# Batch normalisation over shards of 1 and 2 samples; the last batch of an epoch has 3 samples for 5 shards.
VGG = replace(
    MLP,
    model=ModelConfig(name="vgg"),
    data=DataConfig(name="synthetic", shape=(1, 32, 32), samples=11, classes=4),
    batch=BatchConfig(size=8, shards=5),
    train=TrainConfig(epochs=1),
)
AUGMENTED = replace(MLP, data=replace(MLP.data, crop_padding=2, flip=True, rotation=10.0))
CASES = {
    "mlp": MLP,
    "mlp naive": replace(MLP, comm=CommConfig(reducer="naive")),
    "mnist_cnn with dropout": CNN,
    "polynomial": POLYNOMIAL,
    "vgg": VGG,
    "vgg naive": replace(VGG, comm=CommConfig(reducer="naive")),
    "mlp bucketed": replace(MLP, comm=CommConfig(reducer="bucketed", bucket_mb=0.001)),
    "mnist_cnn bucketed": replace(CNN, comm=CommConfig(reducer="bucketed")),
    "vgg bucketed": replace(VGG, comm=CommConfig(reducer="bucketed")),
    "mlp node_shared": replace(MLP, comm=CommConfig(reducer="node_shared")),
    "mnist_cnn node_shared": replace(CNN, comm=CommConfig(reducer="node_shared")),
    "vgg node_shared": replace(VGG, comm=CommConfig(reducer="node_shared")),
    "mlp sharded": replace(MLP, comm=CommConfig(reducer="sharded")),
    "mnist_cnn sharded": replace(CNN, comm=CommConfig(reducer="sharded")),
    "vgg sharded": replace(VGG, comm=CommConfig(reducer="sharded")),
    "mlp augmented": AUGMENTED,
    "mlp augmented, accumulated": replace(AUGMENTED, batch=replace(MLP.batch, accumulation=3)),
    "mlp accumulated": replace(MLP, batch=replace(MLP.batch, accumulation=3)),
    "mnist_cnn accumulated, bucketed": replace(
        CNN, batch=replace(CNN.batch, accumulation=8), comm=CommConfig(reducer="bucketed")
    ),
    "vgg accumulated, node_shared": replace(
        VGG, batch=replace(VGG.batch, accumulation=2), comm=CommConfig(reducer="node_shared")
    ),
    **{
        f"mlp clipped, {reducer}": replace(
            MLP, optimizer=replace(MLP.optimizer, clip_norm=0.3), comm=CommConfig(reducer=reducer)
        )
        for reducer in ("flat", "node_shared", "sharded")
    },
    "one shard, so all ranks but one idle": replace(MLP, batch=BatchConfig(size=32, shards=1)),
    "shards that no number of ranks above 1 divides": replace(MLP, batch=BatchConfig(size=33, shards=7)),
}


def build(config: Config, world: World) -> Trainer:
    dataset = load_dataset(config.data, config.seed, world.share_on_node)
    trainer = Trainer(config, world, dataset)
    with exclusive_cache():
        trainer.warm_up()
    return trainer


def bits(trainer: Trainer) -> str:
    """SHA-256 of parameters, running statistics, momentum and the scales of the gradient sums, for 74 MB are slow."""
    arrays = [
        *trainer.model.state_dict().values(),
        *trainer.update.state().values(),
        trainer.gradient.scales.exponents,
    ]
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def difference(trainer: Trainer, reference: Trainer) -> float:
    """Relative, in the Euclidean norm over all parameters, or over the buffers of batch normalisation if larger."""
    pairs = [(trainer.model.parameters, reference.model.parameters)]
    a, b = trainer.model.state_dict(), reference.model.state_dict()
    assert a.keys() == b.keys()
    pairs += [(a[name], b[name]) for name in a.keys() - trainer.model.specs.keys()]
    return max(float(np.linalg.norm(x.astype(np.float64) - y) / np.linalg.norm(y.astype(np.float64))) for x, y in pairs)


@dataclass(frozen=True)
class Reference:
    """What a run gives on one rank."""

    steps: int
    bits: str
    initial: Float32
    parameters: Float32
    evaluation: Evaluation | None


@cache
def train_alone(config: Config, alone: World) -> Reference:
    trainer = build(config, alone)
    initial = trainer.model.parameters.copy()
    trainer.train()
    return Reference(trainer.step, bits(trainer), initial, trainer.model.parameters.copy(), trainer.evaluation)


@pytest.mark.parametrize("config", CASES.values(), ids=CASES.keys())
def test_any_number_of_ranks_trains_as_one(config: Config, world: World, alone: World) -> None:
    """By any reducer, in any number of micro-batches, what one rank computes with one Allreduce of nothing."""
    simple = replace(config, comm=CommConfig(reducer="flat"), batch=replace(config.batch, accumulation=1))
    trainer, reference = build(config, world), train_alone(simple, alone)
    trainer.train()
    assert trainer.step == reference.steps == config.train.epochs * trainer.steps_per_epoch
    assert bits(trainer) == reference.bits
    change = np.linalg.norm(reference.parameters - reference.initial)
    assert change > 1e-2 * np.linalg.norm(reference.initial)
    assert trainer.evaluation is not None
    assert trainer.evaluation == reference.evaluation
    assert len(set(world.comm.allgather(bits(trainer)))) == 1


@pytest.mark.parametrize("config", [MLP, CNN, VGG], ids=["mlp", "mnist_cnn with dropout", "vgg"])
def test_micro_batches_add_up_to_the_same_bits(config: Config, world: World) -> None:
    whole, cut = build(config, world), build(replace(config, batch=replace(config.batch, accumulation=4)), world)
    for _ in range(whole.total_steps):
        whole.train_step()
        cut.train_step()
    assert bits(cut) == bits(whole)
    assert cut.loader.buffer.inputs.nbytes < whole.loader.buffer.inputs.nbytes or world.size > 2


def test_the_reducers_that_are_tried_change_no_bit(world: World, alone: World, mpi_tmp_path: Path) -> None:
    config = replace(MLP, train=TrainConfig(epochs=64), output=replace(MLP.output, dir=str(mpi_tmp_path), name="run"))
    trainer, reference = build(config, world), build(config, alone)
    run = world.run_on_root(lambda: create_run_directory(config, resume_step=None))
    metrics = MetricsLog(run.metrics if world.is_root else None, time.perf_counter())
    trainer.use_outputs(metrics, Progress(), run if world.is_root else None)
    used = set()
    backward = trainer.model.backward

    def watched(*given: Any, **named: Any) -> Any:
        used.add(type(trainer.reducer).__name__)
        return backward(*given, **named)

    trainer.model.backward = watched  # type: ignore[method-assign]
    trainer.train()
    reference.train()
    assert bits(trainer) == bits(reference)
    everything = {"FlatReducer", "NodeSharedReducer", "BucketedReducer", "ShardedReducer"}
    assert used == (everything if world.size > 1 else {"FlatReducer"})
    assert len(set(world.comm.allgather(trainer.update.rung))) == 1
    metrics.close()
    if world.is_root:
        records = [json.loads(line) for line in run.metrics.read_text().splitlines()]
        found = [(record["rung"], set(record["step_ms"])) for record in records if record["event"] == "reducer"]
        rungs = {"flat", "node_shared", "bucketed", "sharded"}
        assert found == ([(trainer.update.rung, rungs)] if world.size > 1 else [])


def test_the_rank_that_all_wait_for_is_named(world: World, mpi_tmp_path: Path) -> None:
    config = replace(MLP, output=replace(MLP.output, dir=str(mpi_tmp_path), name="run", log_every=3))
    trainer = build(config, world)
    run = world.run_on_root(lambda: create_run_directory(config, resume_step=None))
    metrics = MetricsLog(run.metrics if world.is_root else None, time.perf_counter())
    trainer.use_outputs(metrics, Progress(), run if world.is_root else None)
    forward, slow = trainer.model.forward, world.size - 1

    def late(*given: Any, **named: Any) -> Any:
        if world.rank == slow:
            time.sleep(0.05)
        return forward(*given, **named)

    trainer.model.forward = late  # type: ignore[method-assign]
    trainer.train()
    metrics.close()
    records = [json.loads(line) for line in run.metrics.read_text().splitlines()] if world.is_root else []
    steps = [record for record in records if record["event"] == "step"]
    assert {record["slowest_rank"] for record in steps} <= {slow}
    # The others wait as long as it sleeps; what the collective itself takes is told apart.
    assert all(record["wait_ms"] > record["comm_exposed_ms"] or world.size == 1 for record in steps)
    found = [record["text"] for record in records if record["event"] == "straggler"]
    if world.is_root and world.size > 1:
        assert found[0].startswith(f"rank {slow} on {world.host} is ")
        assert found[0].endswith(" % slower, 3 reports in a row")
    else:
        assert found == []


def test_clipping_learns_as_well_as_plain_sgd(world: World) -> None:
    """At a rate of learning at which about every second gradient is clipped."""
    config = replace(MLP, data=replace(MLP.data, samples=400), train=TrainConfig(epochs=6))
    clipped = build(replace(config, optimizer=replace(config.optimizer, clip_norm=0.3)), world)
    plain = build(config, world)
    norms = []
    for _ in range(clipped.total_steps):
        clipped.train_step()
        plain.train_step()
        norms.append(clipped.grad_norm)
    assert 0.1 < np.mean(np.array(norms) > 0.3) < 0.9
    first, second = clipped.evaluate(), plain.evaluate()
    assert first.accuracy is not None
    assert second.accuracy is not None
    assert first.accuracy >= second.accuracy - 0.02 > 0.9


def test_a_clipped_gradient_has_the_largest_norm_that_is_allowed(world: World) -> None:
    """A step of plain SGD from the same parameters goes the same way, and further."""
    optimizer = OptimizerConfig(lr=0.1, momentum=0.0)
    plain, clipped = (build(replace(MLP, optimizer=replace(optimizer, clip_norm=c)), world) for c in (0.0, 0.25))
    start = plain.model.parameters.copy()
    plain.train_step()
    clipped.train_step()
    assert clipped.grad_norm == plain.grad_norm > 0.25
    shorter, longer = clipped.model.parameters - start, plain.model.parameters - start
    assert np.linalg.norm(shorter) == pytest.approx(0.1 * 0.25, rel=1e-4)
    np.testing.assert_allclose(shorter, longer * (0.25 / plain.grad_norm), atol=1e-7)


@pytest.mark.parametrize("reducer", ["naive", "flat", "bucketed", "node_shared", "sharded"])
def test_float32_sums_agree_but_for_rounding(reducer: str, world: World, alone: World) -> None:
    config = replace(MLP, comm=CommConfig(exact=False, reducer=reducer), train=TrainConfig(epochs=1))
    trainer, reference = build(config, world), build(config, alone)
    trainer.train()
    reference.train()
    assert difference(trainer, reference) <= BOUND
    assert (bits(trainer) == bits(reference)) == (world.size == 1)


def test_without_a_reduction_the_ranks_diverge(world: World) -> None:
    trainer = build(replace(MLP, comm=CommConfig(reducer="dummy")), world)
    trainer.train_step()
    assert len(set(world.comm.allgather(trainer.model.parameters.tobytes()))) == world.size


def test_gradient_descent_is_that_of_the_textbook(world: World) -> None:
    steps, lr = 25, 0.2
    config = replace(
        POLYNOMIAL,
        batch=BatchConfig(size=50, shards=8),
        optimizer=OptimizerConfig(lr=lr, momentum=0.0),
        train=TrainConfig(epochs=steps),
    )
    trainer = build(config, world)
    w = trainer.model.parameters.astype(np.float64)
    trainer.train()
    x = np.vander(trainer.dataset.train.inputs[:, 0].astype(np.float64), 4, increasing=True)
    t = trainer.dataset.train.targets[:, 0].astype(np.float64)
    for _ in range(steps):
        w -= lr * 2 / len(t) * x.T @ (x @ w - t)
    np.testing.assert_allclose(trainer.model.parameters, w, rtol=1e-5)


@pytest.mark.parametrize(
    "config",
    [MLP, CNN, replace(VGG, train=TrainConfig(epochs=2))],
    ids=["mlp", "mnist_cnn with dropout", "vgg"],
)
def test_resume_on_any_number_of_ranks(config: Config, world: World, alone: World, mpi_tmp_path: Path) -> None:
    config = replace(
        config,
        output=replace(config.output, dir=str(mpi_tmp_path), name="run"),
        checkpoint=CheckpointConfig(every_steps=2, every_epochs=0, keep=0),
    )
    reference = build(config, alone)
    if world.is_root:
        reference.use_outputs(
            MetricsLog(None, time.perf_counter()), Progress(), create_run_directory(config, resume_step=None)
        )
    reference.train()
    world.comm.Barrier()
    resumed = build(config, world)
    resumed.resume(mpi_tmp_path / "run" / "checkpoints" / "step-00000002.safetensors")
    assert resumed.step == 2
    assert difference(resumed, reference) > 1e-3
    resumed.train()
    assert resumed.step == reference.step > 2
    assert difference(resumed, reference) <= BOUND


def test_resume_on_one_rank_from_many(world: World, alone: World, mpi_tmp_path: Path) -> None:
    config = replace(
        MLP,
        output=replace(MLP.output, dir=str(mpi_tmp_path), name="run"),
        checkpoint=CheckpointConfig(every_steps=5, every_epochs=0, keep=0),
    )
    trainer = build(config, world)
    run = world.run_on_root(lambda: create_run_directory(config, resume_step=None))
    trainer.use_outputs(MetricsLog(None, time.perf_counter()), Progress(), run if world.is_root else None)
    trainer.train()
    world.comm.Barrier()
    resumed = build(config, alone)
    resumed.resume(run.checkpoints / "step-00000005.safetensors")
    resumed.train()
    assert difference(resumed, trainer) <= BOUND


def test_all_ranks_stop_at_the_same_step_where_a_gradient_is_not_finite(world: World) -> None:
    trainer = build(replace(MLP, optimizer=OptimizerConfig(lr=1e30)), world)
    with pytest.raises(NonFiniteError, match=r"optimizer\.lr \(now 1e\+30\)"):
        trainer.train()
    steps = world.comm.allgather(trainer.step)
    assert len(set(steps)) == 1
    assert 0 < steps[0] < trainer.total_steps


def test_steps_with_a_gradient_that_is_not_finite_can_be_skipped(world: World) -> None:
    trainer = build(replace(MLP, train=TrainConfig(epochs=1, on_nonfinite="skip")), world)
    before = trainer.model.parameters.copy()
    loss_backward = trainer.loss.backward

    def planted() -> np.ndarray:
        dy = loss_backward()
        if world.rank == 0:  # rank 0 always has samples
            dy[0, 0] = np.nan
        return dy

    trainer.loss.backward = planted  # type: ignore[method-assign]
    trainer.train_step()
    np.testing.assert_array_equal(trainer.model.parameters, before)
    trainer.loss.backward = loss_backward  # type: ignore[method-assign]
    trainer.train_step()
    assert np.all(np.isfinite(trainer.model.parameters))
    assert not np.array_equal(trainer.model.parameters, before)
