"""The replay in SimGrid: its messages by themselves, and simulated times against closed forms."""

from __future__ import annotations

import os
import xml.etree.ElementTree as xml
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from launch.errors import UsageError
from launch.scaling import platforms, replay, simulate, simulator
from launch.scaling.networks import Network
from launch.scaling.schedule import Bucket, BucketSchedule, save
from launch.scaling.simulate import analytic_step
from launch.scaling.simulator import Case, SimulationError

BANDWIDTH, LATENCY, GAMMA, HOP = 1e9, 2e-5, 1e-10, simulator.HOP_S
DEMANDED = "DDP_REQUIRE_SIMGRID"


@pytest.fixture
def simgrid() -> None:
    """Skips the test, or fails where nothing may be skipped."""
    if simulator.find_python() is None:
        if os.environ.get(DEMANDED):
            pytest.fail(f"{DEMANDED} is set, but no Python here has SimGrid")
        pytest.skip("no Python here has SimGrid")


def at_once(num_bytes: int) -> BucketSchedule:
    """All that is to be summed is ready when the backward pass begins, and that takes no time."""
    return BucketSchedule(0.0, (Bucket(num_bytes, 0.0),))


def buckets(backward_s: float, *ready: tuple[float, int]) -> BucketSchedule:
    """Each ready after some seconds, with its bytes."""
    return BucketSchedule(backward_s, tuple(Bucket(size, seconds / backward_s) for seconds, size in ready))


def replay_step(*case: Any, **options: Any) -> float:
    (seconds,) = simulator.simulate([Case(*case, **options)])
    return seconds


def heard(algorithm: str, ranks: int) -> list[set[int]]:
    """Of whom each rank has heard when all messages have been passed on, in any order that the ranks allow."""
    known = [{rank} for rank in range(ranks)]
    mail: dict[tuple[int, int], deque[set[int]]] = defaultdict(deque)

    def run(rank: int) -> Iterator[None]:
        for exchange in replay.ALGORITHMS[algorithm](rank, ranks, 1.0):
            for _ in range(exchange.repeats):
                if exchange.to >= 0:
                    mail[rank, exchange.to].append(set(known[rank]))
                while exchange.source >= 0 and not mail[exchange.source, rank]:
                    yield
                if exchange.source >= 0:
                    known[rank] |= mail[exchange.source, rank].popleft()

    left = [run(rank) for rank in range(ranks)]
    for _ in range(10 * ranks):
        left = [each for each in left if next(each, "done") != "done"]
    assert not left, "some ranks wait for ever"
    assert not any(mail.values()), "some messages are never received"
    return known


@pytest.mark.parametrize("algorithm", replay.ALGORITHMS)
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5, 6, 7, 8, 12, 16])
def test_everybody_hears_of_everybody_and_nobody_waits_for_ever(algorithm: str, ranks: int) -> None:
    assert heard(algorithm, ranks) == [set(range(ranks))] * ranks


@pytest.mark.parametrize("algorithm", ["halving", "ring"])
@pytest.mark.parametrize("ranks", [2, 4, 16])
def test_each_rank_sends_no_more_bytes_than_any_allreduce_must(algorithm: str, ranks: int) -> None:
    for rank in range(ranks):
        exchanges = list(replay.ALGORITHMS[algorithm](rank, ranks, 960.0))
        sent = sum(each.num_bytes * each.repeats for each in exchanges)
        assert sent == pytest.approx(2 * (ranks - 1) / ranks * 960)
        added = sum(each.num_bytes * each.repeats for each in exchanges if each.is_added)
        assert added == pytest.approx((ranks - 1) / ranks * 960)


@pytest.mark.parametrize("topology", platforms.TOPOLOGIES)
@pytest.mark.parametrize("ranks", [1, 2, 3, 16, 17, 64, 512, 1000])
def test_a_platform_has_a_host_for_each_rank(topology: str, ranks: int) -> None:
    cluster = xml.fromstring(platforms.platform(topology, ranks, BANDWIDTH, HOP)).find("cluster")
    assert cluster is not None
    last = int(cluster.attrib["radical"].removeprefix("0-"))
    assert ranks <= last + 1 <= max(16, 2.3 * ranks)
    assert cluster.attrib["bw"] == "1000000000.0Bps"
    parts = [part.split(",") for part in cluster.attrib["topo_parameters"].split(";")]
    sizes = parts[1] if cluster.attrib["topology"] == "FAT_TREE" else [part[0] for part in parts]
    product = 1
    for size in sizes:
        product *= int(size)
    assert product == last + 1


