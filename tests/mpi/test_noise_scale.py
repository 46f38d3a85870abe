"""The gradient noise scale has the same bits on any number of ranks, by any reducer, in any micro-batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ddp.comm.world import World
from ddp.config import BatchConfig, CommConfig, Config, DataConfig, ModelConfig, OptimizerConfig, OutputConfig
from ddp.data import load_dataset
from ddp.kernels.jit import exclusive_cache
from ddp.trainer import Trainer

pytestmark = pytest.mark.mpi

MLP = Config(
    model=ModelConfig(hidden=(32, 16), bias=True),
    data=DataConfig(name="synthetic", shape=(1, 8, 8), samples=100, classes=5),
    batch=BatchConfig(size=33, shards=7),  # the last batch of an epoch has one sample
    optimizer=OptimizerConfig(lr=0.05),
    output=OutputConfig(noise_scale_every=1),
)
CNN = replace(MLP, model=ModelConfig(name="mnist_cnn"), data=replace(MLP.data, shape=(2, 9, 10), samples=50))


def measured(config: Config, world: World) -> list[Any]:
    """After each of some steps."""
    trainer = Trainer(config, world, load_dataset(config.data, config.seed, world.share_on_node))
    with exclusive_cache():
        trainer.warm_up()
    values = []
    for _ in range(6):
        trainer.train_step()
        values.append((trainer.noise.noise, trainer.noise.signal))
    return values


@pytest.mark.parametrize("reducer", ["flat", "bucketed", "node_shared", "sharded"])
@pytest.mark.parametrize("config", [MLP, CNN], ids=["mlp", "mnist_cnn"])
def test_all_ranks_measure_what_one_does(config: Config, reducer: Any, world: World, alone: World) -> None:
    found = measured(replace(config, comm=CommConfig(reducer=reducer, bucket_mb=0.001)), world)
    assert found == measured(replace(config, comm=CommConfig(reducer="flat")), alone)
    assert found[0][0] > 0
    assert world.comm.allgather(found) == [found] * world.size
    assert found == measured(replace(config, batch=replace(config.batch, accumulation=3)), world)
