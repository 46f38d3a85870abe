"""The sampler: every sample once an epoch, the same order and the same shards for any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddp.data.sampler import Sampler
from ddp.rng import permutation

samplers = st.builds(
    Sampler,
    num_samples=st.integers(1, 200),
    batch_size=st.integers(1, 70),
    num_shards=st.integers(1, 20),
    seed=st.integers(0, 2**64 - 1),
)
world_sizes = st.integers(1, 25)


@settings(deadline=None, max_examples=50)
@given(samplers, world_sizes, st.integers(0, 3))
def test_the_ranks_together_see_the_permutation(sampler: Sampler, world_size: int, epoch: int) -> None:
    seen = []
    for step in range(sampler.steps_per_epoch):
        batch = sampler.global_batch(epoch, step)
        for rank in range(world_size):
            owned = sampler.rank_range(len(batch), rank, world_size)
            seen.extend(batch[owned.start : owned.stop].tolist())
    assert sorted(seen) == list(range(sampler.num_samples))
    assert seen == permutation(sampler.seed, epoch, sampler.num_samples).tolist()


def seen_from(sampler: Sampler, first: int, end: int, world_size: int) -> list[list[int]]:
    """What the ranks see together, in rank order, in each of the steps `first` to `end`, counted over all epochs."""
    steps = []
    for step in range(first, end):
        batch = sampler.global_batch(*divmod(step, sampler.steps_per_epoch))
        parts = [sampler.rank_range(len(batch), rank, world_size) for rank in range(world_size)]
        steps.append([sample for part in parts for sample in batch[part.start : part.stop].tolist()])
    return steps


@settings(deadline=None, max_examples=100)
@given(samplers, st.lists(st.tuples(st.integers(0, 400), world_sizes), min_size=1, max_size=4), st.integers(1, 3))
def test_stopped_anywhere_and_resumed_on_any_number_of_ranks_every_sample_is_seen_once(
    sampler: Sampler, stops: list[tuple[int, int]], epochs: int
) -> None:
    total = epochs * sampler.steps_per_epoch
    seen, step = [], 0
    for stop, world_size in [*sorted(stops), (total, stops[0][1])]:
        # A trainer of its own each time, which knows the step and no more.
        resumed = Sampler(sampler.num_samples, sampler.batch_size, sampler.num_shards, sampler.seed)
        seen += seen_from(resumed, step, min(stop, total), world_size)
        step = max(step, min(stop, total))
    assert seen == seen_from(sampler, 0, total, 1)
    samples = [sample for batch in seen for sample in batch]
    for epoch in range(epochs):
        of_epoch = samples[epoch * sampler.num_samples : (epoch + 1) * sampler.num_samples]
        assert of_epoch == permutation(sampler.seed, epoch, sampler.num_samples).tolist()
        assert sorted(of_epoch) == list(range(sampler.num_samples))
    assert len(samples) == epochs * sampler.num_samples
    assert all(0 < len(batch) <= sampler.batch_size for batch in seen)


@settings(deadline=None, max_examples=100)
@given(samplers, world_sizes, st.integers(1, 70))
def test_a_shard_holds_the_same_samples_for_any_number_of_ranks(sampler: Sampler, world_size: int, size: int) -> None:
    """`rank_shards` cuts each rank's part where one rank alone would cut the whole batch."""
    cuts = [0]
    for rank in range(world_size):
        part = sampler.rank_range(size, rank, world_size)
        bounds = sampler.rank_shards(size, rank, world_size)
        assert bounds[0] == 0
        assert bounds[-1] == len(part)
        cuts += (part.start + bounds[1:]).tolist()
    assert cuts == sampler.rank_shards(size, 0, 1).tolist()
    assert len(cuts) == sampler.num_shards + 1
    assert [len(sampler.shard_range(size, shard)) for shard in range(sampler.num_shards)] == np.diff(cuts).tolist()


