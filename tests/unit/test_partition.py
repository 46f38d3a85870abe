"""The ownership rule: blocks cover the items in order, and differ in size by at most one."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddp.partition import block_partition

NUMBERS = st.integers(0, 300)
PARTS = st.integers(1, 40)


@given(NUMBERS, PARTS)
def test_blocks_cover_the_items_in_order(n: int, parts: int) -> None:
    blocks = [block_partition(n, parts, index) for index in range(parts)]
    assert list(itertools.chain(*blocks)) == list(range(n))


@given(NUMBERS, PARTS)
def test_blocks_adjoin_even_where_they_are_empty(n: int, parts: int) -> None:
    blocks = [block_partition(n, parts, index) for index in range(parts)]
    assert blocks[0].start == 0
    assert blocks[-1].stop == n
    assert all(before.stop == after.start for before, after in itertools.pairwise(blocks))


@given(NUMBERS, PARTS)
def test_sizes_never_grow_and_differ_by_at_most_one(n: int, parts: int) -> None:
    sizes = [len(block_partition(n, parts, index)) for index in range(parts)]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("n", "parts", "sizes"), [(10, 4, [3, 3, 2, 2]), (2, 4, [1, 1, 0, 0]), (0, 2, [0, 0]), (5, 1, [5]), (8, 4, [2] * 4)]
)
def test_worked_examples(n: int, parts: int, sizes: list[int]) -> None:
    assert [len(block_partition(n, parts, index)) for index in range(parts)] == sizes


@pytest.mark.parametrize(("n", "parts", "index"), [(-1, 2, 0), (4, 0, 0), (4, -2, 0), (4, 2, 2), (4, 2, -1)])
def test_impossible_numbers_are_refused_and_named(n: int, parts: int, index: int) -> None:
    with pytest.raises(ValueError, match=f"n={n} parts={parts} index={index}"):
        block_partition(n, parts, index)
