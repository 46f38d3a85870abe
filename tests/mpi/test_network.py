"""Ping-pong between real ranks: every pair once, with figures that can be true."""

from __future__ import annotations

from itertools import combinations

import pytest

from ddp.comm.network import measure_links, rounds
from ddp.comm.world import World

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8])
def test_a_tournament_has_every_pair_once_and_no_host_twice_in_a_round(n: int) -> None:
    schedule = rounds(n)
    assert sorted(pair for pairs in schedule for pair in pairs) == list(combinations(range(n), 2))
    for pairs in schedule:
        playing = [player for pair in pairs for player in pair]
        assert len(playing) == len(set(playing))
    assert len(schedule) <= n


def test_every_pair_of_ranks_is_measured(world: World) -> None:
    links = measure_links(world.comm)
    if not world.is_root:
        assert links == []
        return
    assert [(link.first, link.second) for link in links] == list(combinations(range(world.size), 2))
    for link in links:
        assert link.latency_s > 0
        assert link.bytes_per_s > 0