@settings(deadline=None, max_examples=50)
@given(samplers, world_sizes)
def test_a_ranks_part_is_its_whole_shards(sampler: Sampler, world_size: int) -> None:
    for size in (sampler.batch_size, 1, sampler.batch_size // 2):
        owned = [list(sampler.rank_range(size, rank, world_size)) for rank in range(world_size)]
        for shard in range(sampler.num_shards):
            members = set(sampler.shard_range(size, shard))
            assert not members or sum(members <= set(part) for part in owned) == 1


@settings(deadline=None, max_examples=50)
@given(samplers, world_sizes, st.integers(1, 6))
def test_max_samples_is_reached_and_never_exceeded(sampler: Sampler, world_size: int, number: int) -> None:
    sizes = [
        len(batch.positions)
        for step in range(sampler.steps_per_epoch)
        for rank in range(world_size)
        for batch in sampler.micro_batches(len(sampler.global_batch(0, step)), rank, world_size, number)
    ]
    assert max(sizes) == sampler.max_samples(world_size, number)


@settings(deadline=None, max_examples=50)
@given(samplers, world_sizes, st.integers(1, 6))
def test_micro_batches_are_whole_shards_and_cover_a_ranks_part(sampler: Sampler, world_size: int, number: int) -> None:
    size = len(sampler.global_batch(0, 0))
    for rank in range(world_size):
        batches = sampler.micro_batches(size, rank, world_size, number)
        assert 1 <= len(batches) <= number
        assert [p for batch in batches for p in batch.positions] == list(sampler.rank_range(size, rank, world_size))
        rows = sampler.rank_rows(rank, world_size)
        assert [r for batch in batches for r in range(batch.rows.start, batch.rows.stop)] == list(
            range(rows.start, rows.stop)
        )
        for batch in batches:
            lengths = [len(sampler.shard_range(size, row)) for row in range(batch.rows.start, batch.rows.stop)]
            assert batch.shards.tolist() == [0, *np.cumsum(lengths)]
            assert batch.shards[-1] == len(batch.positions)


def test_a_worked_example() -> None:
    sampler = Sampler(num_samples=25, batch_size=10, num_shards=4, seed=0)
    assert sampler.steps_per_epoch == 3
    assert [len(sampler.global_batch(0, step)) for step in range(3)] == [10, 10, 5]
    assert [len(sampler.shard_range(10, shard)) for shard in range(4)] == [3, 3, 2, 2]
    assert [sampler.rank_range(10, rank, 3) for rank in range(3)] == [range(0, 6), range(6, 8), range(8, 10)]
    assert [sampler.rank_range(5, rank, 2) for rank in range(2)] == [range(0, 3), range(3, 5)]
    assert sampler.max_samples(3) == 6
    assert sampler.max_samples(3, 2) == 3


def test_ranks_without_shards_have_empty_parts() -> None:
    sampler = Sampler(num_samples=8, batch_size=8, num_shards=2, seed=0)
    assert [len(sampler.rank_range(8, rank, 4)) for rank in range(4)] == [4, 4, 0, 0]


def test_epochs_and_seeds_differ_and_visits_in_any_order_agree() -> None:
    sampler = Sampler(num_samples=50, batch_size=50, num_shards=1, seed=1)
    first = [sampler.global_batch(epoch, 0).tolist() for epoch in range(5)]
    assert len({tuple(order) for order in first}) == 5
    assert [sampler.global_batch(epoch, 0).tolist() for epoch in reversed(range(5))] == first[::-1]
    assert Sampler(50, 50, 1, seed=2).global_batch(0, 0).tolist() != first[0]


def test_a_batch_is_a_read_only_int64_view() -> None:
    sampler = Sampler(num_samples=50, batch_size=20, num_shards=1, seed=1)
    batch = sampler.global_batch(0, 1)
    assert batch.dtype == np.int64
    assert np.shares_memory(batch, sampler.global_batch(0, 1))
    with pytest.raises(ValueError, match="read-only"):
        batch[0] = 0


@pytest.mark.parametrize("step", [-1, 3])
def test_a_step_outside_the_epoch_is_an_error(step: int) -> None:
    with pytest.raises(AssertionError):
        Sampler(25, 10, 4, 0).global_batch(0, step)


@pytest.mark.parametrize(
    ("numbers", "name"),
    [
        ((0, 1, 1), "number of samples must be at least 1, got 0"),
        ((1, 0, 1), r"batch\.size"),
        ((1, 1, -1), r"batch\.shards"),
    ],
)
def test_numbers_below_one_are_refused(numbers: tuple[int, int, int], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Sampler(*numbers, seed=0)


def test_equal_draws_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 64 random bits two are hardly ever equal; here they are drawn so."""
    draws = np.arange(3000, dtype=np.uint64) % 7
    monkeypatch.setattr("ddp.data.sampler.draw_keys", lambda seed, epoch, keys: np.copyto(keys, draws))
    found = Sampler(3000, 3000, 1, seed=2**64 - 17).global_batch(1, 0)
    np.testing.assert_array_equal(found, sorted(range(3000), key=lambda sample: sample % 7))


def test_a_ranks_batch_is_its_part_of_the_global_one() -> None:
    sampler = Sampler(50, 8, 4, seed=3)
    for epoch, step in ((0, 0), (1, 3), (2, 6)):
        parts = [sampler.rank_batch(epoch, step, rank, 3) for rank in range(3)]
        np.testing.assert_array_equal(np.concatenate(parts), sampler.global_batch(epoch, step))
