"""The replica check among real ranks: one bit that flips on one of them is found by all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ddp.comm.failure import DivergedError
from ddp.comm.world import World
from ddp.config import BatchConfig, CommConfig, Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from ddp.data import load_dataset
from ddp.kernels.jit import exclusive_cache
from ddp.trainer import Trainer

pytestmark = pytest.mark.mpi

MLP = Config(
    model=ModelConfig(name="mlp", hidden=(32, 16), bias=True),
    data=DataConfig(name="synthetic", shape=(1, 8, 8), samples=100, classes=5),
    batch=BatchConfig(size=32, shards=8),
    optimizer=OptimizerConfig(lr=0.05, momentum=0.9),
    train=TrainConfig(epochs=3),
    comm=CommConfig(check_every=5),
)
BIT = 1 << 22  # of a significand; the lowest may be rounded away again by the next steps


def build(config: Config, world: World) -> Trainer:
    trainer = Trainer(config, world, load_dataset(config.data, config.seed, world.share_on_node))
    with exclusive_cache():
        trainer.warm_up()
    return trainer


@pytest.mark.parametrize("part", ["1.weight", "5.bias", "optimizer.momentum.3.weight", "scales of the gradient sums"])
def test_a_bit_that_flips_in_any_part_is_found(part: str, world: World) -> None:
    replicas = build(MLP, world).update.replicas
    replicas.check(3)
    if world.rank == world.size - 1:
        replicas.parts[part].reshape(-1).view(np.int32)[-1] ^= BIT
    if world.size == 1:
        replicas.check(4)  # nobody to differ from
        return
    with pytest.raises(DivergedError) as caught:
        replicas.check(4)
    assert f"rank {world.size - 1} on {world.host} ha" in str(caught.value)
    assert f"after step 4 ({part})" in str(caught.value)
    assert "agreed after step 3" in str(caught.value)


@pytest.mark.parametrize("reducer", ["node_shared", "sharded", "bucketed"])
def test_ranks_that_have_parts_of_the_state_compare_what_all_have(reducer: str, nodes: World) -> None:
    """Three ranks on nodes of two: one rank has all of the optimizer's state, the others a half each."""
    replicas = build(replace(MLP, comm=CommConfig(reducer=reducer)), nodes).update.replicas  # type: ignore[arg-type]
    replicas.check(3)
    assert replicas.agreed_step == (3 if nodes.size > 1 else 0)
    assert len(set(map(str, nodes.comm.allgather(list(replicas.parts))))) == 1


@pytest.mark.parametrize("flipped", [4, 5, 6, 11])
def test_all_ranks_stop_at_the_next_check(flipped: int, world: World) -> None:
    trainer = build(MLP, world)
    train_step = trainer.train_step

    def step() -> None:
        train_step()
        if trainer.step == flipped and world.rank == world.size - 1:
            trainer.model.parameters.view(np.int32)[7] ^= BIT

    trainer.train_step = step  # type: ignore[method-assign]
    if world.size == 1:
        trainer.train()
        return
    with pytest.raises(DivergedError):
        trainer.train()
    # Before the checkpoints at the ends of epochs, after 4, 8 and 12 steps, and after 5 and 10.
    expected = {4: 4, 5: 5, 6: 8, 11: 12}[flipped]
    assert world.comm.allgather(trainer.step) == [expected] * world.size
    assert trainer.update.replicas.agreed_step == {4: 0, 5: 4, 6: 5, 11: 10}[flipped]


def test_checks_change_nothing_and_pass(world: World) -> None:
    results = []
    for every in (0, 1):
        trainer = build(replace(MLP, comm=CommConfig(check_every=every)), world)
        trainer.train()
        results.append(trainer.model.parameters.tobytes())
        assert trainer.update.replicas.agreed_step == (0 if every == 0 or world.size == 1 else 12)
    assert results[0] == results[1]


def test_ranks_that_are_meant_to_diverge_are_not_compared(world: World) -> None:
    trainer = build(replace(MLP, comm=CommConfig(reducer="dummy", check_every=1)), world)
    trainer.train()
    assert trainer.step == 12
