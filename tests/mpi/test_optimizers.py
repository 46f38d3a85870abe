"""Every optimizer trains the same bits on any number of ranks, by any reducer, stopped and resumed or not."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from ddp.comm.world import World
from ddp.config import CheckpointConfig, CommConfig, Config, ModelConfig, OptimizerConfig, TrainConfig
from ddp.observe.metrics import MetricsLog
from ddp.observe.progress import Progress
from ddp.run_directory import create_run_directory
from tests.mpi.test_trainer import MLP, build

pytestmark = pytest.mark.mpi

# A tensor of two blocks, of which two ranks each may have one.
LARGER = replace(MLP, model=ModelConfig(name="mlp", hidden=(400,), bias=True), train=TrainConfig(epochs=2))
OPTIMIZERS = {
    "sgd without a state": OptimizerConfig(lr=0.1, momentum=0.0),
    "lars": OptimizerConfig(name="lars", lr=0.1, trust_coefficient=0.05, weight_decay=1e-3),
    "lars, clipped": OptimizerConfig(name="lars", lr=0.1, trust_coefficient=0.05, clip_norm=0.3),
    "adadelta": OptimizerConfig(name="adadelta", lr=1.0),
    "adam": OptimizerConfig(name="adam", lr=0.002, weight_decay=1e-3),
    "adamw, clipped": OptimizerConfig(name="adamw", lr=0.002, weight_decay=0.1, clip_norm=0.3),
    "lamb": OptimizerConfig(name="lamb", lr=0.01, weight_decay=0.1),
    "lamb, clipped": OptimizerConfig(name="lamb", lr=0.01, clip_norm=0.3),
    "sgd with dampening": OptimizerConfig(lr=0.1, dampening=0.2, weight_decay=1e-3, decay_norm_and_bias=False),
}
REDUCERS = ["naive", "flat", "bucketed", "node_shared", "sharded"]
optimizers = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


def with_optimizer(optimizer: OptimizerConfig, reducer: str) -> Config:
    return replace(LARGER, optimizer=optimizer, comm=CommConfig(reducer=reducer))  # type: ignore[arg-type]


@cache
def train_alone(optimizer: OptimizerConfig, alone: World) -> tuple[bytes, dict[str, bytes]]:
    trainer = build(with_optimizer(optimizer, "flat"), alone)
    start = trainer.model.parameters.copy()
    trainer.train()
    assert np.linalg.norm(trainer.model.parameters - start) > 1e-2 * np.linalg.norm(start)
    return trainer.model.parameters.tobytes(), {name: b.tobytes() for name, b in trainer.update.state().items()}


@pytest.mark.parametrize("reducer", REDUCERS)
@optimizers
def test_any_number_of_ranks_trains_as_one(
    optimizer: OptimizerConfig, reducer: str, world: World, alone: World
) -> None:
    trainer = build(with_optimizer(optimizer, reducer), world)
    trainer.train()
    parameters, state = train_alone(optimizer, alone)
    assert trainer.model.parameters.tobytes() == parameters
    assert {name: buffer.tobytes() for name, buffer in trainer.update.state().items()} == state


@optimizers
def test_the_state_moves_from_reducer_to_reducer(optimizer: OptimizerConfig, world: World, alone: World) -> None:
    trainer = build(with_optimizer(optimizer, "flat"), world)
    while trainer.step < trainer.total_steps:
        trainer.update.use(REDUCERS[trainer.step % len(REDUCERS)])
        trainer.train_step()
    parameters, state = train_alone(optimizer, alone)
    assert trainer.model.parameters.tobytes() == parameters
    assert {name: buffer.tobytes() for name, buffer in trainer.update.state().items()} == state


@optimizers
def test_what_many_ranks_saved_one_resumes_to_the_same_bits(
    optimizer: OptimizerConfig, world: World, alone: World, mpi_tmp_path: Path
) -> None:
    config = with_optimizer(optimizer, "sharded")
    output = replace(config.output, dir=str(mpi_tmp_path), name="run")
    config = replace(config, output=output, checkpoint=CheckpointConfig(every_steps=3, every_epochs=0, keep=0))
    trainer = build(config, world)
    run = world.run_on_root(lambda: create_run_directory(config, resume_step=None))
    trainer.use_outputs(MetricsLog(None, time.perf_counter()), Progress(), run if world.is_root else None)
    trainer.train()
    world.comm.Barrier()
    resumed = build(replace(config, comm=CommConfig(reducer="flat")), alone)
    resumed.resume(run.checkpoints / "step-00000003.safetensors")
    resumed.train()
    parameters, state = train_alone(optimizer, alone)
    assert trainer.step == resumed.step == 8
    assert resumed.model.parameters.tobytes() == parameters
    assert {name: buffer.tobytes() for name, buffer in resumed.update.state().items()} == state


@optimizers
def test_local_steps_on_one_rank_are_the_same(optimizer: OptimizerConfig, alone: World) -> None:
    """So the optimizer knows their numbers there too."""
    config = with_optimizer(optimizer, "flat")
    plain = build(replace(config, comm=CommConfig(exact=False)), alone)
    averaged = build(replace(config, comm=CommConfig(sync_every=3)), alone)
    plain.train()
    averaged.train()
    assert averaged.model.parameters.tobytes() == plain.model.parameters.tobytes()


@optimizers
def test_nodes_of_several_ranks_train_as_one(optimizer: OptimizerConfig, nodes: World, alone: World) -> None:
    trainer = build(with_optimizer(optimizer, "node_shared"), nodes)
    trainer.train()
    parameters, state = train_alone(optimizer, alone)
    assert trainer.model.parameters.tobytes() == parameters
    assert {name: buffer.tobytes() for name, buffer in trainer.update.state().items()} == state
    trainer.reducer.close()
