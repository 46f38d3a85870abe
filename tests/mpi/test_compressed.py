"""Gradients sent in 16 bits: against closed forms, and what error feedback is for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ddp.comm.reducers import CompressedReducer, build_reducer
from ddp.comm.world import World
from ddp.config import CommConfig
from ddp.kernels.types import Float32, Float64
from ddp.kernels.update import make_blocks
from tests.mpi.test_reducers import SIZE, SLICES, Network

pytestmark = pytest.mark.mpi

BLOCKS = make_blocks(SLICES.values())
FORMATS = pytest.mark.parametrize("compression", ["bf16", "fp16"])
ROUND_OFF = {"bf16": 2.0**-8, "fp16": 2.0**-11}


def build(compression: str, world: World, network: Network | None = None) -> CompressedReducer:
    config, network = CommConfig(compression=compression), network or Network(np.float32)  # type: ignore[arg-type]
    reducer = build_reducer(config, world, network, make_blocks(network.parameter_slices.values()))
    assert isinstance(reducer, CompressedReducer)
    reducer.warm_up()
    return reducer


def reduce(reducer: CompressedReducer, gradient: Any) -> Float32:
    """The sum over the ranks, of which this one gives a gradient."""
    reducer.begin()
    reducer.model.gradient_sums[:] = gradient
    reducer.ready(slice(0, reducer.model.num_parameters))
    reducer.finish()
    return reducer.model.gradient_sums.copy()


def draw(rank: int, seed: int = 0) -> Float64:
    """Each block of a magnitude of its own, and zeros."""
    generator = np.random.default_rng((rank, seed))
    gradient = generator.standard_normal(SIZE) * np.repeat(10.0 ** np.arange(-3, 3), BLOCKS[:, 1] - BLOCKS[:, 0])
    gradient[::97] = 0
    return gradient.astype(np.float32).astype(np.float64)


@FORMATS
def test_sums_are_those_of_the_gradients_but_for_two_roundings(compression: str, world: World) -> None:
    ranks = [draw(rank) for rank in range(world.size)]
    result = reduce(build(compression, world), ranks[world.rank])
    exact, sizes = np.sum(ranks, axis=0), np.sum(np.abs(ranks), axis=0)
    if world.size == 1:
        np.testing.assert_array_equal(result, exact)
        return
    u = ROUND_OFF[compression]
    # Each rank's words; their sum in float32, whose terms are larger by 1 + u at most; the words of the sum.
    error = u * sizes + world.size * 2.0**-24 * (1 + u) * sizes
    bound = error + u * (np.abs(exact) + error)
    for start, end, _ in BLOCKS:  # float16 has an absolute error for what lies far below the largest of a block
        bound[start:end] += 2.0**-38 * sizes[start:end].max() * world.size
    assert (np.abs(result - exact) <= bound).all()
    assert (np.abs(result - exact) > bound / 10).mean() > 0.3
    assert set(world.comm.allgather(result.tobytes())) == {result.tobytes()}


@FORMATS
def test_what_was_rounded_away_is_kept_to_the_last_bit(compression: str, world: World) -> None:
    reducer = build(compression, world)
    total, reduced = np.zeros(SIZE), np.zeros(SIZE)
    for step in range(5):
        # Integers: all sums and residuals are, and are so small that float32 adds them exactly.
        ranks = [np.random.default_rng((rank, step)).integers(-4000, 4000, SIZE) for rank in range(world.size)]
        total += np.sum(ranks, axis=0)
        reduced += reduce(reducer, ranks[world.rank])
        owed = np.sum(world.comm.allgather(reducer.residual), axis=0, dtype=np.float64)
        owed += np.concatenate(world.comm.allgather(reducer.residual_of_sum))
        np.testing.assert_array_equal(reduced + owed, total)
        assert np.abs(owed).max() > 0 or world.size == 1


class Counter:
    """A communicator that counts the bytes that two of its collectives are given, and knows no others."""

    def __init__(self, comm: Any) -> None:
        self.comm, self.bytes = comm, []

    def Alltoallv(self, sent: Any, received: Any) -> None:
        assert sent[0].nbytes == sum(sent[1]) * sent[0].itemsize
        assert received[0].nbytes == sum(received[1]) * received[0].itemsize
        self.bytes.append(sent[0].nbytes)
        self.comm.Alltoallv(sent, received)

    def Allgatherv(self, sent: Any, received: Any) -> None:
        self.bytes.append(received[0].nbytes)
        self.comm.Allgatherv(sent, received)


@FORMATS
def test_half_the_bytes_of_float32_travel_both_ways(compression: str, world: World) -> None:
    reducer, real, announced = build(compression, world), world.comm, []
    counter, collective = Counter(real), world.collective

    def record(name: str, num_bytes: int = 0) -> Any:
        announced.append(num_bytes)
        return collective(name, num_bytes)

    world.comm, world.collective = counter, record  # type: ignore[assignment, method-assign]
    try:
        reduce(reducer, 1)
    finally:
        world.comm = real
        del world.collective  # type: ignore[method-assign]
    half = 2 * SIZE  # of float32's 4 bytes, for the reduce-scatter as for the allgather of which an Allreduce is made
    heads = 2 * len(BLOCKS)
    assert announced == counter.bytes == ([half + heads] * 2 if world.size > 1 else [])


class FewParameters(Network):
    """So few that with more than two ranks some have no part to add."""

    def __init__(self) -> None:
        self.parameters, self.gradient_sums = np.zeros(7, np.float32), np.zeros(7, np.float32)
        self.parameter_slices = {"a": slice(0, 3), "b": slice(3, 7)}

    @property
    def num_parameters(self) -> int:
        return 7


def descend(compression: str, world: World, distance: float, has_feedback: bool) -> Iterator[Float32]:
    """Parameters of SGD towards 0, where large gradients of the ranks cancel and small ones are left."""
    reducer = build(compression, world, FewParameters())
    offset = 1024.0 if world.rank < world.size - 1 else -1024.0 * (world.size - 1)
    w = np.full(7, distance, np.float32)
    for _ in range(800):
        if not has_feedback:
            reducer.residual[:] = 0
            reducer.residual_of_sum[:] = 0
        w = w - np.float32(0.02) * reduce(reducer, w / world.size + np.float32(offset))
        yield w


@FORMATS
def test_gradients_below_half_a_unit_of_larger_ones_stall_without_error_feedback(
    compression: str, world: World
) -> None:
    if world.size == 1:
        pytest.skip("one rank rounds nothing")
    distance = 0.2 * world.size  # of which each rank has 0.2; words near 1024 have steps of 0.5 and more
    *_, stalled = descend(compression, world, distance, has_feedback=False)
    np.testing.assert_array_equal(stalled, np.float32(distance))
    ways = list(descend(compression, world, distance, has_feedback=True))
    assert np.abs(np.mean(ways[-400:], axis=0)).max() < 0.1 * distance
