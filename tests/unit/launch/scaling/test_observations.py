"""What rungs send, counted by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ddp.kernels.update import BLOCK
from launch.scaling.observations import BLOCK_BYTES, rung_schedules, squares
from tests.unit.launch.scaling.studies import job


def test_a_block_is_the_kernels() -> None:
    assert BLOCK_BYTES == 4 * BLOCK


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_squares_are_gathered_and_not_added(ranks: int) -> None:
    """Tensors of 1, 1 and 3 blocks: 40 bytes, of which each rank gets what the others have."""
    one = replace(job(ranks, ranks), tensors=(4, BLOCK_BYTES, 2 * BLOCK_BYTES + 4))
    rounds = squares(one, ranks, ranks)
    assert sum(each.sent * each.times for each in rounds) == pytest.approx(40 * (ranks - 1) / ranks)
    assert sum(each.added for each in rounds) == 0
    assert sum(each.calls * each.times for each in rounds) == 1
    (whole,) = rung_schedules(one, "sharded", ranks, ranks) or [()]
    assert whole[-len(rounds) :] == rounds
