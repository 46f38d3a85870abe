"""Every optimizer trains the same bits on any number of ranks, by any reducer, stopped and resumed or not."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from ddp.comm.world import World
from ddp.config import CommConfig, Config, ModelConfig, OptimizerConfig, TrainConfig
from tests.mpi.test_trainer import MLP, build

pytestmark = pytest.mark.mpi

# A tensor of two blocks, of which two ranks each may have one.
LARGER = replace(MLP, model=ModelConfig(name="mlp", hidden=(400,), bias=True), train=TrainConfig(epochs=2))
OPTIMIZERS = {
    "lars": OptimizerConfig(name="lars", lr=0.1, trust_coefficient=0.05, weight_decay=1e-3),
    "lars, clipped": OptimizerConfig(name="lars", lr=0.1, trust_coefficient=0.05, clip_norm=0.3),
    "sgd with dampening": OptimizerConfig(lr=0.1, dampening=0.2, weight_decay=1e-3, decay_norm_and_bias=False),
}
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


@pytest.mark.parametrize("reducer", ["naive", "flat", "bucketed", "node_shared", "sharded"])
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
def test_nodes_of_several_ranks_train_as_one(optimizer: OptimizerConfig, nodes: World, alone: World) -> None:
    trainer = build(with_optimizer(optimizer, "node_shared"), nodes)
    trainer.train()
    parameters, state = train_alone(optimizer, alone)
    assert trainer.model.parameters.tobytes() == parameters
    assert {name: buffer.tobytes() for name, buffer in trainer.update.state().items()} == state
    trainer.reducer.close()
