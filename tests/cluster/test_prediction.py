"""What the model knows from one, two and three hosts, it says of four: links of 1 Gbit/s and 1 ms, one rank a host."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from launch.scaling.collectives import Collectives, read_collectives, slow_links
from launch.scaling.step_model import Place
from launch.scaling.study_model import fit_communication
from tests.cluster.cluster import Cluster
from tests.cluster.collectives import measure_collectives

DELAY_MS, RATE = 1.0, "1gbit"
FRAME = 32768
"""Bytes: the switch is a program on the cores that all hosts share. Of 1500 bytes it forwards 0.6 to 1.7 Gbit/s in all,
which four hosts exceed."""
TENSORS = (1152, 128, 73728, 256, 4718592, 512, 5120, 40)
"""Bytes of the tensors of mnist_cnn."""
WITHIN = 0.15
pytestmark = pytest.mark.alone


@pytest.fixture
def slow_network(cluster: Cluster) -> Iterator[Cluster]:
    """Links whose rate and latency are what is measured, not the cores that emulate them."""
    cluster.delay(DELAY_MS, RATE)
    cluster.frames(FRAME)
    yield cluster
    cluster.frames()
    cluster.delay(None)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """On what all hosts share."""
    return tmp_path_factory.mktemp("prediction")


def test_four_hosts_are_predicted_from_three(slow_network: Cluster, shared_folder: Path) -> None:
    folder = shared_folder / "alike"
    folder.mkdir()
    for ranks in (2, 3, 4):
        measure_collectives(slow_network, folder, ranks, TENSORS)
    *known, four = read_collectives(folder)
    assert (four.ranks, four.nodes, len(four.links)) == (4, 4, 6)
    model = fit_communication(known)
    link = model.constants.network
    assert link.per_byte == pytest.approx(8e-9, rel=WITHIN)
    assert link.latency == pytest.approx(DELAY_MS * 1e-3, rel=0.5)
    errors = {rung: error(model.communication(rung, Place(4, 4, 0.0))[0], four, rung) for rung in ("flat", "bucketed")}
    assert all(abs(each) < WITHIN for each in errors.values()), errors


def error(seconds: float, one: Collectives, rung: str) -> float:
    """Of a prediction, in relation to what was measured."""
    sample = one.sample(rung)
    assert sample is not None
    return seconds / sample.median - 1


def test_a_slow_link_is_named(slow_network: Cluster, shared_folder: Path) -> None:
    """Half the rate on one host's way out."""
    folder = shared_folder / "slow-link"
    folder.mkdir()
    shape = "tc qdisc {} dev eth0 root {}"
    slow_network.exec(3, shape.format("add", "tbf rate 500mbit burst 256kb latency 200ms").split())
    try:
        measure_collectives(slow_network, folder, 4, TENSORS[-2:])
    finally:
        slow_network.exec(3, shape.format("del", "").split())
    (one,) = read_collectives(folder)
    (finding,) = slow_links([one])
    assert "node3" in finding
    assert slow_links([replace(one, links=tuple(link for link in one.links if "node3" not in link["hosts"]))]) == []