def test_the_analytic_model_is_the_textbooks() -> None:
    ranks, n = 8, 1 << 20
    step = analytic_step(at_once(n), ranks, BANDWIDTH, LATENCY, "halving", GAMMA)
    assert step == pytest.approx(6 * LATENCY + 7 / 8 * n * (2 / BANDWIDTH + GAMMA))
    step = analytic_step(at_once(n), ranks, BANDWIDTH, LATENCY, "ring", GAMMA)
    assert step == pytest.approx(14 * (LATENCY + n / 8 / BANDWIDTH) + 7 / 8 * n * GAMMA)


@pytest.mark.parametrize("algorithm", simulate.ANALYTIC)
@pytest.mark.parametrize("ranks", [1, 2, 6, 8, 12, 16])
def test_the_messages_are_those_of_the_analytic_model(algorithm: str, ranks: int) -> None:
    """The rank that has most to do does what the model has on its critical path.

    Where an odd number of ranks folds (3, 5, 7), the model lets two messages meet on a link, which here wait in turn.
    """
    of_ranks = [list(replay.ALGORITHMS[algorithm](rank, ranks, 960.0)) for rank in range(ranks)]
    rounds = simulate.ANALYTIC[algorithm](ranks, 960.0)
    assert max(sum(each.repeats for each in of_rank) for of_rank in of_ranks) == sum(each.times for each in rounds)
    most = max(sum(each.num_bytes * each.repeats for each in of_rank) for of_rank in of_ranks)
    assert most == pytest.approx(sum(each.sent * each.times for each in rounds))
    added = max(sum(each.num_bytes * each.repeats for each in of_rank if each.is_added) for of_rank in of_ranks)
    assert added == pytest.approx(sum(each.added * each.times for each in rounds))


def test_a_bucket_waits_until_it_is_ready_and_for_the_one_before() -> None:
    # On 2 ranks a ring of 10 MB takes 10 ms: 2 to 12 ms, 12 to 22 ms, and, after a gap, 30 to 40 ms.
    ready = (0.002, 10_000_000), (0.005, 10_000_000), (0.03, 10_000_000)
    assert analytic_step(buckets(0.033, *ready), 2, BANDWIDTH, 0.0, "ring") == pytest.approx(0.007)
    assert analytic_step(buckets(0.1, *ready), 2, BANDWIDTH, 0.0, "ring") == 0.0


@pytest.mark.usefixtures("simgrid")
class TestSimGrid:
    @pytest.mark.parametrize("topology", platforms.TOPOLOGIES)
    def test_a_message_between_two_hosts_takes_latency_and_bytes(self, topology: str) -> None:
        for num_bytes in (0, 1000, 10_000_000):
            seconds = replay_step(at_once(num_bytes), 2, BANDWIDTH, LATENCY, topology, "doubling")
            assert seconds == pytest.approx(LATENCY + num_bytes / BANDWIDTH, rel=1e-6)

    @pytest.mark.parametrize("algorithm", simulate.ANALYTIC)
    @pytest.mark.parametrize("ranks", [1, 4, 6, 16])
    def test_on_one_switch_it_is_the_analytic_model(self, algorithm: str, ranks: int) -> None:
        schedule = buckets(0.01, (0.001, 80_000), (0.0011, 1_600_000), (0.01, 3_200_000))
        link = BANDWIDTH, LATENCY
        simulated = replay_step(schedule, ranks, *link, "fat tree", algorithm, gamma=GAMMA)
        assert simulated == pytest.approx(analytic_step(schedule, ranks, *link, algorithm, GAMMA), rel=1e-4)

    def test_the_rounds_of_a_ring_that_are_not_simulated_take_as_long(self) -> None:
        for topology in platforms.TOPOLOGIES:
            step = at_once(3_200_000), 32, BANDWIDTH, LATENCY, topology, "ring"
            whole = replay_step(*step, gamma=GAMMA, most_rounds=1000)
            assert replay_step(*step, gamma=GAMMA) == pytest.approx(whole, rel=1e-3)

    def test_hosts_of_a_tapered_tree_share_the_links_between_switches(self) -> None:
        # Rounds 1, 2, 4, 8 stay in a switch; in the last one 16 hosts share 4 links, and messages have 2 links more.
        n = 1_000_000
        seconds = replay_step(at_once(n), 32, BANDWIDTH, LATENCY, "fat tree, tapered 4:1", "doubling")
        assert seconds == pytest.approx(5 * LATENCY + 2 * HOP + (4 + 4) * n / BANDWIDTH, rel=1e-6)
        seconds = replay_step(at_once(n), 32, BANDWIDTH, LATENCY, "fat tree", "doubling")
        assert seconds == pytest.approx(5 * LATENCY + 2 * HOP + 5 * n / BANDWIDTH, rel=1e-6)

    def test_a_table_of_both(self) -> None:
        network = Network("tested", 8.0, 20.0)
        rows = simulate.compare(at_once(1_000_000), [network], [16, 32])
        assert len(rows) == 2 * 2 * len(platforms.TOPOLOGIES)
        for row in rows:
            assert row.network == "tested"
            assert -0.001 < row.difference < 1
        alike = [row for row in rows if row.ranks == 16 and row.topology.startswith("fat tree")]
        assert len(alike) == 4
        assert all(abs(row.difference) < 1e-4 for row in alike)

    def test_what_simgrid_says_is_passed_on(self) -> None:
        with pytest.raises(SimulationError, match="for 2 ranks on a fat tree, failed: "):
            replay_step(at_once(1), 2, -1.0, LATENCY, "fat tree", "ring")


