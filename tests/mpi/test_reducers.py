"""Every rung of the ladder, against closed forms: what a step of SGD leaves on every rank."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from ddp.comm.reducers import Reducer, applicable_rungs, build_reducer, cut_into_parts, node_shared
from ddp.comm.world import World
from ddp.config import CommConfig
from ddp.kernels.types import Float32, GradientSum
from ddp.kernels.update import make_blocks

pytestmark = pytest.mark.mpi

SUMMING = ["naive", "flat", "bucketed", "node_shared", "sharded"]
# More than one block, tensors of one element, and a length that no number of ranks divides.
SLICES = {"a": slice(0, 3), "b": slice(3, 4), "c": slice(4, 40_001), "d": slice(40_001, 40_003)}
SIZE = 40_003


class Network:
    """A model's flat buffers."""

    def __init__(self, dtype: type) -> None:
        self.parameters: Float32 = np.zeros(SIZE, np.float32)
        self.gradient_sums: GradientSum = np.zeros(SIZE, dtype)
        self.parameter_slices = SLICES

    @property
    def num_parameters(self) -> int:
        return SIZE

    def use_memory(self, parameters: Float32, gradient_sums: GradientSum) -> None:
        parameters[:] = self.parameters
        self.parameters, self.gradient_sums = parameters, gradient_sums


def build(name: str, world: World, network: Network, num_states: int = 1) -> Reducer:
    config = CommConfig(reducer=name, bucket_mb=0.05)  # type: ignore[arg-type]
    return build_reducer(config, world, network, make_blocks(SLICES.values()), num_states)


def sums(reducer: Reducer) -> np.ndarray:
    """Those of this rank's part."""
    rows, _, start = reducer.addends
    return rows[:, start : start + reducer.part.size].sum(axis=0, dtype=rows.dtype)


def step(reducer: Reducer, network: Network, gradient: np.ndarray) -> np.ndarray:
    """A step whose update adds the sums to the parameters; the squares of all blocks."""
    reducer.begin()
    for where in reversed(SLICES.values()):
        network.gradient_sums[where] = gradient[where]
        reducer.ready(where)
    reducer.world.comm.Barrier()  # by the reports, where a trainer does it
    reducer.finish()
    reducer.parameters[:] += sums(reducer)
    starts = reducer.part.blocks[:, 0].astype(np.float64) + reducer.part.where.start
    return reducer.publish(starts)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
@pytest.mark.parametrize("name", [*SUMMING, "dummy"])
def test_all_ranks_have_the_same_parameters_after_two_steps(name: str, dtype: type, nodes: World) -> None:
    network, elements = Network(dtype), np.arange(SIZE) % 1000
    reducer = build(name, nodes, network)
    reducer.warm_up()
    factor = nodes.rank + 1 if name == "dummy" else nodes.size * (nodes.size + 1) // 2
    for number in (1, 2):
        squares = step(reducer, network, (nodes.rank + 1) * elements)
        np.testing.assert_array_equal(network.parameters, number * factor * elements)
        np.testing.assert_array_equal(squares, make_blocks(SLICES.values())[:, 0])
    assert network.gradient_sums.dtype == dtype
    reducer.close()
    np.testing.assert_array_equal(network.parameters, 2 * factor * elements)


@pytest.mark.parametrize("name", SUMMING)
def test_sums_of_integers_are_exact_where_those_of_floats_round(name: str, nodes: World) -> None:
    largest = 2**31 // nodes.size - 1
    ranks = [np.random.default_rng(rank).integers(-largest, largest, SIZE) for rank in range(nodes.size)]
    total = np.sum(ranks, axis=0)
    for dtype in (np.int32, np.float32):
        reducer = build(name, nodes, network := Network(dtype))
        reducer.begin()
        network.gradient_sums[:] = ranks[nodes.rank]
        nodes.comm.Barrier()
        reducer.finish()
        mine = total[reducer.part.where]
        if dtype == np.int32:
            np.testing.assert_array_equal(sums(reducer), mine)
        else:
            np.testing.assert_allclose(sums(reducer), mine, rtol=0, atol=2.0**31 * nodes.size * 2.0**-24)
            assert not mine.size or (sums(reducer) != mine).any()
        reducer.publish(np.zeros(len(reducer.part.blocks)))
        reducer.close()


@pytest.mark.parametrize("name", SUMMING)
def test_the_optimizers_state_is_put_together_and_taken_apart(name: str, nodes: World) -> None:
    reducer = build(name, nodes, Network(np.int32), num_states=2)
    states, numbers = reducer.make_states(), np.arange(2 * SIZE, dtype=np.float32).reshape(2, SIZE)
    for state, whole in zip(states, numbers, strict=True):
        reducer.take(state, whole)
    reducer.publish(np.zeros(len(reducer.part.blocks)))
    np.testing.assert_array_equal(states, numbers[:, reducer.part.where])
    for number in range(2):
        np.testing.assert_array_equal(reducer.whole(number, states[number]), numbers[number])
    reducer.close()


@pytest.mark.parametrize("num_parts", [1, 2, 3, 5, 20])
def test_parts_cover_all_blocks_once(num_parts: int) -> None:
    blocks = make_blocks(SLICES.values())
    parts = cut_into_parts(blocks, num_parts)
    joined = np.concatenate([part.blocks + np.array([part.where.start, part.where.start, 0]) for part in parts])
    np.testing.assert_array_equal(joined, blocks)
    edges = [edge for part in parts for edge in (part.where.start, part.where.stop)]
    assert edges[0] == 0
    assert edges[-1] == SIZE
    assert edges[1:-1:2] == edges[2::2]


def test_nodes_without_room_for_shared_memory_are_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who wrote to it would be killed."""
    usage = shutil.disk_usage("/")
    free = 100_000 if world.rank == world.size - 1 else usage.free
    monkeypatch.setattr(node_shared.shutil, "disk_usage", lambda _: usage._replace(free=free))
    needed = 4 * SIZE * (world.local_size + 3) / 1e6
    with pytest.raises(ValueError, match=rf"{world.host} has 0 MB free in /dev/shm, {needed:,.0f} MB are needed; make"):
        build("node_shared", world, Network(np.int32))
    assert "node_shared" not in applicable_rungs(CommConfig(), world, SIZE)
    monkeypatch.undo()
    assert ("node_shared" in applicable_rungs(CommConfig(), world, SIZE)) == (world.size > 1)
