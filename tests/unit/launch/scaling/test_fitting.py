"""The fit finds the constants that a cluster was made of, and predicts ranks that it has not seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from launch.scaling.algorithms import Round
from launch.scaling.collectives import Collectives
from launch.scaling.fitting import (
    Constants,
    Cost,
    Medium,
    Rounds,
    as_array,
    as_constants,
    fit,
    shape_of,
    together,
)
from launch.scaling.observations import observations
from tests.unit.launch.scaling.studies import CONSTANTS, NETWORK, RUNGS, TENSORS, collectives, noisy, seconds

SHARED = replace(CONSTANTS, network=replace(NETWORK, shared_per_byte=5e-9))


def fitted(measured: list[Collectives]) -> Constants:
    observed = [one for each in measured for one in observations(each)]
    return fit(observed, [float(np.median(one.seconds)) for one in observed], CONSTANTS.per_added_byte)


def test_costs_by_hand() -> None:
    network = Medium(latency=1.0, handshake=10.0, per_byte=0.5, both_ways=0.25, shared_per_byte=0.25)
    constants = Constants(
        Medium(latency=100.0), network, 8, 6, 0.125, call=1000.0, background_call=2000.0, one_way=0.25
    )
    short, long = Round(4, 4, 4), Round(8, 64, 0.0, times=2, calls=1)
    assert constants.cost((short,)) == Cost(1.0 + 2.0 + 0.5, 2.0 + 0.5)
    assert constants.cost((replace(short, one_way=True),)) == Cost(1.0 + 2.0 + 0.5, 0.5 + 0.5)
    # Shared: 64 * 0.25 = 16 is more than 8 * 0.5; two rounds, each with a handshake and a call.
    assert constants.cost((long,)).seconds == 22.0 + 32.0 + 2000.0
    assert constants.cost((long,), blocking=False).seconds == 22.0 + 32.0 + 4000.0
    # Two bytes more than a connection takes at once.
    assert constants.cost((Round(8, 8, mutual=True),)).seconds == 11.0 + 4.0 + 0.5
    assert constants.cost((replace(short, beside=2.0),)).seconds == 1.0 + 3.0 + 0.5
    assert constants.cost((replace(short, mutual=True),)).seconds == 1.0 + 2.0 + 0.5
    assert constants.cost((replace(short, medium="node"),)).seconds == 100.0 + 0.5
    assert together([Cost(5.0, 2.0), Cost(4.0, 2.0)]) == 5.0
    assert together([Cost(5.0, 4.0), Cost(4.0, 3.0)]) == 7.0


def test_arrays_and_objects_cost_the_same() -> None:
    for ranks, nodes in ((3, 3), (8, 2)):
        one = collectives(ranks, nodes, SHARED)
        observed = observations(one)
        times = Rounds(observed).seconds(as_array(SHARED), SHARED.long_from, SHARED.buffered)
        expected = [seconds(one, each.what, each.num_bytes, SHARED) for each in observed]
        assert times.tolist() == pytest.approx(expected)
        assert as_constants(as_array(SHARED), shape_of(SHARED)) == SHARED


def test_constants_are_recovered() -> None:
    found = fitted([collectives(ranks, ranks) for ranks in (2, 3, 4)])
    assert (found.long_from, found.buffered) == (CONSTANTS.long_from, CONSTANTS.buffered)
    assert as_array(found) == pytest.approx(as_array(replace(CONSTANTS, node=Medium())), rel=0.02, abs=1e-12)


@pytest.mark.parametrize("library", ["MPICH 5.0.2", "Open MPI 5.0.11"])
@pytest.mark.parametrize("true", [CONSTANTS, SHARED], ids=["full bisection", "shared switch"])
def test_ranks_that_were_not_measured_are_predicted(true: Constants, library: str) -> None:
    found = fitted([collectives(ranks, ranks, true, library=library) for ranks in (2, 3)])
    for ranks in (4, 8, 64):
        one = collectives(ranks, ranks, true, library=library)
        for rung in RUNGS:
            expected = seconds(one, rung, sum(TENSORS), true)
            assert seconds(one, rung, sum(TENSORS), found) == pytest.approx(expected, rel=0.05), (ranks, rung)


def test_a_shared_medium_is_found() -> None:
    found = fitted([collectives(ranks, ranks, SHARED) for ranks in (2, 3)])
    assert found.network.shared_per_byte == pytest.approx(5e-9, rel=0.05)
    assert found.network.per_byte == pytest.approx(8e-9, rel=0.05)


def test_noise_alone_makes_no_shared_medium() -> None:
    """It would make thousands of ranks hopeless."""
    for seed in range(5):
        noise = noisy(seed, 0.05)
        found = fitted([collectives(ranks, ranks, noise=noise) for ranks in (2, 3, 4)])
        assert found.network.shared_per_byte == 0.0
        assert found.network.per_byte == pytest.approx(NETWORK.per_byte, rel=0.1)


def test_nodes_and_network_are_told_apart() -> None:
    found = fitted([collectives(*each) for each in ((2, 1), (4, 1), (8, 2), (12, 3))])
    assert found.network.per_byte == pytest.approx(NETWORK.per_byte, rel=0.05)
    assert found.node.per_byte == pytest.approx(CONSTANTS.node.per_byte, rel=0.1)
    assert found.node.latency == pytest.approx(CONSTANTS.node.latency, rel=0.3)


def test_on_one_node_there_is_no_network() -> None:
    assert fitted([collectives(2, 1)]).network == Medium()


def test_no_constant_is_negative() -> None:
    for seed in range(3):
        found = fitted([collectives(ranks, ranks, noise=noisy(seed, 0.5)) for ranks in (2, 3)])
        assert (as_array(found) >= 0).all()
        assert found.one_way <= 1