def test_without_simgrid_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulator, "find_python", lambda: None)
    with pytest.raises(SimulationError, match=r"SimGrid is not installed.*apt-get install python3-simgrid"):
        replay_step(at_once(1), 2, BANDWIDTH, LATENCY, "fat tree", "ring")


def test_the_report_has_a_row_for_each_network_algorithm_and_ranks(tmp_path: Path) -> None:
    rows = [
        simulate.Comparison("1 Gbit/s", "halving", 16, "fat tree", 10.0, 10.1),
        simulate.Comparison("1 Gbit/s", "halving", 16, "dragonfly", 10.0, 13.0),
        simulate.Comparison("1 Gbit/s", "ring", 64, "fat tree", 0.0, 1.0),
    ]
    simulate.write_comparison(tmp_path, rows)
    assert simulate.read_comparison(tmp_path) == rows
    text = simulate.simulation_section(tmp_path)
    assert "on a fat tree +1 % to +1 %; on a dragonfly +30 % to +30 %" in text
    assert "rounds and links, with buckets sent one at a time" in text
    assert "| 1 Gbit/s | halving | 16 | 10 | 10.1 (+1 %) | 13 (+30 %) |" in text
    assert "| 1 Gbit/s | ring | 64 | 0 | 1 | - |" in text


@pytest.mark.parametrize("text", ["", "3", '[{"ranks": 2}]'])
def test_a_file_that_is_no_comparison_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / simulate.RESULTS).write_text(text)
    with pytest.raises(UsageError, match=r"simulation\.json is no comparison.*delete it"):
        simulate.simulation_section(tmp_path)


def test_without_simulation_the_report_has_one_line_only_where_simgrid_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulate, "find_python", lambda: None)
    assert simulate.simulation_section(tmp_path) == simulator.MISSING + "\n"
    monkeypatch.setattr(simulate, "find_python", lambda: "python")
    assert simulate.simulation_section(tmp_path) == ""


def test_a_study_is_simulated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def simulated(cases: Sequence[Case]) -> list[float]:
        asked.extend(case.ranks for case in cases)
        return [0.5] * len(cases)

    monkeypatch.setattr(simulate, "find_python", lambda: "python")
    monkeypatch.setattr(simulate, "simulate", simulated)
    said: list[str] = []
    simulate.simulate_study(tmp_path, said.append)
    assert not said + asked  # there is no schedule
    save(buckets(0.5, (0.1, 1000)), tmp_path / "schedule-threads-1.json")
    simulate.simulate_study(tmp_path, said.append)
    assert sorted(set(asked)) == list(simulate.RANKS)
    assert len(said) == len(simulate.RANKS)
    rows = simulate.read_comparison(tmp_path)
    assert {(row.network, row.simulated_ms) for row in rows} == {("10 Gbit/s", 500.0)}
    asked.clear()
    simulate.simulate_study(tmp_path, said.append)
    assert asked == []


def test_a_simulation_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Sequence[Case]) -> list[float]:
        raise SimulationError("SimGrid failed")

    monkeypatch.setattr(simulate, "find_python", lambda: "python")
    monkeypatch.setattr(simulate, "simulate", fail)
    save(buckets(0.5, (0.1, 1000)), tmp_path / "schedule-threads-1.json")
    said: list[str] = []
    simulate.simulate_study(tmp_path, said.append)
    assert said[-1] == "warning: SimGrid failed: the model is not checked by simulation"
    assert simulate.read_comparison(tmp_path) == []
